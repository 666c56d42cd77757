"""`pointsman trace` on a real node, with real connections: what it says is what the kernel does."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES
from pointsman.lab.traffic import Answered, connect
from support.agents import Supervised, seconds_until, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP, VIP6, NODE_PORT = "10.96.0.80", "fd00:10:96::80", 30080
CLIENT, CLIENT6 = "203.0.113.1", "2001:db8:203::1"


@pytest.fixture(params=["nftables", "iptables"])
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def node(ground: Ground, tmp_path: Path, mode: str) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        config = {
            "apiVersion": "pointsman.dev/v1alpha1",
            "kind": "ProxyConfig",
            "metadata": {"name": "chosen"},
            "spec": {"mode": mode, "priority": 1, "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"]},
        }
        made.write("config.json", config)
        made.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *ground.pods))
        made.start()
        yield made


def trace(node: Supervised, destination: str, *words: str, source: str = CLIENT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(node, destination, "-o", "json", *words, source=source))
    return found


def said(node: Supervised, destination: str, *words: str, source: str = CLIENT) -> str:
    options = ("--from", source, "--to", destination, "--node-name", "node-1", "-f", str(node.manifests))
    return node.run("trace", *options, *words)


def held_connection(node: Supervised, address: str, port: int = 80) -> socket.socket:
    """Connect from the client outside, and keep the connection open."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = node.ground.client.namespace.socket(family, socket.SOCK_STREAM)
    made.settimeout(5)
    made.connect((address, port))
    return made


def server_of(node: Supervised, address: str) -> str:
    return next(pod.name for pod in node.ground.pods if address in pod.addresses)


@pytest.mark.parametrize(
    ("address", "source", "destination"),
    [(VIP, CLIENT, f"{VIP}:80"), (VIP6, CLIENT6, f"[{VIP6}]:80"), ("172.16.0.1", CLIENT, f"172.16.0.1:{NODE_PORT}")],
)
def test_a_connection_is_traced_to_the_backend_that_has_it(
    node: Supervised, mode: str, address: str, source: str, destination: str
) -> None:
    before = trace(node, destination, source=source)
    assert before["explanation"]["verdict"] == "forwarded"
    assert (before["connections"], before["differences"]) == ([], [])
    shared = mode == "iptables" and address not in {VIP, VIP6}
    assert [f"are counted at {VIP}:80/tcp" in note for note in before["notes"]] == [True] * shared
    with closing(held_connection(node, address, int(destination.rpartition(":")[2]))) as held:
        found = trace(node, destination, source=source)
        port = held.getsockname()[1]
    (connection,) = found["connections"]
    assert (connection["clientPort"], connection["state"]) == (port, "ESTABLISHED")
    assert connection["answered"]
    assert server_of(node, connection["answering"][0])
    masqueraded = found["explanation"]["masqueraded"] == "yes"
    assert masqueraded, "a client from outside is no pod"
    assert connection["seenAs"][0] != source
    (kernel,) = found["kernel"]
    assert {backend["address"] for backend in kernel["backends"]} >= {connection["answering"][0]}
    assert len(kernel["backends"]) == 3


@pytest.mark.parametrize("mode", ["userspace"])
def test_the_proxy_in_the_agent_stands_between_client_and_backend(node: Supervised) -> None:
    with closing(held_connection(node, VIP)):

        def counted() -> bool:
            (kernel,) = trace(node, f"{VIP}:80")["kernel"]
            return sum(backend["connections"] for backend in kernel["backends"]) == 1

        seconds_until(counted)
        found = trace(node, f"{VIP}:80")
        text = said(node, f"{VIP}:80")
    (connection,) = found["connections"]
    assert connection["answering"][0] == PROXY_ADDRESSES[4]
    assert [backend["weight"] for backend in found["kernel"][0]["backends"]] == [1, 1, 1]
    assert found["differences"] == []
    assert f"  ip pointsman-userspace ports: {VIP} . tcp . 80 : {PROXY_ADDRESSES[4]} . " in text
    assert "(the proxy in the agent)  ESTABLISHED" in text
    at_port = said(node, f"172.16.0.1:{NODE_PORT}")
    assert f"  ip pointsman-userspace node-port-ports: tcp . {NODE_PORT} : {PROXY_ADDRESSES[4]} . " in at_port
    assert "note        mode userspace has its backends in the agent's process" in text


@pytest.mark.parametrize("mode", ["userspace"])
def test_a_node_port_on_loopback_is_traced_where_it_answers(node: Supervised) -> None:
    silent = said(node, f"127.0.0.1:{NODE_PORT}", source="127.0.0.1")
    assert "verdict     untouched" in silent
    assert 'without "localhost" in spec.nodePortAddresses' in silent
    spec = {"mode": "userspace", "priority": 1, "nodePortAddresses": ["primary", "localhost"]}
    head = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": "chosen"}}
    node.put("config.json", {**head, "spec": spec})
    assert isinstance(connect(node.ground.node, "127.0.0.1", NODE_PORT), Answered)
    text = said(node, f"127.0.0.1:{NODE_PORT}", source="127.0.0.1")
    assert "verdict     forwarded" in text
    assert "masquerade  yes: the proxy in the agent answers" in text
    assert f"  ip pointsman-userspace node-port-ports: tcp . {NODE_PORT} : {PROXY_ADDRESSES[4]} . " in text
    assert " (the proxy in the agent)  " in text


def test_counters_count(node: Supervised, mode: str) -> None:
    for _ in range(4):
        assert isinstance(connect(node.ground.client, VIP, 80), Answered)

    def counted() -> bool:
        (kernel,) = trace(node, f"{VIP}:80")["kernel"]
        connections = [backend["connections"] for backend in kernel["backends"]]
        return (kernel["connections"], sum(connections)) == (4, 4)

    seconds_until(counted)
    (kernel,) = trace(node, f"172.16.0.1:{NODE_PORT}")["kernel"]
    assert kernel["connections"] == 0
    expected = {None} if mode == "iptables" else {0}
    assert {backend["connections"] for backend in kernel["backends"]} == expected, "chains are shared in iptables"
    node.agent.stop()
    assert trace(node, f"{VIP}:80")["mode"] == mode
    if mode == "nftables":
        assert counted(), "the kernel itself is asked where no agent is"


def test_udp_flows_and_other_clients_are_told_apart(node: Supervised) -> None:
    pods = node.ground.pods
    node.put("dns.json", service("dns", "10.96.0.10", protocols=("udp",)), *slices("dns", pods[0], protocols=("udp",)))
    assert isinstance(connect(node.ground.client, "10.96.0.10", 80, "udp"), Answered)
    assert isinstance(connect(pods[1], "10.96.0.10", 80, "udp"), Answered)
    (flow,) = trace(node, "10.96.0.10:80/udp")["connections"]
    assert (flow["state"], flow["answering"][0]) == ("", pods[0].address(4))
    (flow,) = trace(node, "10.96.0.10:80/udp", source="192.168.1.2")["connections"]
    assert flow["seenAs"][0] == "192.168.1.2", "pods keep their address"
    assert trace(node, "10.96.0.10:80/udp", source="192.168.2.3")["connections"] == []


def test_what_the_kernel_lacks_is_told(node: Supervised) -> None:
    text = said(node, f"{VIP}:80")
    assert f"  {VIP}:80/tcp  0 connections so far" in text.splitlines()
    assert "difference" not in text
    node.agent.kill()
    node.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *node.ground.pods[:2]))
    node.write("new.json", service("new", "10.96.0.81"), *slices("new", *node.ground.pods))
    text = said(node, f"{VIP}:80")
    assert f"difference  {VIP}:80/tcp: the plan has 2 backends, the kernel 3: it " in text
    assert "192.168.2.3:80" in text.rpartition("difference")[2]
    assert text.rstrip().endswith("run `pointsman diff`")
    text = said(node, "10.96.0.81:80")
    assert "  no frontend there\n" in text
    assert "difference  the plan has 10.96.0.81:80/tcp for test/new:tcp, the kernel has not" in text


def test_the_kernels_own_words_are_there(node: Supervised, mode: str) -> None:
    found = trace(node, f"{VIP}:80")
    if mode == "nftables":
        assert any(line.startswith(f"ip pointsman services: {VIP} . tcp . 80 : ") for line in found["raw"])
        assert sum(line.startswith(f"ip pointsman endpoints: {VIP} . tcp . 80 . ") for line in found["raw"]) == 3
    else:
        assert any(line.startswith(f"iptables -t nat -A KUBE-SERVICES -d {VIP}/32 -p tcp ") for line in found["raw"])
        assert sum("-j DNAT --to-destination" in line for line in found["raw"]) == 3


def test_a_node_where_nothing_is_in_force(node: Supervised) -> None:
    node.agent.stop()
    node.run("cleanup")
    text = said(node, f"{VIP}:80")
    assert "no agent has run here" in text
    assert "no frontend there" in text
