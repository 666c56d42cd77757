"""Which agents give no sign of life: each renews a Lease every ten seconds.

As in client-go's leader election the times in the Lease are not believed, since clocks differ: an agent is silent when
its Lease stays the same for its duration by the operator's own clock. A time in which the operator could not look (the
API server was away, from the agents too) does not count.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from pointsman.api.names import AGENT_LEASE_PREFIX
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pointsman.process.clock import Clock
    from pointsman.sources.apiserver.client import ApiClient

PERIOD: Final = 10.0
"""Seconds from one look to the next."""
_DURATION: Final = 40
"""Seconds that a Lease lasts that does not say so, and that a node gets to have one."""
_SELECTOR: Final = "app.kubernetes.io/name=pointsman,app.kubernetes.io/component=agent"
_LOG: Final = logging.getLogger(__name__)


class Sign(NamedTuple):
    """A Lease as it is.

    Attributes:
        renewed: `spec.renewTime`; only compared with itself.
        duration: seconds that it lasts.
    """

    renewed: str
    duration: int


class _Seen(NamedTuple):
    sign: Sign | None
    since: float


class Heartbeats:
    """Judges who is silent; pure."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._last = float("-inf")

    def judge(self, signs: Mapping[str, Sign], nodes: Iterable[str], now: float) -> frozenset[str]:
        """Say which nodes' agents are silent.

        Args:
            signs: of all agents, by the node's name.
            nodes: names of the nodes that should have an agent.
            now: monotonic seconds.
        """
        is_gap = now - self._last > 2 * PERIOD
        self._last = now
        self._seen = {node: self._look(node, signs.get(node), now, is_gap=is_gap) for node in nodes}
        return frozenset(
            node
            for node, seen in self._seen.items()
            if now - seen.since >= (seen.sign.duration if seen.sign is not None else _DURATION)
        )

    def _look(self, node: str, sign: Sign | None, now: float, *, is_gap: bool) -> _Seen:
        seen = self._seen.get(node)
        return _Seen(sign, now) if seen is None or seen.sign != sign or is_gap else seen


class _Metadata(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct, rename="camel"):
    renew_time: str | None = None
    lease_duration_seconds: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec | None = None


class _Leases(msgspec.Struct):
    items: list[_Lease] | None = None


def read_signs(body: bytes) -> dict[str, Sign]:
    """Read a list of Leases, by the node's name.

    Raises:
        msgspec.DecodeError: it is none.
    """
    leases = msgspec.json.decode(body, type=_Leases).items or ()
    return {lease.metadata.name.removeprefix(AGENT_LEASE_PREFIX): _sign(lease.spec or _Spec()) for lease in leases}


def _sign(spec: _Spec) -> Sign:
    return Sign(spec.renew_time or "", spec.lease_duration_seconds or _DURATION)


async def follow_heartbeats(
    client: ApiClient,
    namespace: str,
    clock: Clock,
    *,
    nodes: Callable[[], Iterable[str]],
    take: Callable[[frozenset[str]], None],
) -> None:
    """Look every ten seconds until cancelled.

    Args:
        client: speaks to the API server.
        namespace: of the Leases.
        clock: time.
        nodes: tells the names of the nodes that should have an agent.
        take: gets the names of those that are silent.
    """
    heartbeats, never, trouble = Heartbeats(), asyncio.Event(), ""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    while True:
        before, trouble = trouble, ""
        try:
            signs = read_signs(await client.get(path, {"labelSelector": _SELECTOR}))
            take(heartbeats.judge(signs, nodes(), clock.monotonic()))
        except (ApiError, Unreachable, SourceError, msgspec.DecodeError) as error:
            trouble = str(error)
        if trouble and trouble != before:
            _LOG.warning("cannot look for the agents' signs of life (Leases in %s): %s", namespace, trouble)
        await clock.wait(never, PERIOD)
