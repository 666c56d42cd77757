"""Every scheduler of IPVS by its own property, with real connections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.api.schedulers import SCHEDULERS
from pointsman.lab.connections import Refused, connect
from support.proxied import answer, client_address, reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.model.plan import Answer, Family, Frontend
    from support.ipvs import IpvsNode

LOADS: Mapping[str, Callable[[int, int], tuple[float, ...]]] = {
    "lc": lambda active, weight: (active,),  # noqa: ARG005 - one of two
    "wlc": lambda active, weight: (active / weight,),
    "sed": lambda active, weight: ((active + 1) / weight,),
    "nq": lambda active, weight: (1, (active + 1) / weight) if active else (0,),
}
"""What makes a server the next one: the least of this, by its established connections and its weight (ipvsadm(8))."""


def turns(node: IpvsNode, frontend: Frontend, count: int) -> str:
    return "".join(node.reach(frontend) for _ in range(count))


def flagged(found: Answer, *flags: str) -> Answer:
    return msgspec.structs.replace(found, scheduler_flags=flags)


@pytest.mark.parametrize("family", [4, 6])
def test_rr_takes_turns(node: IpvsNode, family: Family) -> None:
    frontend = node.vip(family=family)
    node.put({frontend: answer(node.endpoints(3, family=family), scheduler="rr")})
    seen = turns(node, frontend, 9)
    assert set(seen[:3]) == set("abc")
    assert seen == seen[:3] * 3


def test_wrr_takes_turns_by_weight(node: IpvsNode) -> None:
    frontend = node.vip()
    node.put({frontend: answer(node.endpoints(4), (5, 1, 0, 2), scheduler="wrr")})
    assert [Counter(turns(node, frontend, 8)) for _ in range(2)] == [{"a": 5, "b": 1, "d": 2}] * 2


@pytest.mark.parametrize("scheduler", LOADS)
def test_the_least_loaded_gets_the_next(node: IpvsNode, scheduler: str) -> None:
    """Nine connections tell the four formulas apart, as each of them takes another way."""
    frontend, weights = node.vip(), {"a": 4, "b": 1, "c": 2}
    node.put({frontend: answer(node.endpoints(3), weights.values(), scheduler=scheduler)})
    active = dict.fromkeys(weights, 0)
    for _ in range(9):
        loads = {name: LOADS[scheduler](active[name], weights[name]) for name in weights}
        server = node.line(frontend).server
        assert loads[server] == min(loads.values()), f"{server} got the next one with {active}"
        active[server] += 1
    assert {name: counts.active for name, counts in node.seen(frontend).items()} == active


def test_lc_fills_the_place_of_connections_that_ended(node: IpvsNode) -> None:
    frontend = node.vip()
    node.put({frontend: answer(node.endpoints(3), scheduler="lc")})
    lines = [node.line(frontend) for _ in range(9)]
    for line in lines:
        if line.server == "b":
            line.close()
    node.wait_for(lambda: node.seen(frontend)["b"].active == 0, "the end of b's connections")
    assert [node.line(frontend).server for _ in range(2)] == ["b", "b"]


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_hash_of_the_source_spreads_and_stays(node: IpvsNode, scheduler: str, family: Family) -> None:
    frontend = node.vip(family=family)
    node.put({frontend: answer(node.endpoints(3, family=family), scheduler=scheduler)})
    chosen = node.by_client(frontend)
    assert set(chosen.values()) == set("abc")
    assert node.by_client(frontend) == chosen
    node.restart()
    assert node.by_client(frontend) == chosen


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_a_hash_of_the_source_and_its_port(node: IpvsNode, scheduler: str) -> None:
    frontend, client, ports = node.vip(), node.ground.client, range(20_000, 20_016)

    def by_port(source: str) -> list[str]:
        return [reach(client, frontend, source=source, source_port=port) for port in ports]

    node.put({frontend: flagged(answer(node.endpoints(3), scheduler=scheduler), f"{scheduler}-port")})
    chosen = by_port(client_address(1))
    assert set(chosen) == set("abc")
    assert by_port(client_address(1)) == chosen
    node.put({frontend: answer(node.endpoints(3), scheduler=scheduler)})
    assert len(set(by_port(client_address(1)))) == 1


def test_mh_moves_few_clients_when_an_endpoint_goes(node: IpvsNode) -> None:
    frontend, clients = node.vip("udp"), 60
    endpoints = node.endpoints(6, "udp")
    node.put({frontend: answer(endpoints, scheduler="mh")})
    before = node.by_client(frontend, clients)
    node.put({frontend: answer(endpoints[:2] + endpoints[3:], scheduler="mh")})
    after = node.by_client(frontend, clients)
    assert "c" not in after.values()
    moved = [number for number, name in before.items() if name not in {"c", after[number]}]
    assert len(moved) < 0.15 * clients
    node.put({frontend: answer(endpoints, scheduler="mh")})
    assert node.by_client(frontend, clients) == before


@pytest.mark.parametrize("scheduler", ["dh", "lblc", "lblcr"])
def test_a_destination_stays_with_its_server(node: IpvsNode, scheduler: str) -> None:
    frontends = [node.vip("udp") for _ in range(12)]
    node.put(dict.fromkeys(frontends, answer(node.endpoints(3, "udp"), scheduler=scheduler)))
    for frontend in frontends:
        assert len(set(node.by_client(frontend, 5).values())) == 1


def test_dh_spreads_destinations(node: IpvsNode) -> None:
    frontends = [node.vip("udp") for _ in range(12)]
    node.put(dict.fromkeys(frontends, answer(node.endpoints(3, "udp"), scheduler="dh")))
    assert len({node.reach(frontend) for frontend in frontends}) == 3


@pytest.mark.parametrize("scheduler", ["lblc", "lblcr"])
def test_locality_gives_way_to_load(node: IpvsNode, scheduler: str) -> None:
    """A server that is overloaded while another has half of its weight to spare is helped out."""
    frontend = node.vip()
    node.put({frontend: answer(node.endpoints(2), (2, 2), scheduler=scheduler)})
    lines = [node.line(frontend).server for _ in range(4)]
    assert lines[:3] == [lines[0]] * 3
    assert lines[3] != lines[0]


def test_fo_takes_the_heaviest_that_is_up(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(3)
    for weights, expected in (((1, 3, 2), "b"), ((1, 0, 2), "c"), ((1, 0, 0), "a"), ((1, 3, 2), "b")):
        node.put({frontend: answer(endpoints, weights, scheduler="fo")})
        assert turns(node, frontend, 4) == expected * 4


def test_ovf_overflows_to_the_next_by_weight(node: IpvsNode) -> None:
    frontend = node.vip()
    node.put({frontend: answer(node.endpoints(3), (1, 3, 2), scheduler="ovf")})
    # A server is full with one connection more than its weight.
    assert "".join(node.line(frontend).server for _ in range(9)) == "bbbbcccaa"
    assert isinstance(connect(node.ground.client, frontend.address, frontend.port), Refused)


def test_the_kernel_has_every_scheduler_and_ipvsadm_takes_them(node: IpvsNode) -> None:
    support = node.dataplane.support()
    assert (support.available, support.reason) == (True, "")
    assert support.schedulers == SCHEDULERS["ipvs"]
    frontends = {scheduler: node.vip() for scheduler in support.schedulers}
    node.put({frontend: answer(node.endpoints(1), scheduler=scheduler) for scheduler, frontend in frontends.items()})
    lines = node.saved()
    assert len(lines) == 2 * len(frontends)
    for scheduler, frontend in frontends.items():
        flags = {"sh": " -b sh-fallback", "mh": " -b mh-fallback"}.get(scheduler, "")
        assert f"-A -t {frontend.address}:80 -s {scheduler}{flags}" in lines
    modules = {line.split()[0] for line in Path("/proc/modules").read_text("ascii").splitlines()}
    assert modules >= {f"ip_vs_{scheduler}" for scheduler in support.schedulers}
    node.ipvsadm("--clear")
    node.ipvsadm("--restore", stdin="\n".join(lines) + "\n")
    assert node.saved() == lines
