"""IPVS after another mode has come in force: it serves what it carries, and nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.ipvs.entries import key_of
from pointsman.lab.connections import Refused, TimedOut, connect, open_socket
from pointsman.lab.servers import Greeting
from pointsman.model.plan import Frontend, NodeSettings, Plan
from support.dataplanes import open_dataplane
from support.ipvs import Line
from support.proxied import SETTINGS, answer, pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.connections import Outcome
    from pointsman.model.plan import Answer, Family
    from support.ipvs import IpvsNode

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(600)]

LIMIT = 600.0
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Flow:
    """A UDP client that keeps its port."""

    def __init__(self, node: IpvsNode, frontend: Frontend) -> None:
        self._socket = open_socket(node.ground.client, frontend.address, "udp")
        self._socket.settimeout(5)
        self._socket.connect((frontend.address, frontend.port))
        self.server = self.ask()

    def ask(self) -> str:
        try:
            self._socket.send(b"?\n")
            return msgspec.json.decode(self._socket.recv(4096), type=Greeting).server
        except OSError:
            return ""

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def nftables(node: IpvsNode, answers: dict[Frontend, Answer], settings: NodeSettings = SETTINGS) -> Iterator[None]:
    """Bring another mode in force, and let IPVS retire."""
    other = open_dataplane(node.ground.node, "nftables")
    try:
        other.adopt(Plan(answers, settings))
        node.dataplane.retire(LIMIT)
        yield
    finally:
        other.cleanup()
        other.close()


def attempt(node: IpvsNode, address: str, port: int, protocol: str = "tcp") -> Outcome:
    return connect(node.ground.client, address, port, protocol)  # type: ignore[arg-type]  # a word of the plan's


def sets(node: IpvsNode, family: Family = 4) -> str:
    return node.nft("list", "table", {4: "ip", 6: "ip6"}[family], "pointsman-ipvs")


@FAMILIES
def test_it_serves_what_it_carries_and_lets_everything_else_go(node: IpvsNode, family: Family) -> None:
    held, idle, talked = node.vip(family=family), node.vip(family=family), node.vip("udp", family)
    external, port = node.external_ip(family=family), node.node_port(family=family)
    tcp, udp = node.endpoints(2, family=family), node.endpoints(2, "udp", family)
    node.put(dict.fromkeys((held, idle, external, port), answer(tcp[:1], scheduler="rr")))
    node.put({talked: answer(udp[:1], scheduler="rr")})
    lines = [node.line(each) for each in (held, external, port) for _ in range(2)]
    flow = Flow(node, talked)
    new = {each: answer(tcp[1:]) for each in (held, idle, external, port)} | {talked: answer(udp[1:])}
    with nftables(node, new), contextlib.closing(flow):
        assert node.dataplane.carried() == 7
        assert {key.address for key in node.servers() if key.family == family} == {
            held.address, talked.address, external.address, node.ground.node.address(family),
        }  # fmt: skip
        routes = node.local_routes(family)
        assert all(f"local {each.address} " in routes for each in (held, talked, external))
        assert "10.96.0.0/12" not in routes
        assert "fd00:10:96::/112" not in routes
        assert all(line.lives() for line in lines)
        assert flow.ask() == "a"
        assert {node.reach(each) for each in (held, idle, external, port) for _ in range(2)} == {"b"}
        assert isinstance(attempt(node, held.address, 81), Refused), "another port of a Service's address"
        unallocated = {4: "10.96.200.1", 6: "fd00:10:96::ff01"}[family]
        assert isinstance(attempt(node, unallocated, 80), TimedOut)
        node.tend(LIMIT - 1)
        assert all(line.lives() for line in lines)
        assert flow.ask() == "a"
        node.tend(1)
        assert node.dataplane.carried() == 0
        assert not any(line.lives() for line in lines)
        assert node.local_routes(family) == ""
        assert node.servers() == {}
        assert flow.ask() in {"", "b"}
        assert flow.ask() == "b", "the kernel has forgotten its entry"


def test_it_goes_when_its_connections_have_ended(node: IpvsNode) -> None:
    frontends, endpoints = [node.vip(), node.vip()], node.endpoints(2)
    node.put(dict.fromkeys(frontends, answer(endpoints, scheduler="rr")))
    lines = [node.line(each) for each in frontends]
    with nftables(node, dict.fromkeys(frontends, answer(endpoints))):
        lines[0].close()

        def is_carried(count: int) -> bool:
            node.tend()
            return node.dataplane.carried() == count

        node.wait_for(lambda: is_carried(1), "the end of the first")
        assert list(node.servers()) == [key_of(frontends[1])]
        assert frontends[0].address not in node.local_routes() + sets(node)
        assert lines[1].lives()
        lines[1].close()
        node.wait_for(lambda: is_carried(0), "the end of the second")
        assert (node.servers(), node.local_routes()) == ({}, "")


@FAMILIES
def test_it_comes_back_and_nobody_notices(node: IpvsNode, family: Family) -> None:
    held, talked, endpoints = node.vip(family=family), node.vip("udp", family), node.endpoints(2, family=family)
    answers = {
        held: answer(endpoints, scheduler="rr"), talked: answer(node.endpoints(2, "udp", family), scheduler="rr"),
    }  # fmt: skip
    node.put(answers)
    lines, flow = [node.line(held) for _ in range(2)], Flow(node, talked)
    with contextlib.closing(flow):
        with nftables(node, answers):
            lines += [node.line(held) for _ in range(2)]
            written = node.adopt()
            assert written.refused == {}
        assert node.weights(held) == {"a": 1, "b": 1}
        assert all(line.lives() for line in lines)
        assert flow.ask() == flow.server
        assert {node.reach(held) for _ in range(2)} == {"a", "b"}
        node.tend(LIMIT + 1)
        assert all(line.lives() for line in lines)
        assert node.dataplane.adopt(node.plan).added == 0, "nothing is left to do"
        assert held.address not in node.local_routes(family)


def test_a_new_agent_finds_what_retires(node: IpvsNode) -> None:
    held, port = node.vip(), node.node_port()
    node.put(dict.fromkeys((held, port), answer(node.endpoints(2), scheduler="rr")))
    lines = [node.line(held), node.line(port)]
    with nftables(node, {}):
        for _ in range(2):
            node.reopen()
            node.dataplane.retire(LIMIT)
            assert node.dataplane.carried() == 2
            assert all(line.lives() for line in lines)
        node.tend(LIMIT)
        assert node.dataplane.carried() == 0
        node.dataplane.cleanup()
        assert node.nft("list", "tables").count("pointsman-ipvs") == 0


def test_an_agent_that_was_killed_in_this_mode_is_followed_by_one_in_another(node: IpvsNode) -> None:
    held = node.vip()
    node.put({held: answer(node.endpoints(2), scheduler="rr")})
    lines = [node.line(held) for _ in range(2)]
    node.reopen()
    with nftables(node, {held: answer(node.endpoints(1))}):
        assert all(line.lives() for line in lines)
        assert node.dataplane.carried() == 2
        assert {node.reach(held) for _ in range(4)} == {"a"}


@pytest.mark.parametrize("scheduler", ["dh", "sh", "mh"])
def test_hashes_keep_their_connections_too(node: IpvsNode, scheduler: str) -> None:
    held = node.vip()
    node.put({held: answer(node.endpoints(2), scheduler=scheduler)})
    lines = [node.line(held) for _ in range(2)]
    with nftables(node, {held: answer(node.endpoints(2))}):
        node.tend()
        assert all(line.lives() for line in lines)


def test_clients_inside_keep_theirs(node: IpvsNode) -> None:
    """They have a virtual server for a firewall mark."""
    held, endpoints = node.external_ip(), node.endpoints(2)
    split = msgspec.structs.replace(answer(endpoints[:1], scheduler="rr"), outside=pool(endpoints[1:]))
    node.put({held: split})
    inside = Line(node.ground.node, held.address, held.port)
    outside = node.line(held)
    with contextlib.closing(inside), nftables(node, {held: split}):
        assert (inside.server, outside.server) == ("a", "b")
        node.tend()
        assert inside.lives()
        assert outside.lives()
        assert node.dataplane.carried() == 2


def test_what_a_release_with_other_sets_made_is_ours(node: IpvsNode) -> None:
    held, port, endpoints = node.vip(), node.node_port(), node.endpoints(2)
    node.put(dict.fromkeys((held, port), answer(endpoints, scheduler="rr")))
    gone = node.vip()
    node.put({gone: answer(endpoints, scheduler="rr")})
    lines = [node.line(each) for each in (held, port, gone)]
    node.put({}, gone=[gone])
    for family in ("ip", "ip6"):
        node.nft("flush", "map", family, "pointsman-ipvs", "structure")
    written = node.restart()
    assert written.refused == {}
    assert all(line.lives() for line in lines)
    assert {node.reach(held) for _ in range(2)} == {"a", "b"}
    assert isinstance(attempt(node, gone.address, gone.port), Refused)
