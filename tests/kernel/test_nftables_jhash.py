"""The hash that we compute beforehand is the one that the kernel computes for real connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.netlink import NftSocket
from pointsman.dataplane.nftables.jhash import scaled
from pointsman.dataplane.nftables.layout import (
    address_octets,
    endpoint_value,
    frontend_key,
    number,
)
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.wire import read_elements
from pointsman.model.plan import Backend
from support.proxied import Proxied, answer, client_address, proxied, reach, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family, Transport

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

CLIENTS = 20
both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


def held(node: Proxied, family: Family, name: str) -> Elements:
    with node.ground.node.namespace.entered():
        wire = NftSocket()
    try:
        return read_elements(wire, SCHEMA, family, name)
    finally:
        wire.close()


@both_families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_clients_are_remembered_by_the_hashes_that_we_expect(
    node: Proxied, family: Family, protocol: Transport
) -> None:
    frontend, servers = vip(protocol=protocol, family=family), node.endpoints(3, protocol, family)
    node.put({frontend: answer(servers, affinity=3600)})
    by_name = {server.name: Backend(server.address, server.port) for server in servers}
    expected = {}
    for index in range(1, CLIENTS + 1):
        client = client_address(index, family)
        backend = by_name[reach(node.ground.client, frontend, source=client)]
        source, destination = address_octets(family, client), address_octets(family, frontend.address)
        if family == 6:
            source, destination = number(scaled(source)), number(scaled(destination))
        key = source + destination + frontend_key(frontend)[-8:]
        expected[key] = number(scaled(endpoint_value(family, backend)))
    assert held(node, family, "affinity") == expected


@both_families
@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_a_clients_hash_tells_its_slot(node: Proxied, family: Family, scheduler: str) -> None:
    frontend, servers = vip(family=family), node.endpoints(3, "tcp", family)
    node.put({frontend: answer(servers, scheduler=scheduler)})
    names = {endpoint_value(family, Backend(server.address, server.port)): server.name for server in servers}
    slots = held(node, family, "endpoints")
    for index in range(1, CLIENTS + 1):
        client = client_address(index, family)
        slot = scaled(address_octets(family, client), len(slots))
        expected = names[slots[frontend_key(frontend) + number(slot)]]
        assert reach(node.ground.client, frontend, source=client) == expected


@both_families
def test_dh_hashes_the_frontends_address(node: Proxied, family: Family) -> None:
    servers = node.endpoints(3, "tcp", family)
    frontends = [vip(index, family=family) for index in range(1, CLIENTS + 1)]
    node.put({frontend: answer(servers, scheduler="dh") for frontend in frontends})
    for frontend in frontends:
        octets = address_octets(family, frontend.address)
        assert reach(node.ground.client, frontend) == servers[scaled(octets, len(servers))].name
