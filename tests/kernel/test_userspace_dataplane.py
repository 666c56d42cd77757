"""The mode `userspace` on a node, with real packets: what upstream's flows do not say."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.userspace import UserspaceDataplane, render
from pointsman.lab.traffic import Answered, Held, Refused, TimedOut, connect
from pointsman.lab.waiting import wait_until
from pointsman.model.plan import Answer, Backend, Plan, Pool
from support.dataplanes import open_dataplane
from support.proxied import SETTINGS, OnGround, answer, give_addresses, node_port, pool, reach, table_held, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground
    from pointsman.lab.network import Host
    from pointsman.model.plan import Family, Transport

pytestmark = pytest.mark.needs("nftables", "connection tracking")

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Proxied(OnGround[UserspaceDataplane]):
    """The ground with the proxy on its node, and its clock."""

    clock: Clock


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    clock = Clock()
    made = Proxied(ground, lambda: open_dataplane(ground.node, "userspace", clock=clock))  # type: ignore[arg-type,return-value]
    made.clock = clock
    made.adopt()
    yield made
    made.dataplane.close()


def verdict(origin: Host, address: str, port: int, protocol: Transport = "tcp") -> type:
    return type(connect(origin, address, port, protocol, timeout=1.3))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_backends_take_turns_for_every_kind_of_client(node: Proxied, family: Family, protocol: Transport) -> None:
    """Pods with an unnumbered device, clients outside, and the node itself; everybody is seen as the node."""
    ground = node.ground
    servers = node.endpoints(3, protocol, family)
    node.put({vip(1, protocol, family): answer(servers, scheduler="rr")})
    order = []
    for origin in (ground.pods[0], ground.client, ground.node):
        outcome = connect(origin, vip(1, protocol, family).address, 80, protocol)
        assert isinstance(outcome, Answered)
        assert outcome.seen[0] == ground.node.address(family) or origin is ground.pods[0]
        order.append(outcome.server)
    assert order == ["a", "b", "c"]


@pytest.mark.parametrize("family", [4, 6])
def test_nobody_reaches_the_proxys_ports_directly(node: Proxied, family: Family) -> None:
    ground = node.ground
    node.put({vip(1, "tcp", family): answer(node.endpoints(1, "tcp", family), scheduler="rr")})
    ((address, port),) = node.dataplane.own_endpoints()[vip(1, "tcp", family)]
    ground.network.route(f"{address}/{32 if family == 4 else 128}", via=ground.node)
    for origin in (ground.client, ground.pods[0], ground.node):
        assert verdict(origin, address, port) in {Refused, TimedOut}
    assert reach(ground.client, vip(1, "tcp", family)) == "a"


def test_a_node_keeps_its_own_source_address(node: Proxied) -> None:
    """The proxy's address is on no device, so that the kernel never comes from there."""
    node.put({vip(): answer(node.endpoints(1), scheduler="rr")})
    outcome = connect(node.ground.node, node.ground.pods[0].address(4), 80)
    assert isinstance(outcome, Answered)
    assert outcome.seen[0] == node.ground.node.address(4)


def test_a_backend_at_an_address_that_is_a_frontend_too_makes_no_circle(node: Proxied) -> None:
    """A pod in the node's network with the port of its Service's external address."""
    address = node.ground.node.address(4)
    node.ground.servers.start(node.ground.node, 80, address=address, name="on the node")
    frontend = msgspec.structs.replace(vip(), address=address)
    node.put({frontend: Answer("default/test", "rr", Pool((Backend(address, 80, 1, local=True),)))})
    assert reach(node.ground.client, frontend) == "on the node"
    assert node.dataplane.traffic()[frontend].connections == 1


def test_who_hangs_costs_a_quarter_of_a_second_and_who_refuses_nothing(node: Proxied) -> None:
    servers = node.endpoints(1)
    drops = Backend(node.ground.pods[1].address(4), 7, local=True)
    node.ground.pods[1].namespace.run("nft", "add table ip t; add chain ip t i { type filter hook input priority 0; }; "
                                      "add rule ip t i tcp dport 7 drop")  # fmt: skip
    refuses = Backend(node.ground.pods[0].address(4), 6, local=True)
    node.put({vip(): Answer("default/test", "rr", Pool(tuple(sorted([*pool(servers).backends, drops, refuses]))))})
    assert [reach(node.ground.client, vip()) for _ in range(6)] == ["a"] * 6
    assert {key: got.connections for key, got in node.dataplane.traffic()[vip()].backends.items()} == {
        (servers[0].address, servers[0].port): 6, (drops.address, 7): 0, (refuses.address, 6): 0,
    }  # fmt: skip


def test_affinity_is_by_the_clients_own_address(node: Proxied) -> None:
    give_addresses(node.ground)
    node.put({vip(): answer(node.endpoints(2), scheduler="rr", affinity=60)})
    found = {
        source: {reach(node.ground.client, vip(), source=source) for _ in range(4)}
        for source in ("198.18.0.1", "198.18.0.2", "198.18.0.3", "198.18.0.4")
    }
    assert all(len(servers) == 1 for servers in found.values())
    assert {name for servers in found.values() for name in servers} == {"a", "b"}


def test_a_thousand_connections_are_held_at_once_and_outlive_their_service(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(2), scheduler="rr")})
    with Held(node.ground.client, vip().address, 80, count=1000) as held:
        assert node.dataplane.carried() == 1000
        assert not held.broken()
        node.put({}, gone=[vip()])
        assert not node.dataplane.own_endpoints()
        assert verdict(node.ground.client, vip().address, 80) is TimedOut  # nobody's address
        assert not held.broken()
    wait_until(lambda: node.dataplane.carried() == 0, "the connections' end", patience=5, pause=0.01)


def test_half_close_over_the_network(node: Proxied) -> None:
    pod = node.ground.pods[0]
    listener = pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.settimeout(5)
    listener.bind((pod.address(4), 5000))
    listener.listen()
    node.put({vip(): Answer("default/test", "rr", Pool((Backend(pod.address(4), 5000),)))})
    client = node.ground.client.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener, client:
        client.settimeout(5)
        client.connect((vip().address, 80))
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        side, _ = listener.accept()
        with side:
            assert side.makefile("rb").read() == b"question"
            side.sendall(b"answer")
        assert client.makefile("rb").read() == b"answer"


def test_a_restart_writes_nothing_and_udp_clients_go_on(node: Proxied) -> None:
    """The ports are those that the kernel's elements lead to, so that no entry of connection tracking leads astray."""
    servers = node.endpoints(2, "udp")
    node.put({vip(1, "udp"): answer(servers, scheduler="rr"), node_port("udp"): answer(servers, scheduler="rr")})
    ports = node.dataplane.own_endpoints()
    reach(node.ground.client, vip(1, "udp"), source_port=5555)
    written = node.restart()
    assert (written.added, written.removed, written.refused) == (0, 0, {})
    assert node.dataplane.own_endpoints() == ports
    reach(node.ground.client, vip(1, "udp"), source_port=5555)


def test_adoption_finds_and_mends_a_difference(node: Proxied) -> None:
    node.put({vip(n): answer(node.endpoints(1) if n == 1 else (), scheduler="rr") for n in (1, 2)})
    node.dataplane.disturbed()
    node.nft("flush map ip pointsman-userspace ports; delete chain ip pointsman-userspace input")
    assert node.dataplane.disturbed()
    assert node.adopt().added == 1
    assert reach(node.ground.client, vip()) == "a"
    assert "goto refuse" in node.nft("list chain ip pointsman-userspace input")
    node.nft("flush ruleset")
    assert node.dataplane.disturbed()
    node.adopt()
    assert reach(node.ground.client, vip()) == "a"
    assert node.adopt().added == 0


def test_a_route_that_was_taken_away_is_missed_each_sync_period(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(1), scheduler="rr")})
    node.ground.node.namespace.run("ip", "route", "flush", "table", "local", "proto", "113")
    node.dataplane.tend()
    assert not node.dataplane.disturbed()
    node.clock.now += SETTINGS.sync_period
    node.dataplane.tend()
    assert node.dataplane.disturbed()
    node.adopt()
    assert reach(node.ground.client, vip()) == "a"


def test_retired_it_decides_nothing_and_serves_what_it_has_until_it_is_cleaned_up(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(2), scheduler="rr")})
    with Held(node.ground.client, vip().address, 80, count=20) as held:
        node.dataplane.retire(60.0)
        assert node.dataplane.carried() == 20
        assert node.dataplane.own_endpoints()
        assert not isinstance(connect(node.ground.client, vip().address, 80, timeout=1.3), Answered)
        node.clock.now += 61  # the limit is the agent's to keep
        node.dataplane.tend()
        assert not held.broken()
        node.dataplane.cleanup()
        assert node.dataplane.carried() == 0
        assert len(held.broken()) == 20


def test_it_comes_back_in_force_while_it_drains(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(1), scheduler="rr")})
    ports = node.dataplane.own_endpoints()
    with Held(node.ground.client, vip().address, 80, count=5) as held:
        node.dataplane.retire(60.0)
        node.adopt()
        node.clock.now += 100
        node.dataplane.tend()
        assert not held.broken()
        assert node.dataplane.own_endpoints() == ports
        assert reach(node.ground.client, vip()) == "a"


def test_sctp_is_refused_by_name_and_harms_nobody(node: Proxied) -> None:
    servers = node.endpoints(1)
    written = node.put({vip(1, "sctp"): answer(servers), vip(): answer(servers, scheduler="rr")})
    assert list(written.refused) == ["10.96.0.1:80/sctp"]
    assert "no SCTP" in written.refused["10.96.0.1:80/sctp"]
    assert reach(node.ground.client, vip()) == "a"


def test_what_is_read_is_who_gets_new_connections(node: Proxied) -> None:
    servers = node.endpoints(2)
    node.put(
        {
            vip(): answer(servers, [1, 0], scheduler="rr"),
            vip(2): answer((), scheduler="rr"),
            node_port(): msgspec.structs.replace(answer(servers[:1], scheduler="rr"), outside=pool(servers[1:])),
        }
    )
    found = {f: {(b.address, b.port) for b in backends} for f, backends in node.dataplane.read().items()}
    one, two = ((server.address, server.port) for server in servers)
    assert found == {vip(): {one}, vip(2): set(), node_port(): {one, two}}


def test_node_ports_answer_on_loopback_when_they_are_asked_to(node: Proxied) -> None:
    for family in (4, 6):
        node.put({node_port("tcp", family): answer(node.endpoints(1, "tcp", family), scheduler="rr")})  # type: ignore[arg-type]
        assert verdict(node.ground.node, LOOPBACK[family], 30080) is Refused
    node.dataplane.adopt(Plan(node.plan.answers, msgspec.structs.replace(SETTINGS, localhost_node_ports=True)))
    for family in (4, 6):
        assert reach(node.ground.node, node_port("tcp", family), at=LOOPBACK[family]) == "a"  # type: ignore[arg-type]


def test_cleanup_leaves_no_trace(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(1), scheduler="rr")})
    node.nft("add table ip somebody")
    node.dataplane.cleanup()
    assert node.nft("list tables") == "table ip somebody\n"
    for family in ("-4", "-6"):
        assert "113" not in node.ground.node.namespace.run("ip", family, "route", "show", "table", "local")
    assert not node.dataplane.own_endpoints()
    node.adopt()
    assert reach(node.ground.client, vip()) == "a"


def test_what_is_rendered_is_what_is_loaded_but_for_the_ports(node: Proxied) -> None:
    plan = Plan({vip(1, "tcp", family): answer(node.endpoints(1, "tcp", family)) for family in (4, 6)}, SETTINGS)  # type: ignore[arg-type]
    node.dataplane.adopt(plan)
    own = {family: table_held(node.nft, family, "pointsman-userspace") for family in ("ip", "ip6")}
    node.nft("-f", "-", stdin=render(plan))
    for family, words in own.items():
        rendered = table_held(node.nft, family, "pointsman-userspace")
        assert {word for word in rendered if "counter" not in word} >= {
            word for word in words if "counter" not in word and not re.fullmatch("0x[0-9a-f]+ : 0x[0-9a-f]+", word)
        }
    assert type(connect(node.ground.client, vip().address, 80)) is Refused, "nobody listens at a placeholder"
    assert node.dataplane.disturbed()
    node.dataplane.adopt(plan)
    assert reach(node.ground.client, vip()) == "a"
