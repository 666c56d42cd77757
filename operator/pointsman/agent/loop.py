"""The sync loop: the one place that decides when something goes to the kernel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pointsman.agent.pacing import Pacing, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.agent.outcome import Outcome
    from pointsman.model.objects import Kind, ObjectKey
    from pointsman.model.parse import Object
    from pointsman.process.clock import Clock
    from pointsman.sources.protocol import Batch

_GLANCE: Final = 0.25
"""Seconds between two looks at whether another program changed our tables."""

T = TypeVar("T")


class Worker(Protocol):
    """Runs blocking calls one after the other, always in the same thread."""

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` and return what it returns, or raise what it raises."""
        ...


class Syncs(Protocol):
    """What the loop needs of `pointsman.agent.syncer.Syncer`."""

    def sync(self, changes: dict[ObjectKey, Object | None], *, full: bool) -> Outcome:
        """Bring changes into the kernel."""
        ...

    def disturbed(self) -> bool:
        """Tell whether another program changed what is ours."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether a sync has something to tell, even if nothing changed."""
        ...


class SyncLoop:
    """Owns time: takes changes from sources, and runs the syncs that bring them into the kernel.

    What it guarantees:

    * Nothing goes to the kernel before the source has told all that it had at its start. The first sync compares
      the whole plan with what the kernel holds; nothing is flushed, and nothing that is right is written again.
    * The first change after a quiet time is synced at once; after that there is at most one sync each
      `minSyncPeriod`, with everything that came meanwhile. For each object its last form counts.
    * One sync runs at a time, in one thread; the event loop is free meanwhile.
    * A sync that fails leaves in force what the kernel held. It is tried again with growing pauses, after
      `syncPeriod` at the latest, as a full comparison, with the changes that came meanwhile; no change is lost.
    * What the kernel refuses of a sync is told, and tried again in the same way, while all else goes on.
    * While a better mode may come (`Facts.look_again`), a sync looks for it in time, even if nothing changes.
    * When another program changes our tables, a full comparison mends that: within half a second, plus the time
      that the comparison takes.
    * A resourceVersion counts as held when the kernel holds every change that the source told of until it, and
      refused no part of them.
    * An exception that is no refusal (a fault of ours) ends `run`, and with it the agent.

    Attributes:
        synced_at: Unix seconds of the last sync that the kernel took, or None before the first one.
        node_leaving: the node is being deleted, as of the last sync.
        queued_at: Unix seconds of the last change that came, or None before the first one.
        versions: the newest resourceVersions that the kernel holds, by kind; a new mapping for each change.
    """

    def __init__(
        self,
        syncs: Syncs,
        worker: Worker,
        clock: Clock,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._syncs = syncs
        self._worker = worker
        self._clock = clock
        self._on_outcome = on_outcome
        self._wake = asyncio.Event()
        self._pacing = Pacing()
        self._complete = False
        self._waiting: dict[ObjectKey, Object | None] = {}
        self._in_flight: dict[ObjectKey, Object | None] = {}
        self._first_waiting: float | None = None
        self._totals: dict[Kind, int] = {}
        self._next_glance: float | None = None
        self.node_leaving = False
        self.synced_at: float | None = None
        self.queued_at: float | None = None
        self.versions: Mapping[Kind, int] = {}
        self._told: dict[Kind, int] = {}

    def offer(self, batch: Batch) -> None:
        """Take a batch from a source; returns at once."""
        for change in batch.changes:
            self._waiting[change.key] = change.obj
            kind = change.key.kind
            self._totals[kind] = self._totals.get(kind, 0) + 1
        news = bool(batch.changes) or (batch.complete and not self._complete)
        self._complete = self._complete or batch.complete
        self._told |= batch.versions
        self._hold_what_waits_for_nothing()
        if news:
            now = self._clock.monotonic()
            self.queued_at = self._clock.wall()
            if self._first_waiting is None:
                self._first_waiting = now
            self._pacing.change(now)
            self._wake.set()

    @property
    def sync_period(self) -> float:
        """Seconds; `syncPeriod` of the configuration in force."""
        return self._pacing.max_period

    @property
    def why_full(self) -> Why:
        """Why the sync that started last compares everything, if it does."""
        return self._pacing.why

    @property
    def oldest_change(self) -> float | None:
        """Monotonic seconds at which the oldest change came that is not in the kernel, or None."""
        return self._pacing.changed_at

    def totals(self) -> dict[Kind, int]:
        """Count all changes that ever came, by kind."""
        return dict(self._totals)

    def pending(self) -> dict[Kind, int]:
        """Count the objects with a change that is not in the kernel yet, by kind."""
        counts: dict[Kind, int] = {}
        for key in self._waiting.keys() | self._in_flight.keys():
            counts[key.kind] = counts.get(key.kind, 0) + 1
        return counts

    async def run(self) -> None:
        """Sync until cancelled. A sync that runs then is finished first."""
        while True:
            await self._pause()
            await self._glance()
            due = self._pacing.due() if self._complete else None
            if due is not None and due <= self._clock.monotonic():
                await self._sync()

    async def _pause(self) -> None:
        """Wait until the next sync is due, a change comes, or it is time to look at our tables."""
        due = self._pacing.due() if self._complete else None
        times = [time for time in (due, self._next_glance) if time is not None]
        seconds = max(min(times) - self._clock.monotonic(), 0.0) if times else None
        if seconds != 0.0:
            await self._clock.wait(self._wake, seconds)
        self._wake.clear()

    async def _glance(self) -> None:
        now = self._clock.monotonic()
        if self._next_glance is None or now < self._next_glance:
            return
        self._next_glance = now + _GLANCE
        if await self._worker.run(self._syncs.disturbed):
            self._pacing.disturb(now)
        if self._syncs.has_news:
            self._pacing.look(now)

    async def _sync(self) -> None:
        full = self._pacing.start(self._clock.monotonic())
        changes, self._waiting, self._first_waiting = self._waiting, {}, None
        self._in_flight |= changes
        told = self._told.copy()
        outcome = await self._worker.run(lambda: self._syncs.sync(changes, full=full))
        now = self._clock.monotonic()
        self.node_leaving = outcome.facts.node_leaving
        self._pacing.min_period = outcome.facts.min_sync_period
        self._pacing.max_period = outcome.facts.sync_period
        if outcome.facts.look_again is not None:
            self._pacing.look(now + outcome.facts.look_again)
        if outcome.written is None:
            self._pacing.fail(now)
        else:
            self._in_flight = {}
            self.synced_at = self._clock.wall()
            if self._next_glance is None:
                self._next_glance = now + _GLANCE
            self._pacing.succeed(now, newer=self._first_waiting, complete=not outcome.written.refused)
            if not self._pacing.incomplete:
                self.versions = told
            self._hold_what_waits_for_nothing()
        self._on_outcome(outcome)

    def _hold_what_waits_for_nothing(self) -> None:
        """Count versions as held that came without a change (bookmarks; status that nobody plans by)."""
        waiting = self.synced_at is None or self._waiting or self._in_flight or self._pacing.incomplete
        if not waiting and self.versions != self._told:
            self.versions = self._told.copy()
