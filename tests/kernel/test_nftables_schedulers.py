"""Every scheduler with its weights: who gets new connections, over thousands of them, and who keeps its old ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Held
from support.proxied import Proxied, answer, client_address, node_port, proxied, reach, unlikely, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family, Frontend

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

SCHEDULERS = ("random", "rr", "wrr", "sh", "dh", "mh")
WEIGHTS = [pytest.param(None, id="equal"), pytest.param((5, 1, 2, 0, 1), id="weighted")]
FRONTENDS = [vip(), vip(family=6), node_port(), node_port(family=6)]
CONNECTIONS = 2000

both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


def shares(weights: tuple[int, ...] | None) -> dict[str, float]:
    return {name: weight for name, weight in zip("abcde", weights or [1] * 5, strict=True) if weight}


def by_client(node: Proxied, frontend: Frontend, count: int, *, port: int) -> dict[int, str]:
    """Connect once from each of many client addresses, from a port that was not used before."""
    client, family = node.ground.client, frontend.family
    return {
        number: reach(client, frontend, source=client_address(number, family), source_port=port)
        for number in range(count)
    }


@pytest.mark.parametrize("weights", WEIGHTS)
def test_random_spreads_by_weight(node: Proxied, weights: tuple[int, ...] | None) -> None:
    frontend = vip(protocol="udp")
    node.put({frontend: answer(node.endpoints(5, "udp"), weights)})
    # A port of its own for each connection: the same one again would be the same connection.
    ports = range(10_000, 10_000 + CONNECTIONS)
    seen = Counter(reach(node.ground.client, frontend, source_port=port) for port in ports)
    assert not unlikely(seen, shares(weights))
    assert f"counter packets {CONNECTIONS} " in node.nft("list", "map", "ip", "pointsman", "services")


@pytest.mark.parametrize("frontend", FRONTENDS, ids=str)
def test_random_spreads_at_every_kind_of_frontend(node: Proxied, frontend: Frontend) -> None:
    node.put({frontend: answer(node.endpoints(3, family=frontend.family), (1, 2, 3))})
    at = node.ground.node.address(frontend.family)
    seen = Counter(reach(node.ground.client, frontend, at=at) for _ in range(600))
    assert not unlikely(seen, {"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize("frontend", FRONTENDS, ids=str)
def test_round_robin_takes_exact_turns(node: Proxied, frontend: Frontend) -> None:
    node.put({frontend: answer(node.endpoints(3, family=frontend.family), scheduler="rr")})
    at = node.ground.node.address(frontend.family)
    turns = "".join(reach(node.ground.client, frontend, at=at) for _ in range(12))
    assert turns in "abc" * 5


def test_each_frontend_has_turns_of_its_own(node: Proxied) -> None:
    endpoints = node.endpoints(3)
    node.put({vip(number): answer(endpoints, scheduler="rr") for number in (1, 2)})
    # Two connections to the first one for each to the second one.
    rounds = [[reach(node.ground.client, vip(number)) for number in (1, 1, 2)] for _ in range(6)]
    assert "".join(name for first, second, _ in rounds for name in (first, second)) in "abc" * 5
    assert "".join(name for *_, name in rounds) in "abc" * 3


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
@both_families
def test_weighted_turns_are_smooth(node: Proxied, scheduler: str, family: Family) -> None:
    frontend = vip(family=family)
    node.put({frontend: answer(node.endpoints(4, family=family), (5, 1, 0, 1), scheduler=scheduler)})
    turns = "".join(reach(node.ground.client, frontend) for _ in range(21))
    assert turns in "aabadaa" * 4  # nginx's own example of its smooth weighted round robin


def test_turns_go_on_with_those_that_are_there(node: Proxied) -> None:
    endpoints, frontend = node.endpoints(4), vip()
    for there in (endpoints, endpoints[:3], [*endpoints[:1], *endpoints[2:]], endpoints):
        node.put({frontend: answer(there, scheduler="rr")})
        seen = Counter(reach(node.ground.client, frontend) for _ in range(3 * len(there)))
        assert seen == dict.fromkeys((server.name for server in there), 3)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scheduler", ["sh", "mh"])
@both_families
def test_a_hash_of_the_client_spreads_and_stays(
    node: Proxied, scheduler: str, weights: tuple[int, ...] | None, family: Family
) -> None:
    frontend = vip(protocol="udp", family=family)
    node.put({frontend: answer(node.endpoints(5, "udp", family), weights, scheduler=scheduler)})
    chosen = by_client(node, frontend, CONNECTIONS, port=4000)
    # Which client gets which endpoint is fixed: this comes out the same in each run.
    assert not unlikely(Counter(chosen.values()), shares(weights))
    few = {number: chosen[number] for number in range(200)}
    assert by_client(node, frontend, 200, port=4001) == few
    node.restart()
    assert by_client(node, frontend, 200, port=4002) == few


def test_all_ports_of_a_client_get_the_same_endpoint(node: Proxied) -> None:
    frontend = vip()
    node.put({frontend: answer(node.endpoints(5), scheduler="sh")})
    assert len({reach(node.ground.client, frontend, source_port=20_000 + number) for number in range(50)}) == 1


@pytest.mark.parametrize("weights", WEIGHTS)
@both_families
def test_a_hash_of_the_destination(node: Proxied, weights: tuple[int, ...] | None, family: Family) -> None:
    found = answer(node.endpoints(5, "udp", family), weights, scheduler="dh")
    frontends = [vip(number, "udp", family) for number in range(1, 1001)]
    node.put(dict.fromkeys(frontends, found))
    chosen = {frontend: reach(node.ground.client, frontend) for frontend in frontends}
    assert not unlikely(Counter(chosen.values()), shares(weights))
    for frontend in frontends[:20]:
        assert set(by_client(node, frontend, 10, port=4000).values()) == {chosen[frontend]}


@both_families
def test_consistent_hashing_moves_few_clients(
    node: Proxied, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints, frontend = node.endpoints(10, "udp", family), vip(protocol="udp", family=family)
    node.put({frontend: answer(endpoints, scheduler="mh")})
    before = by_client(node, frontend, CONNECTIONS, port=4000)
    node.put({frontend: answer(endpoints[:3] + endpoints[4:], scheduler="mh")})
    without = by_client(node, frontend, CONNECTIONS, port=4001)
    node.put({frontend: answer(endpoints, scheduler="mh")})
    again = by_client(node, frontend, CONNECTIONS, port=4002)
    lost = sum(name == "d" for name in before.values())
    moved = sum(before[number] != without[number] for number in before)
    with capsys.disabled():
        share, ideal = moved / CONNECTIONS, lost / CONNECTIONS
        print(f"\nmh, IPv{family}: 1 of 10 endpoints left, {share:.1%} of the clients moved (ideal {ideal:.1%})")  # noqa: T201 (a measurement)
    assert "d" not in without.values()
    assert moved - lost < 0.05 * CONNECTIONS
    assert again == before


def test_the_plain_hash_is_not_consistent(node: Proxied) -> None:
    endpoints, frontend = node.endpoints(10, "udp"), vip(protocol="udp")
    node.put({frontend: answer(endpoints, scheduler="sh")})
    before = by_client(node, frontend, 300, port=4000)
    node.put({frontend: answer(endpoints[:9], scheduler="sh")})
    without = by_client(node, frontend, 300, port=4001)
    assert sum(before[number] != without[number] for number in before) > 150


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@both_families
def test_a_weight_of_zero_drains(node: Proxied, scheduler: str, family: Family) -> None:
    endpoints, frontend = node.endpoints(3, family=family), vip(family=family)
    client = node.ground.client
    node.put({frontend: answer(endpoints[:1], scheduler=scheduler)})
    with Held(client, frontend.address, 80, count=10) as held:
        node.put({frontend: answer(endpoints, (0, 2, 1), scheduler=scheduler)})
        seen = Counter(by_client(node, frontend, 60, port=4000).values())
        assert "a" not in seen
        assert seen.total() == 60
        node.put({frontend: answer(endpoints[:2], (0, 1), scheduler=scheduler)})
        assert held.broken() == []
    assert held.servers == ["a"] * 10


def test_a_change_of_scheduler_or_weights_keeps_established_connections(node: Proxied) -> None:
    endpoints, frontends = node.endpoints(4), (vip(), node_port())
    at = node.ground.node.address()
    node.put(dict.fromkeys(frontends, answer(endpoints)))
    with (
        Held(node.ground.client, vip().address, 80, count=100) as one,
        Held(node.ground.client, at, 30080, count=100) as two,
    ):
        for scheduler in (*SCHEDULERS, *SCHEDULERS):
            for weights in (None, (3, 1, 4, 1), (0, 0, 0, 1), (0, 0, 0, 0)):
                node.put(dict.fromkeys(frontends, answer(endpoints, weights, scheduler=scheduler)))
            assert one.broken() == []
            assert two.broken() == []
        node.put({}, gone=frontends)
        assert one.broken() == []
        assert two.broken() == []
    assert set(one.servers) == set(two.servers) == set("abcd")
    chains = node.nft("list", "table", "ip", "pointsman")
    assert "pick-" not in chains
    assert "chain rr-" not in chains


def test_the_sum_of_heavy_weights_is_scaled_down(node: Proxied) -> None:
    endpoints, frontend = node.endpoints(20, "udp"), vip(protocol="udp")
    weights = [256 - number for number in range(20)]
    node.put({frontend: answer(endpoints, weights)})
    ports = range(10_000, 10_000 + CONNECTIONS)
    seen = Counter(reach(node.ground.client, frontend, source_port=port) for port in ports)
    assert not unlikely(seen, {server.name: weight for server, weight in zip(endpoints, weights, strict=True)})
    assert node.nft("list", "map", "ip", "pointsman", "endpoints").count("10.96.0.1 . udp") <= 4096
