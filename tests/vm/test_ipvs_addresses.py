"""The addresses of the mode `ipvs`: what answers there and what does not, who asks for them, and packets' marks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from pointsman.api.proxyconfig import Ipvs as IpvsConfig
from pointsman.dataplane.sysctl import SYSCTL_ROOT, apply_ipvs
from pointsman.lab.connections import PATIENCE, Answered, Refused, TimedOut, connect
from pointsman.lab.namespaces import Namespace, batch, create, new_prefix, remove
from pointsman.model.plan import Answer
from support.proxied import SETTINGS, answer, pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.connections import Outcome
    from pointsman.lab.network import Host
    from pointsman.model.plan import Family, Frontend, Transport
    from support.ipvs import IpvsNode

FAMILIES: Final = pytest.mark.parametrize("family", [4, 6])
SILENCE: Final = 0.5
"""Seconds of silence that count as dropped, where that is what shall be."""
UNALLOCATED: Final = {4: "10.97.0.1", 6: "fd00:10:96::ffff"}
HOST_PORT: Final = 8123
ETH_P_ARP: Final = 0x0806
ARP: Final = ("net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce")
FOREIGN_MARKS: Final = """
table inet foreign {{
    chain prerouting {{ type filter hook prerouting priority mangle; {ip} saddr {pod} meta mark set 0x1; }}
    chain output {{ type route hook output priority mangle; {ip} saddr {node} th dport 80 meta mark set 0x1; }}
    counter kept {{ }}
    counter lost {{ }}
    chain postrouting {{
        type filter hook postrouting priority 0;
        {ip} saddr {{ {pod}, {node} }} th dport 9000-9100 meta mark 0x1 counter name kept accept
        {ip} saddr {{ {pod}, {node} }} th dport 9000-9100 counter name lost
    }}
}}
"""


def origins(node: IpvsNode) -> tuple[Host, ...]:
    return node.ground.client, node.ground.pods[2], node.ground.pods[0], node.ground.node


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_no_port_of_the_host_answers_at_an_address_of_a_service(
    node: IpvsNode, protocol: Transport, family: Family
) -> None:
    own, external = node.vip(protocol, family), node.external_ip(protocol, family)
    found = answer(node.endpoints(2, protocol, family), scheduler="rr")
    node.put({own: msgspec.structs.replace(found, exclusive=True), external: found})
    everywhere = node.ground.servers.start(
        node.ground.node, HOST_PORT, protocol, address={4: "0.0.0.0", 6: "::"}[family]
    )
    try:
        for origin in origins(node):

            def ask(
                address: str, port: int = HOST_PORT, origin: Host = origin, timeout: float | None = None
            ) -> Outcome:
                return connect(origin, address, port, protocol, timeout=timeout)

            there = ask(node.ground.node.address(family))
            assert isinstance(there, Answered), "the server is there, at the node's own address"
            for address in (own.address, external.address):
                assert isinstance(ask(address, 80), Answered), (origin.name, address)
                outcome = ask(address)
                assert isinstance(outcome, Refused), (origin.name, address, outcome)
            outcome = ask(UNALLOCATED[family], timeout=SILENCE)
            assert outcome == TimedOut(), (origin.name, outcome)
    finally:
        node.ground.servers.stop(everywhere)


@FAMILIES
def test_node_ports_follow_the_nodes_addresses(node: IpvsNode, family: Family) -> None:
    new, bits = {4: ("172.16.9.9", 32), 6: ("fd00:172:16::9:9", 128)}[family]
    ports = [node.node_port(family=family), node.node_port("udp", family)]
    node.put({port: answer(node.endpoints(2, port.protocol, family), scheduler="rr") for port in ports})
    run = node.ground.node.namespace.run
    node.ground.network.route(new, via=node.ground.node)

    def outcomes(timeout: float | None = None) -> list[Outcome]:
        return [connect(node.ground.client, new, port.port, port.protocol, timeout=timeout) for port in ports]

    def wait_for_news() -> None:
        node.wait_for(node.dataplane.disturbed, "the news of an address")  # the kernel may tell from a worker

    assert not node.dataplane.disturbed()
    run("ip", "addr", "add", f"{new}/{bits}", "dev", "eth0", *(("nodad",) if family == 6 else ()))
    try:
        wait_for_news()
        assert node.adopt().refused == {}
        assert all(isinstance(outcome, Answered) for outcome in outcomes())
        later = node.node_port(family=family)
        node.put({later: answer(node.endpoints(1, family=family), scheduler="rr")})
        assert isinstance(connect(node.ground.client, new, later.port), Answered)
    finally:
        run("ip", "addr", "del", f"{new}/{bits}", "dev", "eth0")
    wait_for_news()
    assert node.adopt().refused == {}
    assert not any(isinstance(outcome, Answered) for outcome in outcomes(SILENCE))
    node.tend(SETTINGS.ipvs.graceful_termination + 1)
    assert new not in "\n".join([*node.saved(), node.nft("list", "ruleset"), node.local_routes(family)])
    assert [node.reach(port) for port in (*ports, later)]


def links(node: IpvsNode) -> str:
    return node.ground.node.namespace.run("ip", "-o", "address") + node.ground.node.namespace.run("ip", "-o", "link")


@FAMILIES
def test_no_device_gets_an_address_and_the_node_sends_from_its_own(node: IpvsNode, family: Family) -> None:
    before = links(node)
    frontends = [node.vip(family=family), node.external_ip(family=family)]
    node.put(dict.fromkeys(frontends, answer(node.endpoints(1, family=family), scheduler="rr")))
    assert links(node) == before
    own = node.ground.node.address(family)
    for frontend in frontends:
        outcome = connect(node.ground.node, frontend.address, 80)
        assert isinstance(outcome, Answered)
        assert outcome.seen[0] == own
    # Without a Service in between it is the same address.
    outcome = connect(node.ground.node, node.ground.pods[2].address(family), 80)
    assert isinstance(outcome, Answered)
    assert outcome.seen[0] == own


@FAMILIES
@pytest.mark.parametrize("who", ["nodes", "pods"])
def test_a_network_of_cluster_ips_that_others_live_in_is_not_made_local(
    node: IpvsNode, who: str, family: Family
) -> None:
    network = {
        ("nodes", 4): "172.16.0.0/12",
        ("nodes", 6): "fd00:172:16::/48",
        ("pods", 4): "192.168.0.0/16",
        ("pods", 6): "fd00:192:168::/48",
    }[who, family]
    address = {
        ("nodes", 4): "172.20.0.1",
        ("nodes", 6): "fd00:172:16:20::1",
        ("pods", 4): "192.168.200.1",
        ("pods", 6): "fd00:192:168:200::1",
    }[who, family]
    node.ground.network.route(address, via=node.ground.node)
    node.set(msgspec.structs.replace(SETTINGS, service_cidrs=(*SETTINGS.service_cidrs, network)))
    frontend = msgspec.structs.replace(node.vip(family=family), address=address)
    found = msgspec.structs.replace(answer(node.endpoints(2, family=family), scheduler="rr"), exclusive=True)
    node.put({frontend: found})
    routes = node.local_routes(family)
    assert f"local {network} " not in routes
    assert f"local {address} " in routes
    assert {node.reach(frontend) for _ in range(2)} == {"a", "b"}
    other, pod = node.ground.other, node.ground.pods[2]
    listener = node.ground.servers.start(other, HOST_PORT, address=other.address(family))
    try:
        for host, port in ((other, HOST_PORT), (pod, 80)):
            outcome = connect(node.ground.node, host.address(family), port)
            assert isinstance(outcome, Answered), host.name
    finally:
        node.ground.servers.stop(listener)


class Neighbour(msgspec.Struct):
    """A host beside the node, on a bridge.

    Attributes:
        namespace: where it lives.
        packets: hears and sends ARP there.
    """

    namespace: Namespace
    packets: socket.socket

    def asks_for(self, address: str, patience: float = PATIENCE) -> bool:
        """Ask by ARP who has an address; tell whether anybody says so."""
        mac, own = self.packets.getsockname()[4], socket.inet_aton("192.0.2.2")
        ethernet = b"\xff" * 6 + mac + struct.pack("!H", ETH_P_ARP)
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + socket.inet_aton(address)
        self.packets.send(ethernet + request)
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            self.packets.settimeout(left)
            with contextlib.suppress(TimeoutError):
                reply = self.packets.recv(2048)[14:]
                if reply[6:8] == b"\0\2" and reply[14:18] == socket.inet_aton(address):
                    return True
        return False


@pytest.fixture
def neighbour(node: IpvsNode) -> Iterator[Neighbour]:
    """192.0.2.2 beside the node, which is 192.0.2.1 there."""
    prefix = new_prefix()
    (made,) = create([f"{prefix}beside"])
    here = node.ground.node.namespace
    try:
        with here.entered():
            batch(
                [
                    "link add bridge0 type bridge",
                    "link set bridge0 up",
                    "addr add 192.0.2.1/24 dev bridge0",
                    f"link add beside0 type veth peer name eth0 netns {made.name}",
                    "link set beside0 master bridge0 up",
                ]
            )
        with made.entered():
            batch(["link set eth0 up", "addr add 192.0.2.2/24 dev eth0"])
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
            packets.bind(("eth0", ETH_P_ARP))
        with packets:
            found = Neighbour(made, packets)
            node.wait_for(lambda: found.asks_for("192.0.2.1", SILENCE), "the bridge")
            yield found
    finally:
        with here.entered():
            batch(["link del beside0", "link del bridge0"])
        remove([made.name])


def test_strict_arp_keeps_the_node_from_answering_for_services(node: IpvsNode, neighbour: Neighbour) -> None:
    frontends = [node.vip(), node.external_ip()]
    node.adopt()  # the bridge has brought an address
    node.put(dict.fromkeys(frontends, answer(node.endpoints(1), scheduler="rr")))
    here = node.ground.node.namespace
    before = {name: here.run("cat", f"/proc/sys/{name}") for name in ARP}
    assert [neighbour.asks_for(frontend.address) for frontend in frontends] == [True, True]
    with here.entered():
        assert apply_ipvs(IpvsConfig(strict_arp=True), SYSCTL_ROOT, os.uname().release) == ()
    try:
        assert [neighbour.asks_for(frontend.address, SILENCE) for frontend in frontends] == [False, False]
        assert not neighbour.asks_for(UNALLOCATED[4], SILENCE)
        assert neighbour.asks_for("192.0.2.1"), "its own address"
        assert [node.reach(frontend) for frontend in frontends] == ["a", "a"]
    finally:
        here.sysctl(before)
    assert neighbour.asks_for(frontends[0].address)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@FAMILIES
def test_a_foreign_mark_survives_where_clients_inside_have_another_pool(
    node: IpvsNode, protocol: Transport, family: Family
) -> None:
    frontend: Frontend = node.external_ip(protocol, family)
    inside, outside = node.endpoints(4, protocol, family)[1:3], node.endpoints(1, protocol, family)
    node.put({frontend: Answer("a/b", "rr", pool(inside), outside=pool(outside))})
    pod, here = node.ground.pods[1], node.ground.node
    ip = {4: "ip", 6: "ip6"}[family]
    marks = FOREIGN_MARKS.format(ip=ip, pod=pod.address(family), node=here.address(family))
    node.nft("-f", "-", stdin=marks)
    try:
        for origin in (pod, here):
            outcomes = [connect(origin, frontend.address, 80, protocol, source_port=24_000 + n) for n in range(4)]
            assert {getattr(outcome, "server", outcome) for outcome in outcomes} == {"b", "c"}, origin.name
            listed = node.nft("list", "counters")
            counted = {name: int(n) for name, n in re.findall(r"counter (kept|lost) \{\s+packets (\d+)", listed)}
            assert counted["kept"] >= 4 * (1 if protocol == "udp" else 3), (origin.name, counted)
            assert counted["lost"] == 0, (origin.name, counted)
            node.nft("reset", "counters")
        assert node.reach(frontend) == "a"
    finally:
        node.nft("delete", "table", "inet", "foreign")
    # Without it, no mark of ours is left either.
    assert {getattr(connect(pod, frontend.address, 80, protocol), "server", "") for _ in range(2)} == {"b", "c"}
