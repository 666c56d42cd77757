"""Clients with session affinity that come again and again, on a machine that may stall between two of their visits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.waiting import wait_until
from support.proxied import Clients

if TYPE_CHECKING:
    from collections.abc import Collection

    from kernel.conftest import Ground
    from pointsman.model.plan import Frontend

_SURE: Final = 0.75
"""The part of the timeout after which a client is surely remembered; the kernel's own clock may lag behind ours."""
_PAUSE: Final = 0.5
_PATIENCE: Final = 120.0
"""Seconds between two visits, and until all have come for long enough."""


class Stay(msgspec.Struct):
    """Visits of a client that followed each other in time, so that it was remembered all along.

    Attributes:
        server: who answered all of them.
        since: when the first visit was over (time.monotonic).
        last: when the last one began.
    """

    server: str
    since: float
    last: float


class Regulars(Clients):
    """Clients, and when they came: whoever surely came in time finds the same server.

    Args:
        ground: where they are.
        frontend: where they connect to.
        count: how many.
        timeout: seconds for which each is remembered.
    """

    def __init__(self, ground: Ground, frontend: Frontend, count: int, timeout: float) -> None:
        super().__init__(ground, frontend, count)
        self._timeout = timeout
        self._stays: dict[str, Stay] = {}

    def have_stayed(self) -> bool:
        """Tell whether most clients were remembered for longer than one visit would have made them so."""
        stayed = [each for each in self._stays.values() if each.last - each.since > self._timeout]
        return len(stayed) > len(self._sources) / 2

    def _visit(self, source: str) -> str:
        begun = time.monotonic()
        server = super()._visit(source)
        ended, stay = time.monotonic(), self._stays.get(source)
        if stay is None or ended - stay.last > _SURE * self._timeout:
            self._stays[source] = Stay(server, ended, begun)
        else:
            assert server == stay.server, f"{source} moved, {ended - stay.last:.2f} s after its last visit"
            stay.last = begun
        return server


def come_for_longer_than_the_timeout(every: Collection[Regulars]) -> list[list[str]]:
    """Have clients come, each again before it is forgotten; return who answered them last."""
    servers: list[list[str]] = []

    def have_stayed() -> bool:
        servers[:] = [clients.connect() for clients in every]
        return all(clients.have_stayed() for clients in every)

    wait_until(have_stayed, "clients that come in time", patience=_PATIENCE, pause=_PAUSE)
    return servers
