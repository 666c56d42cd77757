"""How virtual servers are brought from one state to the next, against an IPVS of plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.dataplane.ipvs.entries import Wanted
from pointsman.dataplane.ipvs.objects import Real, Server, ServerKey
from pointsman.dataplane.ipvs.servers import CHANGE, Held, Servers
from support.ipvs_memory import IpvsMemory

if TYPE_CHECKING:
    from pointsman.model.plan import Transport

RR = Server(scheduler="rr", netmask=32)
LC = Server(scheduler="lc", netmask=32)
WEB = ServerKey(4, "10.96.0.1", "tcp", 80)
DNS = ServerKey(4, "10.96.0.1", "udp", 53)
A, B, C = (Real(f"10.1.0.{number}", 8080) for number in (1, 2, 3))
LIMIT = 900.0
Connections = Mapping[ServerKey, Mapping[Real, int]]


class Ipvs:
    """Our view and the kernel's, kept in step, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.memory = IpvsMemory()
        self.servers = Servers(lambda: self.now)
        self.servers.limit = LIMIT

    def change(self, wanted: Mapping[ServerKey, Wanted], *gone: ServerKey) -> list[str]:
        commands = self.servers.change(wanted.items(), gone)
        self.memory.take(commands)
        self.check()
        return [command.verb for command in commands]

    def finish(self, connections: Connections | None = None) -> None:
        self.memory.take(self.servers.finish(connections or {}))
        self.check()

    def check(self) -> None:
        assert {key: held.reals for key, held in self.servers.held.items()} == self.memory.reals
        assert {key: held.server.scheduler for key, held in self.servers.held.items()} == self.memory.servers


def web(*reals: Real, server: Server = RR, protocol: Transport = "tcp", weight: int = 1) -> Wanted:
    return Wanted(server, dict.fromkeys(reals, weight), protocol)


def test_a_scheduler_is_set_and_nothing_else_is_touched() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    assert ipvs.change({WEB: web(A, B, server=LC)}) == [CHANGE]


def test_what_is_as_wanted_needs_no_command() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    assert ipvs.change({WEB: web(A, B)}) == []


def test_a_tcp_server_gets_no_new_connections_and_goes_when_it_has_none() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({WEB: web(A)})
    assert ipvs.memory.reals[WEB] == {A: 1, B: 0}
    ipvs.finish({WEB: {B: 2}})
    assert ipvs.memory.reals[WEB] == {A: 1, B: 0}
    ipvs.finish({WEB: {B: 0}})
    assert ipvs.memory.reals[WEB] == {A: 1}


def test_a_tcp_server_goes_after_the_limit_whatever_it_has() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({WEB: web(A)})
    ipvs.now += LIMIT - 1
    # Further changes of the Service do not begin the wait anew.
    ipvs.change({WEB: web(A, C)})
    ipvs.finish({WEB: {B: 2}})
    assert B in ipvs.memory.reals[WEB]
    ipvs.now += 1
    ipvs.finish({WEB: {B: 2}})
    assert ipvs.memory.reals[WEB] == {A: 1, C: 1}


def test_one_that_comes_back_is_taken_back() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({WEB: web(A)})
    ipvs.change({WEB: web(A, B)})
    assert ipvs.memory.reals[WEB] == {A: 1, B: 1}
    ipvs.now += LIMIT
    ipvs.finish()
    assert ipvs.memory.reals[WEB] == {A: 1, B: 1}


def test_udp_and_sctp_servers_go_at_once() -> None:
    for key, protocol in ((DNS, "udp"), (ServerKey(4, "10.96.0.1", "sctp", 9), "sctp"), (DNS, "udp")):
        ipvs = Ipvs()
        ipvs.change({key: web(A, B, protocol=protocol)})
        ipvs.change({key: web(A, protocol=protocol)})
        assert ipvs.memory.reals[key] == {A: 1}
        ipvs.change({}, key)
        assert ipvs.memory.reals == {}


def test_a_scheduler_that_refuses_for_a_drained_server_has_none() -> None:
    ipvs = Ipvs()
    rigid = Server(scheduler="dh", netmask=32)
    ipvs.change({WEB: web(A, B, server=rigid)})
    ipvs.change({WEB: web(A, server=rigid)})
    assert ipvs.memory.reals[WEB] == {A: 1}


def test_a_firewall_mark_has_its_clients_protocol() -> None:
    mark = ServerKey(4, "", "tcp", 0, 7)
    ipvs = Ipvs()
    ipvs.change({mark: web(A, protocol="udp")})
    ipvs.change({}, mark)
    assert ipvs.memory.servers == {}


def test_a_virtual_server_goes_with_the_last_connection() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({}, WEB)
    assert ipvs.memory.reals[WEB] == {A: 0, B: 0}
    assert ipvs.servers.closing == {WEB}
    ipvs.finish({WEB: {A: 1}})
    assert ipvs.memory.reals[WEB] == {A: 0}
    ipvs.finish({WEB: {A: 0}})
    assert ipvs.memory.servers == {}
    assert not ipvs.servers.closing


def test_a_virtual_server_that_is_wanted_again_stays() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({}, WEB)
    ipvs.change({WEB: web(B)})
    assert not ipvs.servers.closing
    ipvs.finish({WEB: {A: 0}})
    assert ipvs.memory.reals[WEB] == {B: 1}


def test_a_draining_server_that_somebody_deleted_is_waited_for_no_more() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({WEB: web(A)})
    del ipvs.memory.reals[WEB][B]
    ipvs.servers.adopt({WEB: Held(RR, dict(ipvs.memory.reals[WEB]), "tcp")})
    ipvs.finish()
    assert ipvs.memory.reals[WEB] == {A: 1}


def test_a_service_that_goes_to_dh_drops_what_drains() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({WEB: web(A)})
    ipvs.change({WEB: web(A, server=Server(scheduler="dh", netmask=32))})
    ipvs.finish({WEB: {B: 1}})
    assert ipvs.memory.reals[WEB] == {A: 1}


def test_what_is_forgotten_is_made_anew() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B)})
    ipvs.change({}, WEB)
    ipvs.servers.forget(WEB)
    del ipvs.memory.servers[WEB], ipvs.memory.reals[WEB]
    ipvs.finish()
    ipvs.change({WEB: web(A)})
    assert ipvs.memory.reals[WEB] == {A: 1}


_POOLS = st.dictionaries(st.sampled_from([A, B, C]), st.integers(0, 3), max_size=3)
_WANTED = st.dictionaries(st.sampled_from([WEB, DNS]), _POOLS.filter(bool), max_size=2)


@settings(deadline=None)  # pyroute2 is slow
@given(st.lists(st.tuples(_WANTED, st.sampled_from([0, 1, 1000]), st.booleans()), max_size=8))
def test_every_way_ends_at_what_is_wanted(steps: list[tuple[dict[ServerKey, dict[Real, int]], int, bool]]) -> None:
    ipvs = Ipvs()
    wanted: dict[ServerKey, dict[Real, int]] = {}
    for pools, pause, busy in steps:
        gone = wanted.keys() - pools.keys()
        wanted = pools
        ipvs.change({key: Wanted(RR, reals, key.protocol) for key, reals in pools.items()}, *gone)
        for key, reals in pools.items():
            served = {real: weight for real, weight in ipvs.memory.reals[key].items() if weight}
            assert served == {real: weight for real, weight in reals.items() if weight}
        ipvs.now += pause
        ipvs.finish({key: dict.fromkeys(reals, int(busy)) for key, reals in ipvs.memory.reals.items()})
    ipvs.now += LIMIT
    ipvs.finish()
    assert ipvs.memory.reals == wanted
    assert not ipvs.servers.draining


def test_what_has_retired_waits_for_connections_of_any_protocol_and_scheduler() -> None:
    ipvs = Ipvs()
    destination = Server(scheduler="dh", netmask=32)
    ipvs.change({DNS: web(A, B, protocol="udp"), WEB: web(A, server=destination)})
    ipvs.servers.patient = True
    ipvs.change({}, DNS, WEB)
    assert ipvs.memory.reals == {DNS: {A: 0, B: 0}, WEB: {A: 0}}
    ipvs.finish({DNS: {A: 1}, WEB: {A: 1}})
    assert ipvs.memory.reals == {DNS: {A: 0}, WEB: {A: 0}}
    ipvs.now += LIMIT
    ipvs.finish({DNS: {A: 1}, WEB: {A: 1}})
    assert ipvs.memory.reals == {}


def test_what_is_dropped_goes_at_once_with_all_that_it_carries() -> None:
    ipvs = Ipvs()
    ipvs.change({WEB: web(A, B), DNS: web(A, protocol="udp")})
    ipvs.change({}, WEB)
    commands = ipvs.servers.drop([WEB])
    assert [str(command) for command in commands] == ["delete virtual server 10.96.0.1:80/tcp"]
    ipvs.memory.take(commands)
    ipvs.check()
    assert (ipvs.servers.draining, ipvs.servers.closing, ipvs.servers.removed) == ({}, frozenset(), 3)
