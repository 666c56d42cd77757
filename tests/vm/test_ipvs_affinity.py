"""Session affinity as the persistence of virtual servers: who stays where, and for how long."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.model.plan import Answer, IpvsSettings
from support.proxied import SETTINGS, answer, pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family, Frontend, Transport
    from support.ipvs import IpvsNode

HOUR = 3600
PROTOCOLS: tuple[Transport, ...] = ("tcp", "udp")
families = pytest.mark.parametrize("family", [4, 6])


@families
def test_every_client_stays_with_its_endpoint(node: IpvsNode, family: Family) -> None:
    for protocol in PROTOCOLS:
        for frontend in (node.vip(protocol, family), node.node_port(protocol, family)):
            endpoints = node.endpoints(3, protocol, family)
            node.put({frontend: answer(endpoints, scheduler="rr", affinity=HOUR)})
            first = node.by_client(frontend, 6)
            assert set(first.values()) == set("abc")
            assert [node.by_client(frontend, 6) for _ in range(2)] == [first, first]


def test_a_drained_endpoint_loses_its_clients_and_keeps_their_connections(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(3)
    node.put({frontend: answer(endpoints, scheduler="rr", affinity=HOUR)})
    first = node.by_client(frontend, 6)
    line = node.line(frontend)
    weights = [int(server.name != line.server) for server in endpoints]
    node.put({frontend: answer(endpoints, weights, scheduler="rr", affinity=HOUR)})
    second = node.by_client(frontend, 6)
    assert line.server not in second.values()
    assert {number: name for number, name in first.items() if name != line.server}.items() <= second.items()
    assert node.by_client(frontend, 6) == second
    assert line.lives()
    assert node.reach(frontend) != line.server


@families
def test_clients_inside_and_outside_stay_in_their_pools(node: IpvsNode, family: Family) -> None:
    frontend, endpoints = node.external_ip(family=family), node.endpoints(4, family=family)
    node.put({frontend: Answer("a/b", "rr", pool(endpoints), outside=pool(endpoints[:2]), affinity=HOUR)})
    first = node.by_client(frontend, 4)
    assert set(first.values()) == set("ab")
    assert node.by_client(frontend, 4) == first
    inside = [node.reach(frontend, origin=node.ground.pods[2]) for _ in range(4)]
    assert len(set(inside)) == 1


def remembered(node: IpvsNode, frontend: Frontend) -> list[str]:
    """Return what IPVS remembers of connections and clients of an IPv4 frontend; a client is one without a port."""
    address = f"{int(ipaddress.ip_address(frontend.address)):08X} {frontend.port:04X}"
    with node.ground.node.namespace.entered():
        lines = Path("/proc/thread-self/net/ip_vs_conn").read_text("ascii").splitlines()
    return [line for line in lines if address in line]


@pytest.fixture
def soon(node: IpvsNode) -> Iterator[IpvsNode]:
    """A node whose IPVS forgets a UDP flow after a second; the kernel's own timeout is back afterwards."""
    node.set(msgspec.structs.replace(SETTINGS, ipvs=IpvsSettings(udp_timeout=1)))
    yield node
    node.set(msgspec.structs.replace(SETTINGS, ipvs=IpvsSettings(udp_timeout=300)))


def test_a_client_is_forgotten_when_its_time_is_over(soon: IpvsNode) -> None:
    node = soon
    frontend, endpoints = node.vip("udp"), node.endpoints(3, "udp")
    node.put({frontend: answer(endpoints, scheduler="rr", affinity=10)})
    first = node.by_client(frontend, 4)
    assert node.by_client(frontend, 4) == first
    assert [line.split()[2] for line in remembered(node, frontend)].count("0000") == 4
    node.wait_for(lambda: not remembered(node, frontend), "the end of the affinity", patience=60)
    # Turns go on from where they were: four clients and three endpoints, so everybody moves.
    second = node.by_client(frontend, 4)
    assert all(second[number] != first[number] for number in first)
