"""`pointsman diff` and `pointsman trace` in mode ipvs: differences are named, connections found in IPVS's table."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from support.agents import Supervised, seconds_until, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernel.conftest import Ground

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(900)]

VIP, VIP6, NODE_PORT = "10.96.0.80", "fd00:10:96::80", 30080
NODE = "172.16.0.1"
CLIENT, CLIENT6 = "203.0.113.1", "2001:db8:203::1"
PATIENCE = 240.0
"""Seconds; the guest is emulated."""
CONFIG = {
    "apiVersion": "pointsman.dev/v1alpha1",
    "kind": "ProxyConfig",
    "metadata": {"name": "wanted"},
    "spec": {"priority": 1, "mode": "ipvs", "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"]},
}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    subprocess.run(["modprobe", "-a", "ip_vs", "ip_vs_rr"], check=True)
    with supervised(ground, tmp_path) as made:
        local = service("local", "10.96.0.81", node_port=30081)
        local["spec"] |= {"externalTrafficPolicy": "Local"}
        made.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *ground.pods))
        made.write("local.json", local, *slices("local", *ground.pods))
        made.write("config.json", CONFIG)
        start(made)
        yield made


def start(node: Supervised) -> None:
    node.agent.start()
    node.agent.daemon.wait_until(lambda: node.agent.healthz()[0] == 200, "is not ready", patience=PATIENCE)


def diff(node: Supervised) -> subprocess.CompletedProcess[str]:
    words = ("diff", "--node-name", "node-1", "-f", str(node.manifests))
    with node.ground.node.namespace.entered():
        return subprocess.run((sys.executable, "-m", "pointsman", *words), capture_output=True, text=True, check=False)


def test_servers_that_go_are_named_until_they_are_there_again(node: Supervised) -> None:
    found = diff(node)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
    node.agent.kill()
    ipvsadm = node.ground.node.namespace.run
    ipvsadm("ipvsadm", "-d", "-t", f"{VIP}:80", "-r", "192.168.1.2:80")
    ipvsadm("ipvsadm", "-D", "-t", f"{NODE}:{NODE_PORT}")
    assert diff(node).stdout.splitlines() == [
        "Service test/web:tcp",
        f"  {VIP}:80/tcp",
        "-   -> 192.168.1.2:80",
        f"  {NODE}:{NODE_PORT}/tcp",
        *(f"-   -> {pod}:80" for pod in ("192.168.1.1", "192.168.1.2", "192.168.2.3")),
    ]
    start(node)
    seconds_until(lambda: not diff(node).stdout, limit=PATIENCE)


def trace(node: Supervised, source: str, destination: str, *words: str) -> str:
    options = ("--from", source, "--to", destination, "--node-name", "node-1", "-f", str(node.manifests))
    return node.run("trace", *options, *words)


def test_a_connection_is_traced_to_the_real_server_that_has_it(node: Supervised) -> None:
    pods = {(address, 80) for pod in node.ground.pods for address in pod.addresses}
    for address, port, source in ((VIP, 80, CLIENT), (VIP6, 80, CLIENT6), (NODE, NODE_PORT, CLIENT)):
        destination = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with closing(node.ground.client.namespace.socket(family, socket.SOCK_STREAM)) as held:
            held.settimeout(60)
            held.connect((address, port))
            client_port = held.getsockname()[1]
            found: dict[str, Any] = json.loads(trace(node, source, destination, "-o", "json"))
        assert (found["mode"], found["explanation"]["verdict"], found["differences"]) == ("ipvs", "forwarded", [])
        (kernel,) = found["kernel"]
        assert {(each["address"], each["port"]) for each in kernel["backends"]} <= pods
        assert len(kernel["backends"]) == 3
        answering = {tuple(each["answering"]) for each in found["connections"] if each["clientPort"] == client_port}
        assert len(answering) == 1, "connection tracking and IPVS say the same"
        assert answering <= pods
    text = trace(node, CLIENT, f"{VIP}:80")
    assert f"ipvsadm -A -t {VIP}:80 -s rr" in text
    assert text.count(f"ipvsadm -a -t {VIP}:80 ") == 3
