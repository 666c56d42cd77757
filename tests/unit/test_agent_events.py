from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pointsman.agent.events import ServiceEvents
from pointsman.model.problems import Problem
from pointsman.sources.apiserver.client import ApiError, Unreachable
from support.writes import FakeWrites, OverError, ScriptedClock

EVENTS = "/apis/events.k8s.io/v1/namespaces/shop/events"


def failed(*services: str, port: int = 30000) -> dict[str, Problem]:
    message = f"FailedToStartServiceHealthcheck: cannot listen on port {port} (Address already in use)"
    return {name: Problem("", f"Service {name}", "spec", message, "stop what listens there") for name in services}


class Script:
    def __init__(self, end: float) -> None:
        self.clock = ScriptedClock(end)
        self.writes = FakeWrites(self.clock)
        self.events = ServiceEvents(self.writes, "node-1", self.clock, random.Random(1))  # noqa: S311 (not for secrets)

    def at(self, time: float, failures: dict[str, Problem]) -> None:
        self.clock.at(time, lambda: self.events.tell(failures))

    def run(self) -> list[tuple[float, Any]]:
        with pytest.raises(OverError):
            asyncio.run(self.events.run())
        return [(time, body) for time, _, _, body in self.writes.calls]


def test_an_event_says_which_port_of_which_service_on_which_node() -> None:
    script = Script(10.0)
    script.writes.objects["/api/v1/namespaces/shop/services/web"] = {"metadata": {"uid": "service-uid"}}
    script.at(1.0, failed("shop/web"))
    ((_, event),) = script.run()
    assert event.pop("metadata")["namespace"] == "shop"
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2023-11-14T22:13:21.000000Z",
        "reportingController": "pointsman.dev/agent",
        "reportingInstance": "pointsman-agent-node-1",
        "action": "Listen",
        "reason": "FailedToStartServiceHealthcheck",
        "type": "Warning",
        "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "service-uid"},
        "note": "node node-1: cannot listen on port 30000 (Address already in use); stop what listens there",
    }
    assert script.writes.calls[0][2] == EVENTS


def test_the_same_is_told_once_an_hour() -> None:
    script = Script(3.5 * 3600)
    for minute in range(60):
        script.at(60.0 * minute, failed("shop/web") if minute % 2 else {})
    script.at(3600.0, failed("shop/web"))
    assert [round(time / 3600, 1) for time, _ in script.run()] == [0.0, 1.0, 2.0, 3.0]


def test_another_port_and_another_service_are_news() -> None:
    script = Script(100.0)
    script.at(1.0, failed("shop/a"))
    script.at(2.0, failed("shop/a", "shop/b"))
    script.at(3.0, failed("shop/a", port=30001))
    assert [event["regarding"]["name"] for _, event in script.run()] == ["a", "b", "a"]


def test_what_is_mended_before_the_api_server_is_back_is_not_told() -> None:
    script = Script(200.0)
    script.writes.failures = [Unreachable("away")] * 2
    script.at(1.0, failed("shop/a", "shop/b"))
    script.at(40.0, failed("shop/b"))
    times = [(round(time), event["regarding"]["name"]) for time, event in script.run()]
    assert times == [(1, "a"), (31, "a"), (40, "b")]


def test_a_refused_event_is_logged_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(100.0)
    script.writes.failures = [ApiError(403, "Forbidden", "being terminated")]
    script.at(1.0, failed("shop/a", "shop/b"))
    assert len(script.run()) == 2
    assert "the event on Service shop/a was refused" in caplog.text


def test_names_and_notes_stay_within_the_api_servers_limits() -> None:
    script = Script(10.0)
    long = Problem("", "", "", "FailedToStartServiceHealthcheck: " + "ü" * 2000, "x")
    script.at(1.0, {"shop/" + "a" * 250: long})
    ((_, event),) = script.run()
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["note"].encode()) < 1024
