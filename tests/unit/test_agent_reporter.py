"""The status reporter against an API server in memory, by a clock that jumps."""

from __future__ import annotations

import asyncio
import copy
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.agent.reporter import StatusReporter
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.status import HeldVersions, NodeProxyStatus
from pointsman.sources.apiserver.client import ApiError, Unreachable
from support.writes import FakeWrites, OverError, ScriptedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.model.problems import Problem

PATH = "/apis/pointsman.dev/v1alpha1/nodeproxies/node-1"


class Chance(random.Random):
    """Always the same: no spread, no shorter pauses."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 (as inherited)
        return a

    def random(self) -> float:
        return 1.0


class Script:
    """A reporter, its API server, and what happens when.

    Attributes:
        status: what the agent would say now.
    """

    def __init__(self, *, end: float, conditions: bool = False) -> None:
        self.clock = ScriptedClock(end)
        self.writes = FakeWrites(self.clock)
        self.status = NodeProxyStatus(observed_generation=7)
        self.ready = True
        self.told: list[tuple[Problem, ...]] = []
        self.reporter = StatusReporter(
            self.writes,
            "node-1",
            compose=lambda _known: self.status,
            ready=lambda: self.ready,
            on_problems=self.told.append,
            clock=self.clock,
            chance=Chance(),
        )
        self.document: dict[str, Any] = {
            "metadata": {"name": "node-1", "uid": "u", "generation": 1},
            "spec": {"serviceConditions": conditions},
            "status": {"observedGeneration": 7},
        }

    def at(self, time: float, action: Callable[[], object]) -> None:
        self.clock.at(time, action)

    def make(self) -> None:
        """The NodeProxy is there, and the agent hears of it."""
        self.writes.objects[PATH] = copy.deepcopy(self.document)
        self.see()

    def see(self) -> None:
        self.reporter.see(NodeProxy.read(self.writes.objects[PATH]))

    def say(self, **fields: Any) -> None:  # noqa: ANN401 (fields of a status)
        self.status = self.status.model_copy(update=fields)
        self.reporter.look()

    def run(self) -> list[tuple[float, dict[str, Any]]]:
        """Return when what was written."""
        with pytest.raises(OverError):
            asyncio.run(self.reporter.run())
        assert all((verb, path) == ("patch", f"{PATH}/status") for _, verb, path, _ in self.writes.calls)
        return [(time, body["status"]) for time, _, _, body in self.writes.calls]


def test_only_what_is_new_is_written() -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(observed_generation=1, mode="nftables"))
    script.at(5.0, lambda: script.say(problem_count=1))
    assert script.run() == [
        (1.1, {"observedGeneration": 1, "mode": "nftables"}),
        (5.1, {"problemCount": 1}),
    ]
    assert script.writes.objects[PATH]["status"] == {"observedGeneration": 1, "mode": "nftables", "problemCount": 1}


def test_a_quiet_agent_writes_nothing() -> None:
    script = Script(end=600.0)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))
    script.at(2.0, script.see)
    for second in range(3, 600, 10):
        script.at(float(second), script.reporter.look)
    assert len(script.run()) == 1


def test_urgent_changes_go_together_once_a_second() -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    for number in range(20):
        script.at(1.0 + number / 10, lambda number=number: script.say(problem_count=number + 1))  # type: ignore[misc]  # a default binds
    times = [time for time, _ in script.run()]
    assert times[0] == pytest.approx(1.1)
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))
    assert len(times) <= 4
    assert script.writes.objects[PATH]["status"]["problemCount"] == 20


def test_counts_wait_for_half_a_minute_and_go_along_with_what_is_urgent() -> None:
    script = Script(end=100.0)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(services=1))
    script.at(5.0, lambda: script.say(services=2, resource_versions=HeldVersions(services="9")))
    script.at(50.0, lambda: script.say(services=3))
    script.at(55.0, lambda: script.say(problem_count=1))
    written = script.run()
    assert [(round(time), patch) for time, patch in written] == [
        (1, {"services": 1}),
        (31, {"services": 2, "resourceVersions": {"services": "9", "endpointSlices": ""}}),
        (55, {"services": 3, "problemCount": 1}),
    ]


def test_versions_go_at_once_where_somebody_waits_for_them() -> None:
    script = Script(end=10.0, conditions=True)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(resource_versions=HeldVersions(services="9")))
    script.at(3.0, lambda: script.say(resource_versions=HeldVersions(services="10")))
    assert [round(time) for time, _ in script.run()] == [1, 3]


def test_without_a_node_proxy_nothing_is_written() -> None:
    script = Script(end=100.0)
    script.at(1.0, lambda: script.say(problem_count=1))
    script.at(2.0, lambda: script.reporter.see(None))
    assert script.run() == []
    assert script.told == []


def test_one_that_is_gone_is_no_problem_and_one_that_comes_back_is_told_all() -> None:
    script = Script(end=100.0)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))
    script.at(2.0, script.writes.objects.clear)
    script.at(3.0, lambda: script.say(problem_count=2))
    script.at(4.0, lambda: script.say(problem_count=3))
    script.at(50.0, script.make)
    written = script.run()
    assert [round(time) for time, _ in written] == [1, 3, 50], "after the answer 404 it waits for news"
    assert written[-1][1] == {"problemCount": 3}
    assert script.told == [(), ()]


def test_what_another_wrote_is_put_right() -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))

    def silence() -> None:
        script.writes.objects[PATH]["status"]["problemCount"] = 7
        script.see()

    script.at(5.0, silence)
    assert [patch for _, patch in script.run()] == [{"problemCount": 1}, {"problemCount": 1}]


def test_before_there_is_something_to_say_nothing_is_said() -> None:
    script = Script(end=30.0)
    script.ready = False
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))
    script.at(12.0, lambda: setattr(script, "ready", True))
    ((time, _),) = script.run()
    assert time == pytest.approx(20.1, abs=1), "it looks by itself each ten seconds"


def test_a_refusal_is_a_problem_until_it_is_over() -> None:
    script = Script(end=20.0)
    forbidden = ApiError(403, "Forbidden", 'User "x" cannot patch resource "nodeproxies/status"')
    script.writes.failures = [forbidden, forbidden, None]
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))
    times = [time for time, _ in script.run()]
    assert times == pytest.approx([1.1, 2.1, 4.1])
    (problem,), (same,), none = script.told
    assert problem == same
    assert none == ()
    assert "let the agent's ServiceAccount patch nodeproxies/status (RBAC)" in str(problem)


def test_while_the_api_server_is_away_it_is_tried_with_growing_pauses() -> None:
    script = Script(end=300.0)
    script.writes.failures = [Unreachable("refused")] * 8
    script.at(0.0, script.make)
    script.at(1.0, lambda: script.say(problem_count=1))
    times = [time for time, _ in script.run()]
    assert times == pytest.approx([1.1, 2.1, 4.1, 8.1, 16.1, 32.1, 64.1, 124.1, 184.1])
    assert script.told == [()], "the source tells of the outage"
    assert script.writes.objects[PATH]["status"]["problemCount"] == 1


def test_the_last_word_is_written_once() -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    script.run()
    assert asyncio.run(script.reporter.write_last(lambda known: known.status.model_copy(update={"services": 3})))
    assert script.writes.objects[PATH]["status"] == {"observedGeneration": 7, "services": 3}


@pytest.mark.parametrize("failure", [Unreachable("away"), ApiError(403, "Forbidden"), TimeoutError()])
def test_a_last_word_that_nobody_takes_is_told(failure: Exception) -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    script.run()
    script.clock.end = 60.0
    script.writes.failures = [failure] * 60
    assert not asyncio.run(script.reporter.write_last(lambda _: NodeProxyStatus()))
    assert script.clock.now - 10.0 < 5, "the kubelet kills soon"


def test_the_last_word_is_written_again_when_the_api_server_was_away_for_a_moment() -> None:
    script = Script(end=10.0)
    script.at(0.0, script.make)
    script.run()
    script.clock.end = 60.0
    script.writes.failures = [Unreachable("reset"), ApiError(503, "", "not now")]
    assert asyncio.run(script.reporter.write_last(lambda known: known.status.model_copy(update={"services": 3})))
    assert script.writes.objects[PATH]["status"] == {"observedGeneration": 7, "services": 3}


def test_without_a_node_proxy_there_is_no_last_word() -> None:
    script = Script(end=10.0)
    assert asyncio.run(script.reporter.write_last(lambda _: NodeProxyStatus()))
    assert script.writes.calls == []
