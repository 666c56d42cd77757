"""Whether an agent that is told to end is stopped or uninstalled; whatever leaves a doubt is a stop."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.agent import patience
from pointsman.agent.owner import PATIENCE, Owner, Verdict
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError
from support.writes import FakeWrites, OverError, ScriptedClock

if TYPE_CHECKING:
    from pointsman.model.problems import Problem

PATH = "/apis/apps/v1/namespaces/here/daemonsets/pointsman-agent"


def daemon_set(uid: str = "one", **metadata: object) -> dict[str, object]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "pointsman-agent", "uid": uid, **metadata},
    }


class Reads(FakeWrites):
    """Counts reads, and answers them with what the test says."""

    def __init__(self, clock: ScriptedClock) -> None:
        super().__init__(clock)
        self.times: list[float] = []
        self.answer: Exception | bytes | None = None
        self.clock = clock

    async def get(self, path: str, params: object = None) -> bytes:
        assert params is None
        self.times.append(self.clock.now)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if self.answer is not None else await super().get(path)


class Scene:
    def __init__(self, end: float = 1.0) -> None:
        self.clock = ScriptedClock(end)
        self.api = Reads(self.clock)
        self.told: list[tuple[Problem, ...]] = []
        self.owner = Owner(
            self.api,
            "pointsman-agent",
            namespace="here",
            on_problems=self.told.append,
            clock=self.clock,
            chance=random.Random(1),  # noqa: S311 (not for secrets)
        )

    def look(self) -> None:
        with pytest.raises(OverError):
            asyncio.run(self.owner.run())

    def verdict(self) -> Verdict:
        self.clock.end = self.clock.now + 60.0
        return asyncio.run(self.owner.verdict())


def seen() -> Scene:
    scene = Scene()
    scene.api.objects[PATH] = daemon_set()
    scene.look()
    return scene


def test_a_restart_keeps_the_rules() -> None:
    assert seen().verdict() == Verdict(uninstalled=False, why="DaemonSet here/pointsman-agent is still there")


def test_a_daemon_set_on_its_way_out_is_an_uninstallation() -> None:
    scene = seen()
    scene.api.objects[PATH] = daemon_set(deletionTimestamp="2026-01-01T00:00:00Z")
    assert scene.verdict() == Verdict(uninstalled=True, why="DaemonSet here/pointsman-agent is being deleted")


def test_a_daemon_set_that_is_gone_is_an_uninstallation() -> None:
    scene = seen()
    del scene.api.objects[PATH]
    assert scene.verdict() == Verdict(uninstalled=True, why="DaemonSet here/pointsman-agent is deleted")


def test_one_that_was_never_seen_says_nothing_by_its_absence() -> None:
    scene = Scene()
    assert scene.verdict() == Verdict(uninstalled=False, why="this agent never saw a DaemonSet here/pointsman-agent")


def test_one_that_is_first_seen_on_its_way_out_is_an_uninstallation() -> None:
    scene = Scene()
    scene.api.objects[PATH] = daemon_set(deletionTimestamp="2026-01-01T00:00:00Z")
    assert scene.verdict().uninstalled


def test_another_daemon_set_of_the_same_name_keeps_the_rules_even_when_it_goes() -> None:
    scene = seen()
    scene.api.objects[PATH] = daemon_set("two", deletionTimestamp="2026-01-01T00:00:00Z")
    verdict = scene.verdict()
    assert not verdict.uninstalled
    assert "another DaemonSet here/pointsman-agent" in verdict.why


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            ApiError(401, "Unauthorized", "Unauthorized"),
            "does not tell of DaemonSet here/pointsman-agent: Unauthorized",
        ),
        (ApiError(403, "Forbidden", "not yours"), "not yours (403)"),
        (ApiError(404, "", "nginx says no"), "nginx says no (404)"),
        (ApiError(503, "", "starting"), "starting (503)"),
        (Unreachable("connection refused"), "could not be asked: connection refused"),
        (SourceError("no token"), "could not be asked: no token"),
        (b"<html>", "could not be asked: JSON"),
        (b"{}", "could not be asked: Object missing"),
    ],
)
def test_an_answer_that_says_neither_keeps_the_rules(answer: Exception | bytes, why: str) -> None:
    scene = seen()
    scene.api.answer = answer
    verdict = scene.verdict()
    assert not verdict.uninstalled
    assert why in verdict.why


@pytest.mark.parametrize(
    "trouble",
    [Unreachable("connection reset"), *(ApiError(status, "", "not now") for status in (429, 500, 502, 503, 504))],
)
def test_an_api_server_that_is_away_for_a_moment_is_asked_again(trouble: Exception) -> None:
    scene = seen()
    scene.api.answer = trouble
    gone = daemon_set(deletionTimestamp="2026-01-01T00:00:00Z")
    scene.clock.at(10.0, lambda: setattr(scene.api, "answer", msgspec.json.encode(gone)))
    assert scene.verdict().uninstalled


@pytest.mark.parametrize("trouble", [Unreachable("connection refused"), ApiError(429, "", "not now")])
def test_one_that_stays_away_is_asked_until_there_has_to_be_an_answer(trouble: Exception) -> None:
    scene = seen()
    before = scene.clock.now
    scene.api.answer = trouble
    assert not scene.verdict().uninstalled
    assert PATIENCE - 2 <= scene.clock.now - before < PATIENCE


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_an_answer(status: int) -> None:
    scene = seen()
    before = len(scene.api.times)
    scene.api.answer = ApiError(status, "", "no")
    assert not scene.verdict().uninstalled
    assert len(scene.api.times) == before + 1


def hang(scene: Scene, times: int | None = None) -> None:
    """Let the next requests hang, or all of them."""
    get, requests = scene.api.get, itertools.count() if times is None else iter(range(times))

    async def answer(path: str) -> bytes:
        if next(requests, None) is None:
            return await get(path)
        await asyncio.sleep(60)
        raise AssertionError

    scene.api.get = answer  # type: ignore[method-assign, assignment]  # of this one object


def test_an_api_server_that_hangs_keeps_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ONE_TRY", 0.01)
    scene = seen()
    hang(scene)
    assert scene.verdict() == Verdict(uninstalled=False, why="the API server did not answer within 12 s")


def test_a_request_that_hangs_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ONE_TRY", 0.01)
    scene = seen()
    del scene.api.objects[PATH]
    hang(scene, times=2)
    assert scene.verdict().uninstalled


def test_it_looks_until_it_has_seen_it_and_then_no_more() -> None:
    scene = Scene(end=60.0)
    scene.api.answer = Unreachable("away")
    scene.clock.at(12.0, lambda: setattr(scene.api, "answer", msgspec.json.encode(daemon_set())))
    scene.look()
    assert 3 <= len(scene.api.times) <= 4
    assert scene.api.times[-1] >= 12.0
    assert scene.told == [()]


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (ApiError(403, "Forbidden", "no"), "get daemonsets.apps"),
        (ApiError(404, "NotFound", "no"), "correct --clean-up-with or --namespace"),
    ],
)
def test_why_it_cannot_be_found_is_told_while_there_is_time_to_mend_it(answer: ApiError, remedy: str) -> None:
    scene = Scene()
    scene.api.answer = answer
    scene.look()
    ((problem,),) = scene.told
    assert str(problem).startswith("API server: DaemonSet here/pointsman-agent: cannot be read: no")
    assert remedy in problem.remedy
