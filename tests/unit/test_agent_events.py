from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.agent.events import Event, Events, ModeNews, failed_check
from pointsman.agent.outcome import Facts
from pointsman.model.problems import Problem
from pointsman.policy.counts import Counts
from pointsman.sources.apiserver.client import ApiError, Unreachable
from support.writes import FakeWrites, OverError, ScriptedClock

if TYPE_CHECKING:
    from pointsman.api.names import Mode

EVENTS = "/apis/events.k8s.io/v1/namespaces/shop/events"


def failed(*services: str, port: int = 30000) -> dict[str, Problem]:
    message = f"FailedToStartServiceHealthcheck: cannot listen on port {port} (Address already in use)"
    return {name: Problem("", f"Service {name}", "spec", message, "stop what listens there") for name in services}


class Script:
    def __init__(self, end: float) -> None:
        self.clock = ScriptedClock(end)
        self.writes = FakeWrites(self.clock)
        self.events = Events(self.writes, "node-1", self.clock, random.Random(1))  # noqa: S311 (not for secrets)

    def at(self, time: float, failures: dict[str, Problem]) -> None:
        events = [failed_check("node-1", *each) for each in failures.items()]
        self.clock.at(time, lambda: self.events.tell("checks", events))

    def mode_at(self, time: float, event: Event | None) -> None:
        self.clock.at(time, lambda: self.events.tell("mode", () if event is None else (event,)))

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


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_refused_event_is_logged_and_harms_no_other(status: int, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(100.0)
    script.writes.failures = [ApiError(status, "", "not like this")]
    script.at(1.0, failed("shop/a", "shop/b"))
    assert [event["regarding"]["name"] for _, event in script.run()] == ["a", "b"]
    assert "the event on Service shop/a was refused" in caplog.text


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_refusal_that_may_pass_loses_no_event(status: int, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(200.0)
    script.writes.failures = [ApiError(status, "", "not now"), None, ApiError(status, "", "not now")]
    script.at(1.0, failed("shop/a", "shop/b"))
    told = [(time, event["regarding"]["name"]) for time, event in script.run()]
    assert told == [(1.0, "a"), (1.0, "b"), (31.0, "a"), (61.0, "a")]
    assert caplog.text.count("refused") == 1, "the same is said once"


def test_an_event_waits_for_the_object_that_it_is_found_by() -> None:
    script = Script(100.0)
    service = "/api/v1/namespaces/shop/services/web"
    script.writes.objects[service] = {"metadata": {"uid": "service-uid"}}
    script.writes.faults[service] = [ApiError(503, "", "starting")]
    script.at(1.0, failed("shop/web"))
    ((time, event),) = script.run()
    assert (time, event["regarding"]["uid"]) == (31.0, "service-uid")


def test_names_and_notes_stay_within_the_api_servers_limits() -> None:
    script = Script(10.0)
    long = Problem("", "", "", "FailedToStartServiceHealthcheck: " + "ü" * 2000, "x")
    script.at(1.0, {"shop/" + "a" * 250: long})
    ((_, event),) = script.run()
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["note"].encode()) < 1024


def facts(mode: Mode, wanted: Mode | None, why: str = "") -> Facts:
    counts = Counts(0, 0, 0, 0, 0)
    return Facts(
        mode, counts, {}, (), node_leaving=False, min_sync_period=0.05, sync_period=30.0, wanted=wanted, why=why
    )  # fmt: skip


FALLBACK = facts("nftables", "ipvs", "ipvs: no IPVS in this kernel; run `modprobe ip_vs`")
NODE_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


def test_a_node_in_the_wanted_mode_has_no_news() -> None:
    news = ModeNews("node-1")
    assert [news.event(each) for each in (facts("ipvs", "ipvs"), facts("nftables", None))] == [None, None]


def test_a_mode_that_is_not_there_is_told_on_the_node() -> None:
    script = Script(10.0)
    script.writes.objects["/api/v1/nodes/node-1"] = {"metadata": {"uid": "node-uid"}}
    script.mode_at(1.0, ModeNews("node-1").event(FALLBACK))
    ((_, event),) = script.run()
    assert script.writes.calls[0][2] == NODE_EVENTS
    assert event.pop("metadata")["namespace"] == "default"
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2023-11-14T22:13:21.000000Z",
        "reportingController": "pointsman.dev/agent",
        "reportingInstance": "pointsman-agent-node-1",
        "action": "ChooseMode",
        "reason": "ProxyModeFellBack",
        "type": "Warning",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid"},
        "note": ("mode ipvs is wanted, mode nftables is in force; ipvs: no IPVS in this kernel; run `modprobe ip_vs`"),
    }


def test_each_turn_is_told_and_the_good_news_once() -> None:
    news = ModeNews("node-1")
    script = Script(5 * 3600.0)
    back = facts("ipvs", "ipvs")
    for time, each in ((0.0, FALLBACK), (10.0, FALLBACK), (20.0, back), (30.0, back), (40.0, FALLBACK), (9000.0, back)):
        script.mode_at(time, news.event(each))
    told = [(round(time), event["type"], event["reason"]) for time, event in script.run()]
    fell_back, in_force = ("Warning", "ProxyModeFellBack"), ("Normal", "ProxyModeInForce")
    assert [what for time, *what in told if time < 60] == [[*fell_back], [*in_force], [*fell_back]]
    assert [(time // 3600, *what) for time, *what in told if time >= 60] == [
        (1, *fell_back), (2, *fell_back), (2, *in_force),
    ]  # fmt: skip


def test_good_news_wait_for_the_api_server_and_bad_ones_that_are_over_do_not() -> None:
    news = ModeNews("node-1")
    script = Script(300.0)
    script.writes.failures = [Unreachable("away")] * 3
    script.mode_at(1.0, news.event(FALLBACK))
    script.mode_at(40.0, news.event(facts("ipvs", "ipvs")))
    told = [event["reason"] for time, event in script.run() if time > 45]
    assert told == ["ProxyModeInForce"]
