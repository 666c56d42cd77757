"""Who gets a new connection: round robin, affinity, and the next one when a backend fails; pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pointsman.model.plan import Backend

TIMEOUTS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds that a backend has for its answer: the first that is silent, the second, ... kube-proxy's userspace mode had
the same."""
MOST_CLIENTS: Final = 1 << 20
"""So many clients of a frontend are remembered, as in mode `nftables`; the one that was away longest is forgotten."""

Key = tuple[str, int]
"""A backend's address and port."""


class Attempts:
    """The backends to try for one connection, one after another.

    A backend that refuses is not tried again. One that is silent is tried again when all others have failed, as a
    packet may be lost; the time for an answer grows with each that is silent, and the fourth is the last.

    Args:
        first: the client's own backend, by affinity.
        ring: all backends in turn.
        start: where the turn is.
    """

    __slots__ = ("_current", "_seen", "_silent", "_timeouts", "_walk")

    def __init__(self, first: Backend | None, ring: Sequence[Backend], start: int) -> None:
        self._walk = _walk(first, ring, start)
        self._seen: set[Key] = set()
        self._silent: list[Backend] = []
        self._timeouts = iter(TIMEOUTS)
        self._current: tuple[Backend, float] | None = None

    def next(self) -> tuple[Backend, float] | None:
        """Return the next backend and how many seconds it has for an answer; None when there is nobody left."""
        timeout = self._current[1] if self._current else next(self._timeouts, None)
        if timeout is None:
            return None
        backend = self._fresh() or (self._silent.pop(0) if self._silent else None)
        self._current = (backend, timeout) if backend else None
        return self._current

    def timed_out(self) -> None:
        """Say that the current backend was silent; one of which nothing is said has refused."""
        if self._current is not None:
            self._silent.append(self._current[0])
            self._current = None

    def _fresh(self) -> Backend | None:
        for backend in self._walk:
            key = (backend.address, backend.port)
            if key not in self._seen:
                self._seen.add(key)
                return backend
        return None


class Balancer:
    """The backends of one pool, and which clients stay with which one.

    Args:
        backends: of the pool; those of weight 0 get nothing new.
        affinity: seconds for which a client stays with its backend after its last new connection, or None.
    """

    def __init__(self, backends: Iterable[Backend] = (), affinity: float | None = None) -> None:
        self._clients: OrderedDict[str, tuple[Key, float]] = OrderedDict()
        self._turn = 0
        self._set(backends, affinity)

    @property
    def ring(self) -> tuple[Backend, ...]:
        """All backends that get new connections, in turn; one of twice the weight is there twice."""
        return self._ring

    def update(self, backends: Iterable[Backend], affinity: float | None) -> None:
        """Take other backends. Clients of one that left are nobody's at once."""
        before = self._active.keys()
        self._set(backends, affinity)
        if before - self._active.keys() or affinity is None:
            self._clients = OrderedDict(
                (client, at) for client, at in self._clients.items() if at[0] in self._active and affinity is not None
            )

    def attempts(self, client: str, now: float) -> Attempts:
        """Say whom to try for a new connection.

        Args:
            client: its IP address.
            now: monotonic seconds.
        """
        own = self._own(client, now)
        start = self._turn
        if own is None and self._ring:
            self._turn = (self._turn + 1) % len(self._ring)
            # Remembered at once: a client may open several connections at the same time.
            self.connected(client, self._ring[start], now)
        return Attempts(own, self._ring, start)

    def connected(self, client: str, backend: Backend, now: float) -> None:
        """Remember which backend a client has its newest connection to."""
        if self._affinity is None:
            return
        clients = self._clients
        clients[client] = (backend.address, backend.port), now
        clients.move_to_end(client)
        # In the order of their last connections; so few are looked at that it costs nothing, and all go in time.
        for oldest in [client for client, _ in zip(clients, range(2), strict=False)]:
            if len(clients) > MOST_CLIENTS or clients[oldest][1] + self._affinity <= now:
                del clients[oldest]

    def _own(self, client: str, now: float) -> Backend | None:
        found = self._clients.get(client)
        if found is None or self._affinity is None or found[1] + self._affinity <= now:
            return None
        return self._active.get(found[0])

    def _set(self, backends: Iterable[Backend], affinity: float | None) -> None:
        self._affinity = affinity
        self._ring = ring_of(backends)
        self._active = {(backend.address, backend.port): backend for backend in self._ring}
        self._turn = self._turn % len(self._ring) if self._ring else 0


def ring_of(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Lay backends out in turn: each as often as its weight says, spread evenly; none of weight 0."""
    active = [backend for backend in backends if backend.weight]
    divisor = math.gcd(*(backend.weight for backend in active)) or 1
    slots = (
        ((2 * number + 1) * divisor / backend.weight, index)
        for index, backend in enumerate(active)
        for number in range(backend.weight // divisor)
    )
    return tuple(active[index] for _, index in sorted(slots))


def _walk(first: Backend | None, ring: Sequence[Backend], start: int) -> Iterator[Backend]:
    if first is not None:
        yield first
    for number in range(len(ring)):
        yield ring[(start + number) % len(ring)]
