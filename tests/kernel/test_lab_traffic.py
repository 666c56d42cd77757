"""The lab's clients and servers, with hand-made nft rules as the ground truth of what has to come out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Answered, Held, Load, Refused, TimedOut, connect, fetch, open_socket, spread

if TYPE_CHECKING:
    from pointsman.lab.network import Host
    from pointsman.model.plan import Transport

    from .conftest import Ground

PROTOCOLS: tuple[Transport, ...] = ("tcp", "udp", "sctp")
VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}

everything = pytest.mark.parametrize("protocol", PROTOCOLS)
both_families = pytest.mark.parametrize("family", [4, 6])
pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6", "SCTP packets")


def load_rules(node: Host, family: int, rules: str) -> None:
    """Load rules into three chains: nat before routing (forwarded and own traffic), nat after it, and a filter."""
    ip = {4: "ip", 6: "ip6"}[family]
    node.namespace.run(
        "nft",
        "-f",
        "-",
        stdin=f"""
        add table {ip} truth
        delete table {ip} truth
        table {ip} truth {{
            chain services {{ {rules} }}
            chain pre {{ type nat hook prerouting priority -100; jump services; }}
            chain out {{ type nat hook output priority -100; jump services; }}
            chain post {{ type nat hook postrouting priority 100; ct status dnat ct mark 7 masquerade; }}
            chain refuse {{ {ip} daddr {VIP[family]} th dport 9 reject; {ip} daddr {VIP[family]} th dport 10 drop; }}
            chain forward {{ type filter hook forward priority 0; jump refuse; }}
            chain output {{ type filter hook output priority 0; jump refuse; }}
        }}""",
    )


def dnat(family: int, protocol: str, *backends: Host, masquerade: bool = False) -> str:
    ip = {4: "ip", 6: "ip6"}[family]
    choice = ", ".join(f"{index} : {backend.address(family)}" for index, backend in enumerate(backends))
    mark = "ct mark set 7 " if masquerade else ""
    key = f"numgen random mod {len(backends)} map {{ {choice} }}"
    wrapped = f"{key} : 80"
    return f"{ip} daddr {VIP[family]} meta l4proto {protocol} th dport 8080 {mark}dnat to {wrapped};"


@everything
@both_families
def test_every_host_reaches_every_pod(ground: Ground, protocol: Transport, family: int) -> None:
    for origin in (ground.client, ground.node, ground.other, *ground.pods):
        for pod in ground.pods:
            outcome = connect(origin, pod.address(family), 80, protocol)
            assert isinstance(outcome, Answered)
            assert (outcome.server, outcome.at) == (pod.name, (pod.address(family), 80))
            assert outcome.seen[0] == (pod if origin is pod else origin).address(family)


@everything
@both_families
def test_dnat_is_answered_by_its_backends_with_the_source_kept(
    ground: Ground, protocol: Transport, family: int
) -> None:
    # The way back of a kept source has to lead through the node: the client's backends are on it.
    for origin, backends in ((ground.client, ground.pods[:2]), (ground.node, ground.pods)):
        load_rules(ground.node, family, dnat(family, protocol, *backends))
        seen = spread(origin, VIP[family], 8080, protocol, count=60)
        assert not seen.failures
        assert seen.servers.keys() == {backend.name for backend in backends}
        assert seen.sources == Counter({origin.address(family): 60})


@everything
@both_families
def test_masquerade_shows_the_node(ground: Ground, protocol: Transport, family: int) -> None:
    load_rules(ground.node, family, dnat(family, protocol, ground.pods[2], masquerade=True))
    outcome = connect(ground.client, VIP[family], 8080, protocol)
    assert isinstance(outcome, Answered)
    assert outcome.server == "web-3"
    assert outcome.seen[0] == ground.node.address(family)


@everything
@both_families
def test_reject_is_refused_and_drop_times_out(ground: Ground, protocol: Transport, family: int) -> None:
    load_rules(ground.node, family, "")
    for origin in (ground.client, ground.node, ground.pods[0]):
        assert connect(origin, VIP[family], 9, protocol) == Refused("connection refused")
        assert connect(origin, VIP[family], 10, protocol, timeout=0.3) == TimedOut()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_without_a_server_is_refused(ground: Ground, protocol: Transport) -> None:
    assert connect(ground.client, ground.pods[0].address(), 81, protocol) == Refused("connection refused")


def test_an_address_that_nobody_has_is_refused(ground: Ground) -> None:
    assert isinstance(connect(ground.client, "198.51.100.1", 80), Refused)


@everything
def test_a_fixed_source_port_is_kept(ground: Ground, protocol: Transport) -> None:
    outcome = connect(ground.client, ground.pods[0].address(), 80, protocol, source_port=40001)
    assert isinstance(outcome, Answered)
    assert outcome.seen == (ground.client.address(), 40001)


def test_a_second_address_can_be_the_source(ground: Ground) -> None:
    ground.network.add_address(ground.client, "203.0.113.77")
    outcome = connect(ground.client, ground.pods[0].address(), 80, source="203.0.113.77")
    assert isinstance(outcome, Answered)
    assert outcome.seen[0] == "203.0.113.77"


def test_held_connections_live_until_their_server_ends(ground: Ground) -> None:
    load_rules(ground.node, 4, dnat(4, "tcp", *ground.pods[:2]))
    with Held(ground.client, VIP[4], 8080, count=60) as held:
        load_rules(ground.node, 4, "")
        assert held.broken() == []
        (ended,) = [
            server
            for server in ground.servers.running()
            if (server.name, server.protocol, server.address) == ("web-2", "tcp", ground.pods[1].address())
        ]
        ground.servers.stop(ended)
        assert held.broken() == ["web-2"] * held.servers.count("web-2") != []


def test_held_connections_break_when_their_pod_is_gone(ground: Ground) -> None:
    with Held(ground.client, ground.pods[2].address(), 80, count=5) as held:
        assert held.broken() == []
        ground.network.remove(ground.pods[2])
        assert held.broken(timeout=0.5) == ["web-3"] * 5


def test_a_load_counts_what_fails_and_when(ground: Ground) -> None:
    load_rules(ground.node, 4, dnat(4, "tcp", *ground.pods[:2]))
    with Load(ground.client, VIP[4], 8080) as load:
        load.wait(50)
        assert not load.spread().failures
        load_rules(ground.node, 4, f"ip daddr {VIP[4]} tcp dport 8080 dnat to {ground.pods[0].address()}:81;")
        load.wait(50)
        load_rules(ground.node, 4, dnat(4, "tcp", ground.pods[1]))
        load.wait(2)
        mended = load.samples[-1].begun
        load.wait(20)
    assert set(load.spread().failures) == {Refused("connection refused")}
    after = load.spread(since=mended)
    assert not after.failures
    assert after.servers.keys() == {"web-2"}


def test_a_page_is_fetched_from_a_server(ground: Ground) -> None:
    status, body = fetch(ground.client, ground.pods[0].address(6), 80)
    assert status == 200
    assert b'"server":"web-1"' in body


def test_a_udp_client_can_keep_its_socket(ground: Ground) -> None:
    with open_socket(ground.client, VIP[4], "udp", source_port=40002) as sock:
        sock.settimeout(1)
        sock.connect((ground.pods[0].address(), 80))
        for _ in range(3):
            sock.send(b"?")
            assert b"web-1" in sock.recv(1000)
