"""What the dataplane says that frontends and endpoints have got, against connections that were really made."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Answered, Refused, connect
from pointsman.model.plan import Answer, Pool
from support.proxied import Proxied, answer, client_address, node_port, proxied, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Frontend

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


def ask(node: Proxied, frontend: Frontend, times: int, *, client: int = 0) -> Counter[str]:
    """Connect so often, and count the servers' names."""
    address = node.ground.node.address(frontend.family) if frontend == node_port(family=frontend.family) else ""
    source = client_address(client, frontend.family) if client else ""
    found: Counter[str] = Counter()
    for _ in range(times):
        outcome = connect(
            node.ground.client, address or frontend.address, frontend.port, frontend.protocol, source=source
        )
        assert isinstance(outcome, Answered)
        found[outcome.server] += 1
    return found


def counted(node: Proxied, frontend: Frontend, servers: list[Server]) -> tuple[int, dict[str, int]]:
    """Return what the dataplane says: connections of the frontend, and of its servers by name."""
    traffic = node.dataplane.traffic()[frontend]
    names = {(server.address, server.port): server.name for server in servers}
    return traffic.connections, {names[where]: got.connections for where, got in traffic.backends.items()}


@both_families
def test_connections_are_counted_for_each_frontend_and_endpoint(node: Proxied, family: Family) -> None:
    servers = node.endpoints(3, family=family)
    first, second, port = vip(1, family=family), vip(2, family=family), node_port(family=family)
    node.put({first: answer(servers), second: answer(servers, scheduler="rr"), port: answer(servers[:1])})
    told = node.dataplane.traffic()
    assert {frontend: got.connections for frontend, got in told.items()} == {first: 0, second: 0, port: 0}
    for frontend, times in ((first, 7), (second, 6), (port, 2)):
        made = ask(node, frontend, times)
        total, by_server = counted(node, frontend, servers)
        assert total == times
        assert {name: count for name, count in by_server.items() if count} == made
    # The next look adds nothing that did not happen, and tells no one of what another one got.
    assert {frontend: got.connections for frontend, got in node.dataplane.traffic().items()} == {
        first: 7, second: 6, port: 2,
    }  # fmt: skip
    assert all(got.active is None and got.inactive is None for got in node.dataplane.traffic()[first].backends.values())


def test_connections_of_clients_that_are_remembered_are_counted_too(node: Proxied) -> None:
    servers = node.endpoints(2)
    node.put({vip(): answer(servers, affinity=600)})
    made = ask(node, vip(), 5, client=1) + ask(node, vip(), 3, client=2)
    assert counted(node, vip(), servers) == (8, {name: made[name] for name in ("a", "b")})


def test_a_weight_is_the_number_of_slots_and_a_drained_endpoint_has_none(node: Proxied) -> None:
    servers = node.endpoints(3)
    node.put({vip(): answer(servers, [3, 1, 0])})
    found = node.dataplane.traffic()[vip()].backends
    assert {port: got.weight for (_, port), got in found.items()} == {9000: 3, 9001: 1}


def test_sums_do_not_fall_when_elements_are_written_anew(node: Proxied) -> None:
    servers = node.endpoints(4)
    node.put({vip(): answer(servers[:3], [5, 3, 1])})
    made = ask(node, vip(), 20)
    assert counted(node, vip(), servers)[1] == {name: made[name] for name in ("a", "b", "c")}
    # Other numbers of slots: another class, and slots that change hands.
    for weights in ([1, 1, 1, 1], [2, 7, 1, 3], [1, 1, 4, 1]):
        node.put({vip(): answer(servers, weights)})
        made += ask(node, vip(), 5)
        total, by_server = counted(node, vip(), servers)
        assert total == made.total()
        assert by_server == {name: made[name] for name in "abcd"}
    node.put({vip(): answer(servers, scheduler="mh")})
    made += ask(node, vip(), 5)
    assert counted(node, vip(), servers) == (made.total(), {name: made[name] for name in "abcd"})


def test_an_endpoint_that_left_begins_anew_when_it_comes_back(node: Proxied) -> None:
    servers = node.endpoints(2)
    node.put({vip(): answer(servers[:1])})
    ask(node, vip(), 3)
    assert counted(node, vip(), servers) == (3, {"a": 3})
    node.put({vip(): answer(servers[1:])})
    assert counted(node, vip(), servers) == (3, {"b": 0})
    node.put({vip(): answer(servers[:1])})
    ask(node, vip(), 1)
    assert counted(node, vip(), servers) == (4, {"a": 1})
    node.put({}, gone=[vip()])
    assert node.dataplane.traffic() == {}
    node.put({vip(): answer(servers[:1])})
    assert counted(node, vip(), servers) == (0, {"a": 0})


def test_what_is_refused_is_counted_for_the_frontend_alone(node: Proxied) -> None:
    node.put({vip(): Answer("default/test", "random", Pool())})
    assert isinstance(connect(node.ground.client, vip().address, 80), Refused)
    assert counted(node, vip(), []) == (1, {})


def test_the_kernel_counts_on_for_the_next_agent(node: Proxied) -> None:
    servers = node.endpoints(2)
    node.put({vip(): answer(servers)})
    made = ask(node, vip(), 4)
    node.restart()
    made += ask(node, vip(), 3)
    assert counted(node, vip(), servers) == (7, {name: made[name] for name in ("a", "b")})


def test_nothing_is_told_where_there_is_no_table(node: Proxied) -> None:
    node.put({vip(): answer(node.endpoints(1))})
    node.dataplane.cleanup()
    assert node.dataplane.traffic() == {}
