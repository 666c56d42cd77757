"""What the kernel has counted, for those who ask the agent: ``/connections``, and the metrics of connections.

The counters are read in the kernel's thread, where syncs wait for them meanwhile. So however many ask, they are read at
most once a second, and no more than a tenth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.protocol import DataplaneError, ServerTraffic, Traffic
from pointsman.model.plan import Family
from pointsman.model.problems import Problem
from pointsman.process.http import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.agent.connection_metrics import ConnectionMetrics
    from pointsman.agent.loop import Worker
    from pointsman.model.plan import Answer, Frontend
    from pointsman.process.clock import Clock

_PAUSE: Final = 1.0
"""Seconds from one look at the counters to the next one, at least."""
_SHARE: Final = 10.0
"""The pause is so many times as long as the look took, if that is longer."""
_PATIENCE: Final = 3.0
"""Seconds that an asker waits for a look, which has to wait for a sync: it gets the answer before, then."""
_NOTHING: Final = ServerTraffic(0, 0)


class Backend(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What one backend of a frontend has got.

    Attributes:
        address, port: where it is.
        weight: its share of new connections, as its Pod or EndpointSlice says; 0 while it drains.
        connections: new connections since the kernel has counted them. They begin anew when the backend was gone.
        active, inactive: connections that are established now, and those in any other state; None where the kernel
            does not count them.
    """

    address: str
    port: int
    weight: int
    connections: int
    active: int | None = None
    inactive: int | None = None


class CountedFrontend(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What one frontend has got.

    Attributes:
        service_port: ``namespace/name`` or ``namespace/name:port``.
        family: IP version, 4 or 6.
        address, port, protocol: where clients connect to; the address ``*`` stands for all node-port addresses.
        scheduler: the one in force.
        connections: new connections since the kernel has counted them, refused ones included.
        backends: sorted.
    """

    service_port: str
    family: Family
    address: str
    port: int
    protocol: str
    scheduler: str
    connections: int
    backends: tuple[Backend, ...]


class Connections(msgspec.Struct, frozen=True, rename="camel"):
    """What all frontends of a node have got.

    Attributes:
        node: its name.
        mode: the dataplane in force.
        time: when the counters were read, RFC 3339.
        frontends: sorted by Service port and address.
    """

    node: str
    mode: str
    time: str
    frontends: tuple[CountedFrontend, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the kernel's counters.

    Attributes:
        mode: the dataplane in force.
        time: when, in Unix seconds.
        answers: what the plan says of each frontend.
        traffic: what the kernel has counted; a frontend that is not in the plan may be there, and one may lack.
    """

    mode: str
    time: float
    answers: Mapping[Frontend, Answer]
    traffic: Mapping[Frontend, Traffic]

    def services(self) -> Iterator[tuple[Frontend, Answer, Traffic]]:
        """Return what is both in the plan and in the kernel."""
        for frontend, traffic in self.traffic.items():
            answer = self.answers.get(frontend)
            if answer is not None:
                yield frontend, answer, traffic


def connections_of(node: str, reading: Reading) -> Connections:
    """Say what a reading means, for a node."""
    found = sorted(reading.services(), key=lambda each: (each[1].service_port, each[0]))
    frontends = tuple(
        CountedFrontend(
            answer.service_port,
            frontend.family,
            frontend.address,
            frontend.port,
            frontend.protocol,
            answer.scheduler,
            traffic.connections,
            tuple(_backends(answer, traffic)),
        )
        for frontend, answer, traffic in found
    )
    time = datetime.fromtimestamp(reading.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Connections(node, reading.mode, time, frontends)


def _backends(answer: Answer, traffic: Traffic) -> Iterator[Backend]:
    """Return those of the kernel, and those that are drained, which the kernel may not have any more."""
    pools = (answer.pool, answer.outside) if answer.outside is not None else (answer.pool,)
    weights = {(backend.address, backend.port): backend.weight for pool in pools for backend in pool.backends}
    drained = [where for where, weight in weights.items() if not weight]
    for where in sorted({*traffic.backends, *drained}):
        got = traffic.backends.get(where, _NOTHING)
        weight = weights.get(where, got.weight)
        yield Backend(*where, weight, got.connections, got.active, got.inactive)


class ConnectionReader:
    """Reads the counters when somebody asks, and answers ``/connections``.

    Args:
        node: its name.
        read: looks at the counters; called in the kernel's thread.
        worker: runs calls in that thread.
        clock: time.
        report: takes what is wrong with reading them.
        metrics: what is brought up to date by `count`, if anything is.
    """

    def __init__(
        self,
        node: str,
        read: Callable[[], Reading],
        worker: Worker,
        clock: Clock,
        *,
        report: Callable[[tuple[Problem, ...]], None],
        metrics: ConnectionMetrics | None = None,
    ) -> None:
        self._node = node
        self._read = read
        self._worker = worker
        self._clock = clock
        self._report = report
        self._metrics = metrics
        self._begun: asyncio.Task[None] | None = None
        self._task: asyncio.Task[_Answer] | None = None
        self._last: _Answer | None = None
        self._due = 0.0

    def begin(self) -> None:
        """Count from now on: what is in the kernel is what the plan says."""
        self._begun = asyncio.create_task(self._count())

    async def count(self) -> None:
        """Bring the metrics up to date; they stay as they are while the counters can't be read."""
        if self._begun is not None:
            await self._count()

    async def _count(self) -> None:
        if self._metrics is None:
            return
        with contextlib.suppress(DataplaneError):
            answer = await self._latest()
            await asyncio.to_thread(self._metrics.count, answer.reading)

    async def respond(self) -> Response:
        """Answer ``/connections``."""
        try:
            answer = await self._latest()
        except DataplaneError as error:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
        return Response(HTTPStatus.OK, await asyncio.to_thread(answer.json), "application/json")

    async def _latest(self) -> _Answer:
        task = self._task
        if task is None or (task.done() and self._clock.monotonic() >= self._due):
            task = self._task = asyncio.create_task(self._look())
        # A look that takes longer than its asker waits is of use to the next one, so it is not cancelled.
        await asyncio.wait([task], timeout=_PATIENCE)
        if task.done():
            return task.result()
        if self._last is None:
            raise DataplaneError("the kernel's counters are not read yet: a sync goes first; ask again")
        return self._last

    async def _look(self) -> _Answer:
        try:
            reading, seconds = await self._worker.run(self._timed)
        except (DataplaneError, OSError) as error:
            self._due = self._clock.monotonic() + _PAUSE
            self._report((_unread(error),))
            raise DataplaneError(f"the kernel's counters can't be read: {error}") from error
        self._due = self._clock.monotonic() + max(_PAUSE, _SHARE * seconds)
        self._report(())
        self._last = _Answer(self._node, reading)
        return self._last

    def _timed(self) -> tuple[Reading, float]:
        begun = self._clock.monotonic()
        return self._read(), self._clock.monotonic() - begun


class _Answer:
    """A reading, and what ``/connections`` says of it; that is written once, by the first thread that needs it."""

    def __init__(self, node: str, reading: Reading) -> None:
        self.reading = reading
        self._node = node
        self._json = b""
        self._lock = threading.Lock()

    def json(self) -> bytes:
        with self._lock:
            if not self._json:
                self._json = msgspec.json.encode(connections_of(self._node, self.reading)) + b"\n"
            return self._json


def _unread(error: Exception) -> Problem:
    return Problem(
        source="",
        object="connection counters",
        field="",
        message=f"the kernel does not tell them ({error})",
        remedy="they are asked for again when somebody wants to know",
        dropped="connections of Services in /metrics and `pointsman top`",
    )
