"""The sync loop, driven by a clock that jumps: every test is a small simulation that takes no time."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pointsman.agent.loop import SyncLoop
from pointsman.agent.outcome import Facts, Outcome
from pointsman.dataplane.protocol import Written
from pointsman.model.objects import Namespace, ObjectKey
from pointsman.sources.protocol import Batch, Change

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class OverError(Exception):
    """The simulation has come to its end."""


class JumpingClock:
    """Goes on only when somebody waits, to the next thing that happens; ends the simulation at `end`."""

    def __init__(self, end: float) -> None:
        self.now = 0.0
        self.end = end
        self._todo: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (time, len(self._todo), action))

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_000_000.0 + self.now

    def advance(self, until: float) -> None:
        while self._todo and self._todo[0][0] <= until:
            time, _, action = heapq.heappop(self._todo)
            self.now = max(self.now, time)
            action()
        self.now = max(self.now, until)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        until = self.end if seconds is None else min(self.now + seconds, self.end)
        while not event.is_set() and self.now < until:
            self.advance(min(until, self._todo[0][0]) if self._todo else until)
        if self.now >= self.end:
            raise OverError
        return event.is_set()


class Inline:
    async def run(self, call: Callable[[], T]) -> T:
        return call()


class FakeSyncs:
    """Notes what is asked of it; each sync takes `takes` seconds of the clock and comes out as `results` say."""

    def __init__(self, clock: JumpingClock, *, takes: float = 0.0, min_period: float = 0.05) -> None:
        self.clock = clock
        self.takes = takes
        self.min_period = min_period
        self.results: list[str] = []
        self.calls: list[tuple[float, list[str], bool]] = []
        self.flushed = False
        self.has_news = False
        self.look_again: float | None = None
        self.checks = 0

    def sync(self, changes: dict[ObjectKey, Any], *, full: bool) -> Outcome:
        self.calls.append((round(self.clock.now, 3), [key.name for key in changes], full))
        self.clock.advance(self.clock.now + self.takes)
        result = self.results.pop(0) if self.results else "good"
        if result == "bug":
            raise KeyError(result)
        written = None if result == "failed" else Written(refused={"x": "y"} if result == "refused" else {})
        facts = Facts(
            mode="nftables",
            counts=None,
            health_checks={},
            problems=(),
            node_leaving=False,
            min_sync_period=self.min_period,
            sync_period=30.0,
            look_again=self.look_again,
        )
        self.has_news = False
        error = "" if written else result
        return Outcome(full, frozenset(), self.takes, self.clock.wall(), written, error, (), (), facts)

    def disturbed(self) -> bool:
        self.checks += 1
        flushed, self.flushed = self.flushed, False
        return flushed


def batch(*names: str, complete: bool = True) -> Batch:
    return Batch(tuple(Change(ObjectKey("Namespace", "", n), Namespace(n)) for n in names), complete=complete)


class Simulation:
    def __init__(self, *, end: float = 5.0, takes: float = 0.0, min_period: float = 0.05) -> None:
        self.clock = JumpingClock(end)
        self.syncs = FakeSyncs(self.clock, takes=takes, min_period=min_period)
        self.outcomes: list[Outcome] = []
        self.loop = SyncLoop(self.syncs, Inline(), self.clock, self.outcomes.append)

    def offer(self, time: float, *names: str, complete: bool = True) -> None:
        self.clock.at(time, lambda: self.loop.offer(batch(*names, complete=complete)))

    def run(self) -> list[tuple[float, list[str], bool]]:
        with pytest.raises(OverError):
            asyncio.run(self.loop.run())
        return self.syncs.calls


def test_nothing_is_synced_before_the_source_is_complete() -> None:
    simulation = Simulation()
    simulation.offer(0.1, "a", complete=False)
    simulation.offer(2.0, "b")
    assert simulation.run() == [(2.0, ["a", "b"], True)]
    assert simulation.loop.synced_at == 1_000_002.0


def test_an_empty_source_is_synced_too() -> None:
    simulation = Simulation()
    simulation.offer(1.0)
    assert simulation.run() == [(1.0, [], True)]


def test_the_first_change_goes_at_once_and_a_burst_goes_together() -> None:
    simulation = Simulation()
    for time, name in ((0.0, "start"), (1.0, "a"), (1.01, "b"), (1.02, "c"), (1.2, "d")):
        simulation.offer(time, name)
    assert simulation.run() == [
        (0.0, ["start"], True),
        (1.0, ["a"], False),
        (1.05, ["b", "c"], False),
        (1.2, ["d"], False),
    ]


def test_changes_that_come_during_a_sync_go_with_the_next_one() -> None:
    simulation = Simulation(takes=0.5)
    simulation.offer(0.0, "start")
    simulation.offer(0.2, "a")
    assert simulation.run() == [(0.0, ["start"], True), (0.5, ["a"], False)]


def test_the_minimum_period_of_the_configuration_counts() -> None:
    simulation = Simulation(min_period=1.0)
    for time in (0.0, 0.1, 0.2, 1.3):
        simulation.offer(time, str(time))
    assert [time for time, _, _ in simulation.run()] == [0.0, 1.0, 2.0]


def test_a_failed_sync_is_tried_again_in_full_and_loses_nothing() -> None:
    simulation = Simulation()
    simulation.syncs.results = ["good", "failed", "failed"]
    simulation.offer(0.0, "start")
    simulation.offer(1.0, "a")
    pending: list[int] = []
    simulation.clock.at(1.05, lambda: pending.append(sum(simulation.loop.pending().values())))
    assert simulation.run() == [
        (0.0, ["start"], True),
        (1.0, ["a"], False),
        (1.1, [], True),
        (1.3, [], True),
    ]
    assert pending == [1]
    assert simulation.loop.oldest_change is None
    assert simulation.loop.pending() == {}


def test_the_oldest_change_is_known_while_syncs_fail() -> None:
    simulation = Simulation(end=10.0)
    simulation.syncs.results = ["good"] + ["failed"] * 100
    simulation.offer(0.0, "start")
    simulation.offer(1.0, "a")
    simulation.offer(5.0, "b")
    simulation.run()
    assert simulation.loop.oldest_change == 1.0


def test_what_the_kernel_refuses_is_tried_again() -> None:
    simulation = Simulation()
    simulation.syncs.results = ["good", "refused"]
    simulation.offer(0.0, "start")
    simulation.offer(1.0, "a")
    assert simulation.run() == [(0.0, ["start"], True), (1.0, ["a"], False), (1.1, [], True)]


def test_a_flush_by_another_program_is_mended_within_half_a_second() -> None:
    simulation = Simulation()
    simulation.offer(0.0, "start")

    def flush() -> None:
        simulation.syncs.flushed = True

    simulation.clock.at(3.3, flush)
    start, repair = simulation.run()
    assert start == (0.0, ["start"], True)
    assert repair[1:] == ([], True)
    assert 3.3 <= repair[0] <= 3.8


def test_a_quiet_agent_only_glances_at_its_tables() -> None:
    simulation = Simulation(end=10.0)
    simulation.offer(0.0, "start")
    assert len(simulation.run()) == 1
    assert 38 <= simulation.syncs.checks <= 41


def test_a_better_mode_is_looked_for_in_time() -> None:
    simulation = Simulation(end=100.0)
    simulation.offer(0.0, "start")
    simulation.syncs.look_again = 30.0
    simulation.offer(40.0, "a")
    assert simulation.run() == [
        (0.0, ["start"], True),
        (30.0, [], False),
        (40.0, ["a"], False),
        (70.0, [], False),
    ]


def test_what_is_new_without_a_change_is_told_within_half_a_second() -> None:
    simulation = Simulation()
    simulation.offer(0.0, "start")

    def tell() -> None:
        simulation.syncs.has_news = True

    simulation.clock.at(3.3, tell)
    _, (time, changes, full) = simulation.run()
    assert (changes, full) == ([], False)
    assert 3.3 <= time <= 3.8


def test_a_fault_of_ours_ends_the_loop() -> None:
    simulation = Simulation()
    simulation.syncs.results = ["bug"]
    simulation.offer(0.0, "start")
    with pytest.raises(KeyError):
        asyncio.run(simulation.loop.run())


def test_changes_are_counted_by_kind() -> None:
    simulation = Simulation()
    simulation.offer(0.0, "a", "b")
    simulation.offer(1.0, "a")
    simulation.run()
    assert simulation.loop.totals() == {"Namespace": 3}
    assert simulation.loop.queued_at == 1_000_001.0
    assert len(simulation.outcomes) == 2


class Versions(Simulation):
    """Notes the versions that are held at certain times."""

    def __init__(self, *, end: float = 5.0, takes: float = 0.0) -> None:
        super().__init__(end=end, takes=takes)
        self.held: dict[float, int] = {}

    def tell(self, time: float, version: int, *names: str, complete: bool = True) -> None:
        told = batch(*names, complete=complete)
        told = Batch(told.changes, complete=complete, versions={"Service": version})
        self.clock.at(time, lambda: self.loop.offer(told))

    def note(self, *times: float) -> None:
        for time in times:
            self.clock.at(time, lambda time=time: self.held.update({time: self.loop.versions.get("Service", 0)}))  # type: ignore[misc]  # a default binds


def test_versions_are_held_when_their_sync_is_in_the_kernel() -> None:
    simulation = Versions(takes=0.5)
    simulation.tell(0.0, 7, "start", complete=False)
    simulation.tell(1.0, 8)
    simulation.tell(2.0, 9, "a")
    simulation.note(0.9, 1.4, 1.6, 2.4, 2.6)
    simulation.run()
    assert simulation.held == {0.9: 0, 1.4: 0, 1.6: 8, 2.4: 8, 2.6: 9}


def test_a_version_without_changes_is_held_at_once_when_nothing_waits() -> None:
    simulation = Versions()
    simulation.tell(0.0, 7, "start")
    simulation.tell(1.0, 8)
    simulation.note(0.5, 1.1)
    assert simulation.run() == [(0.0, ["start"], True)], "it is no reason for a sync"
    assert simulation.held == {0.5: 7, 1.1: 8}


def test_a_version_that_comes_during_a_sync_waits_for_the_changes_before_it() -> None:
    simulation = Versions(takes=0.5)
    simulation.tell(0.0, 7, "start")
    simulation.tell(1.0, 8, "a")
    simulation.tell(1.1, 9, "b")
    simulation.tell(1.2, 10)
    simulation.note(1.4, 1.6, 2.1)
    simulation.run()
    assert simulation.held == {1.4: 7, 1.6: 8, 2.1: 10}


@pytest.mark.parametrize("result", ["failed", "refused"])
def test_what_the_kernel_does_not_take_is_not_held(result: str) -> None:
    simulation = Versions()
    simulation.syncs.results = ["good", result, result]
    simulation.tell(0.0, 7, "start")
    simulation.tell(1.0, 8, "a")
    simulation.tell(1.15, 9)
    simulation.note(1.05, 1.2, 1.5)
    simulation.run()
    assert simulation.held == {1.05: 7, 1.2: 7, 1.5: 9}
