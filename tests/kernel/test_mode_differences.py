"""What docs/modes.md says of each mode beyond upstream's flows, with real packets; for ipvs see tests/vm."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.protocol import Dataplane
from pointsman.lab.traffic import Answered, Held, connect
from pointsman.model.plan import Backend
from support.dataplanes import open_dataplane
from support.mode_table import difference
from support.proxied import OnGround, answer, give_addresses, reach, unlikely, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground
    from pointsman.api.names import Mode

pytestmark = pytest.mark.needs("nftables", "connection tracking", "iptables (nft)")

MODES: tuple[Mode, ...] = ("nftables", "iptables", "userspace")
NOBODY = Backend("10.128.0.99", 9)
VIP = vip()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture
def node(ground: Ground, mode: Mode) -> Iterator[OnGround[Dataplane]]:
    give_addresses(ground)
    made = OnGround[Dataplane](ground, lambda: open_dataplane(ground.node, mode))
    made.adopt()
    yield made
    made.dataplane.close()


def test_weights(node: OnGround[Dataplane], mode: Mode) -> None:
    assert difference("weights")[mode] == "yes"
    scheduler = {"userspace": "rr"}.get(mode, "random")
    node.put({VIP: answer(node.endpoints(3), (3, 1, 0), scheduler=scheduler)})
    seen = Counter(reach(node.ground.client, VIP) for _ in range(240))
    assert not unlikely(seen, {"a": 3, "b": 1})


def test_a_backend_that_refuses(node: OnGround[Dataplane], mode: Mode) -> None:
    good = node.endpoints(1)
    there = answer(good)
    nobody = msgspec.structs.replace(NOBODY, address=good[0].address)
    pool = msgspec.structs.replace(there.pool, backends=tuple(sorted((*there.pool.backends, nobody))))
    node.put({VIP: msgspec.structs.replace(there, pool=pool)})
    outcomes = [connect(node.ground.client, VIP.address, VIP.port) for _ in range(40)]
    answered = sum(isinstance(outcome, Answered) for outcome in outcomes)
    # Of two backends, by chance all 40 connections get the good one once in 10^12 times.
    assert (answered == len(outcomes)) == (difference("silent-backend")[mode] == "the next one is tried")
    assert answered


def test_connections_when_the_agent_ends(node: OnGround[Dataplane], mode: Mode) -> None:
    node.put({VIP: answer(node.endpoints(2))})
    with Held(node.ground.client, VIP.address, VIP.port, count=10) as held:
        assert not held.broken()
        node.dataplane.close()
        try:
            cut = len(held.broken()) == 10
            new = isinstance(connect(node.ground.client, VIP.address, VIP.port, timeout=1), Answered)
        finally:
            node.restart()
    said = difference("agent-ends")[mode]
    assert (cut, new) == {"they go on, new ones too": (False, True), "they end, new ones are refused": (True, False)}[
        said
    ]
