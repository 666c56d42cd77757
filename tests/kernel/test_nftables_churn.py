"""Clients connect in loops while everything around them changes, hundreds of times."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.nftables.port import NftPort
from pointsman.lab.traffic import Answered, Held, Load
from pointsman.model.plan import Answer, Delta, NodeSettings, Pool
from support.proxied import SETTINGS, Proxied, answer, node_port, pool, proxied, vip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pointsman.dataplane.netlink import Message, Refusal
    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Frontend

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

SCHEDULERS = ("random", "rr", "wrr", "sh", "dh", "mh")
FAMILIES: tuple[Family, ...] = (4, 6)
STEADY = 1
CHANGES = 200


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


class Churn:
    """Random changes of everything but the steady frontends; the same ones in each run."""

    def __init__(self, endpoints: dict[Family, list[Server]]) -> None:
        self._random = random.Random(7)  # noqa: S311 (the same changes in each run)
        self._endpoints = endpoints
        self._present: set[Frontend] = set()

    def step(self) -> tuple[dict[Frontend, Answer], set[Frontend]]:
        """Return what changes and what goes."""
        numbers = self._random.sample(range(10, 60), 6)
        frontends = {
            self._random.choice(
                (vip(number, family=family), vip(number, "udp", family), node_port(family=family, port=30_000 + number))
            )
            for number in numbers
            for family in FAMILIES
        }
        gone = {frontend for frontend in frontends & self._present if self._random.random() < 0.4}
        changed = {frontend: self._answer(frontend) for frontend in frontends - gone}
        self._present = (self._present - gone) | changed.keys()
        return changed, gone

    def settings(self) -> NodeSettings:
        """Return other settings, with which the steady frontends are answered as before."""
        number = self._random.randrange(200)
        return msgspec.structs.replace(
            SETTINGS,
            pod_cidrs=(*SETTINGS.pod_cidrs, f"10.{number}.0.0/16", f"fd00:{number}::/64"),
            service_cidrs=SETTINGS.service_cidrs[: self._random.randrange(3)],
            drop_invalid=self._random.random() < 0.5,
        )

    def _answer(self, frontend: Frontend) -> Answer:
        draw, servers = self._random, self._endpoints[frontend.family]
        some = draw.sample(servers, draw.randrange(len(servers) + 1))
        return Answer(
            "a/b",
            # A Maglev table is a thousand elements; one in twenty is enough of them.
            draw.choice((*SCHEDULERS[:5] * 4, "mh")),
            pool(some, [draw.randrange(4) for _ in some]),
            outside=pool(some[:1]) if draw.random() < 0.3 else None,
            affinity=draw.choice((None, 1, 60, 3600)),
            masquerade=draw.choice(("never", "off-cluster", "node", "always")),
            exclusive=frontend.address != "*" and draw.random() < 0.5,
            source_ranges=("203.0.113.0/24", "2001:db8::/32", "::1/128")
            if frontend.address != "*" and draw.random() < 0.3
            else None,
        )


def test_an_unchanged_service_never_fails(node: Proxied, capsys: pytest.CaptureFixture[str]) -> None:
    servers = {family: node.endpoints(6, family=family) for family in FAMILIES}
    churn = Churn(servers)
    node.put({vip(STEADY, family=family): answer(servers[family][:2]) for family in FAMILIES})
    node.put({node_port(): answer(servers[4][:2])})
    client, steady = node.ground.client, {family: vip(STEADY, family=family).address for family in FAMILIES}
    with (
        Load(client, steady[4], 80, pause=0) as four,
        Load(client, steady[6], 80, pause=0) as six,
        Load(client, node.ground.node.address(), 30080, pause=0) as port,
        Held(client, steady[4], 80, count=100) as held,
    ):
        begun = time.monotonic()
        for count in range(CHANGES):
            changed, gone = churn.step()
            assert node.put(changed, gone=gone).refused == {}
            if count % 10 == 0:
                node.dataplane.apply(Delta({}, settings=(settings := churn.settings())))
                node.plan = msgspec.structs.replace(node.plan, settings=settings)
            if count % 50 == 0:
                # What an agent that is started anew finds is what it wants.
                again = node.restart()
                assert (again.added, again.removed, again.refused) == (0, 0, {})
            time.sleep(0.002)
        seconds = time.monotonic() - begun
        assert held.broken() == []
    for load in (four, six, port):
        seen = load.spread()
        assert seen.failures == []
        assert seen.servers.keys() == {"a", "b"}
    made = sum(len(load.samples) for load in (four, six, port))
    assert made > 500
    with capsys.disabled():
        print(f"\nchurn: {CHANGES} changes in {seconds:.1f} s, {made} connections beside them, none failed")  # noqa: T201 (a measurement)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_connections_only_reach_endpoints_that_are_there(node: Proxied, scheduler: str) -> None:
    """An endpoint that has left gets nothing from the moment on at which `apply` returns; the others serve."""
    servers, frontend, draw = node.endpoints(4), vip(), random.Random(11)  # noqa: S311 (the same in each run)
    node.put({frontend: answer(servers, scheduler=scheduler)})
    spans: list[tuple[float, float, set[str]]] = []
    with Load(node.ground.client, frontend.address, 80, pause=0) as load:
        for _ in range(40):
            some = draw.sample(servers, draw.randrange(1, 5))
            asked = time.monotonic()
            node.put({frontend: answer(some, [draw.randrange(1, 4) for _ in some], scheduler=scheduler)})
            spans.append((asked, time.monotonic(), {server.name for server in some}))
            load.wait(5)
    assert load.spread().failures == []
    for (_, done, there), (asked, *_) in itertools.pairwise(spans):
        # The last one may have been on its way while the next change came.
        between = [sample.outcome for sample in load.samples if done <= sample.begun < asked][:-1]
        assert len(between) >= 3
        assert {outcome.server for outcome in between if isinstance(outcome, Answered)} <= there


def test_a_packet_that_meets_a_commit_with_a_new_chain_is_sent_again(node: Proxied) -> None:
    """Changes of the very Service without pause: packets find their class at once, and its chain empty."""
    servers, frontend, draw = node.endpoints(4), vip(), random.Random(3)  # noqa: S311 (the same in each run)
    node.put({frontend: answer(servers, scheduler="rr")})
    with Load(node.ground.client, frontend.address, 80, pause=0, timeout=5) as load:
        for _ in range(8000):
            node.put({frontend: answer(servers, [draw.randrange(1, 6) for _ in servers], scheduler="rr")})
    assert load.spread().failures == []


def test_the_rules_of_a_table_go_before_its_maps(node: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet half-way through the rules would find maps empty and sets filled, and its Service refused."""
    transact, held = NftPort.transact, list[str]()

    def look(port: NftPort, messages: Sequence[Message]) -> list[Refusal]:
        refusals = transact(port, messages)
        held.append(node.nft("list", "ruleset", "ip"))
        return refusals

    node.put({vip(): answer(node.endpoints(1))})
    monkeypatch.setattr(NftPort, "transact", look)
    node.dataplane.cleanup()
    rules, elements = "map @services", f"{vip().address} . tcp . 80"
    assert [(rules in text, elements in text) for text in held[:2]] == [(False, True), (False, False)]


def test_refused_while_empty_and_served_at_once_after(node: Proxied) -> None:
    servers, frontend = node.endpoints(2), vip()
    settings = msgspec.structs.replace(answer(servers), exclusive=True)
    empty = msgspec.structs.replace(settings, pool=Pool())
    for _ in range(10):
        node.put({frontend: empty})
        with Load(node.ground.client, frontend.address, 80, pause=0) as load:
            load.wait(5)
        assert load.spread().answered == 0
        node.put({frontend: settings})
        with Load(node.ground.client, frontend.address, 80, pause=0) as load:
            load.wait(5)
        assert load.spread().failures == []
