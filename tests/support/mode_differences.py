"""What docs/modes.md says of each mode beyond upstream's flows, with real packets in whatever kernel has the mode."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.traffic import Answered, Held, connect
from support.mode_table import difference
from support.proxied import answer, reach, unlikely

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.model.plan import Frontend
    from support.proxied import OnGround

SCHEDULERS: dict[Mode, str] = {"nftables": "random", "ipvs": "wrr", "iptables": "random", "userspace": "rr"}
"""One that knows weights, in each mode."""


def check_weights(node: OnGround[Dataplane], mode: Mode, vip: Frontend) -> None:
    """Connections are shared as weights say."""
    assert difference("weights")[mode] == ("yes" if mode != "ipvs" else "with the schedulers that know weights")
    node.put({vip: answer(node.endpoints(3), (3, 1, 0), scheduler=SCHEDULERS[mode])})
    seen = Counter(reach(node.ground.client, vip) for _ in range(240))
    assert not unlikely(seen, {"a": 3, "b": 1})


def check_a_backend_that_refuses(node: OnGround[Dataplane], mode: Mode, vip: Frontend) -> None:
    """Only where the table says so, the next backend is tried."""
    there = answer(node.endpoints(1), scheduler=SCHEDULERS[mode])
    good = there.pool.backends[0]
    both = tuple(sorted((good, msgspec.structs.replace(good, port=9))))
    node.put({vip: msgspec.structs.replace(there, pool=msgspec.structs.replace(there.pool, backends=both))})
    outcomes = [connect(node.ground.client, vip.address, vip.port) for _ in range(40)]
    answered = sum(isinstance(outcome, Answered) for outcome in outcomes)
    # Of two backends, by chance all 40 connections get the good one once in 10^12 times.
    assert (answered == len(outcomes)) == (difference("silent-backend")[mode] == "the next one is tried")
    assert answered


def check_connections_when_the_agent_ends(
    node: OnGround[Dataplane], mode: Mode, vip: Frontend, restart: Callable[[], object]
) -> None:
    """The kernel goes on by itself; a proxy in the agent does not."""
    node.put({vip: answer(node.endpoints(2), scheduler=SCHEDULERS[mode])})
    with Held(node.ground.client, vip.address, vip.port, count=10) as held:
        assert not held.broken()
        node.dataplane.close()
        try:
            cut = len(held.broken()) == 10
            new = isinstance(connect(node.ground.client, vip.address, vip.port, timeout=1), Answered)
        finally:
            restart()
    said = {"they go on, new ones too": (False, True), "they end, new ones are refused": (True, False)}
    assert (cut, new) == said[difference("agent-ends")[mode]]
