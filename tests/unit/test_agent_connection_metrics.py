"""Connections as metrics: what counters begin with, that they do not fall, and what a limit leaves out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman.agent.connections import ConnectionReader, Reading
from pointsman.agent.metrics import Metrics
from pointsman.dataplane.protocol import DataplaneError, ServerTraffic, Traffic
from pointsman.model.plan import NODE_PORT, Answer, Frontend, Pool
from pointsman.process.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WEB, WEB6 = Frontend(4, "10.96.0.1", "tcp", 80), Frontend(6, "fd00:10:96::1", "tcp", 80)
DNS, PORT = Frontend(4, "10.96.0.53", "udp", 53), Frontend(4, NODE_PORT, "tcp", 30080)
NAMES = {WEB: "default/web:http", WEB6: "default/web:http", PORT: "default/web:http", DNS: "kube-system/dns"}
ONE, SIX = ("10.0.0.1", 8080), ("fd00::1", 8080)
WEB_LABELS = "namespace=default,port=http,protocol=tcp,service=web"
DNS_LABELS = "namespace=kube-system,port=53,protocol=udp,service=dns"
SERVICE, BACKEND = "pointsman_service_connections_total", "pointsman_backend_connections_total"
DROPPED = "pointsman_connection_metrics_dropped{}"


class Node:
    """Metrics of a node whose counters are set by hand."""

    def __init__(self, limit: int = 1000) -> None:
        self.metrics = Metrics()
        counted = self.metrics.show_connections(limit)
        assert counted is not None
        self._counted = counted

    def count(self, traffic: Mapping[Frontend, Traffic]) -> dict[str, int]:
        """Take a reading, and scrape."""
        answers = {frontend: Answer(NAMES[frontend], "rr", Pool()) for frontend in traffic}
        self._counted.count(Reading("ipvs", 0.0, answers, traffic))
        return samples(self.metrics)


def samples(metrics: Metrics) -> dict[str, int]:
    found: dict[str, int] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if "connection" in sample.name:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = int(sample.value)
    return found


def got(connections: int, **servers: int) -> Traffic:
    return Traffic(connections, {(name.replace("_", "."), 80): ServerTraffic(n, 1) for name, n in servers.items()})


def test_counting_begins_with_the_first_reading() -> None:
    node = Node()
    assert node.count({WEB: Traffic(100, {ONE: ServerTraffic(100, 1)})}) == {
        f"{SERVICE}{{{WEB_LABELS}}}": 0,
        f"{BACKEND}{{backend=10.0.0.1:8080,{WEB_LABELS}}}": 0,
        DROPPED: 0,
    }
    # What came later begins with all that it has got.
    later = {WEB: Traffic(103, {ONE: ServerTraffic(102, 1)}), DNS: Traffic(7, {SIX: ServerTraffic(7, 1)})}
    assert node.count(later) == {
        f"{SERVICE}{{{WEB_LABELS}}}": 3,
        f"{BACKEND}{{backend=10.0.0.1:8080,{WEB_LABELS}}}": 2,
        f"{SERVICE}{{{DNS_LABELS}}}": 7,
        f"{BACKEND}{{backend=[fd00::1]:8080,{DNS_LABELS}}}": 7,
        DROPPED: 0,
    }


def test_all_frontends_of_a_port_are_one_series() -> None:
    node = Node()
    node.count({WEB: got(0, a=0), WEB6: got(0, b=0), PORT: got(0, a=0)})
    found = node.count({WEB: got(1, a=1), WEB6: got(2, b=2), PORT: got(4, a=4)})
    assert found[f"{SERVICE}{{{WEB_LABELS}}}"] == 7
    assert found[f"{BACKEND}{{backend=a:80,{WEB_LABELS}}}"] == 5
    assert found[f"{BACKEND}{{backend=b:80,{WEB_LABELS}}}"] == 2


def test_a_living_series_does_not_fall() -> None:
    node = Node()
    node.count({WEB: got(0, a=0)})
    node.count({WEB: got(10, a=10), PORT: got(5, a=5)})
    # The kernel has begun anew, and a frontend is gone.
    found = node.count({WEB: got(2, a=1)})
    assert found[f"{SERVICE}{{{WEB_LABELS}}}"] == 17
    assert found[f"{BACKEND}{{backend=a:80,{WEB_LABELS}}}"] == 16
    # A backend that leaves takes its series along, and one that comes back begins anew.
    assert f"{BACKEND}{{backend=a:80,{WEB_LABELS}}}" not in node.count({WEB: got(2)})
    assert node.count({WEB: got(3, a=1)})[f"{BACKEND}{{backend=a:80,{WEB_LABELS}}}"] == 1
    assert node.count({}) == {DROPPED: 0}


def test_the_same_reading_counts_once() -> None:
    node = Node()
    node.count({})
    once = Reading("ipvs", 0.0, {WEB: Answer(NAMES[WEB], "rr", Pool())}, {WEB: got(3)})
    for _ in range(2):
        node._counted.count(once)
    assert samples(node.metrics)[f"{SERVICE}{{{WEB_LABELS}}}"] == 3


def test_open_connections_are_told_where_the_kernel_counts_them() -> None:
    node = Node()
    traffic = {WEB: Traffic(9, {ONE: ServerTraffic(9, 1, 4, 2)}), PORT: Traffic(9, {ONE: ServerTraffic(9, 1, 1, 0)})}
    found = node.count(traffic)
    assert found[f"pointsman_backend_active_connections{{backend=10.0.0.1:8080,{WEB_LABELS}}}"] == 5
    assert found[f"pointsman_backend_inactive_connections{{backend=10.0.0.1:8080,{WEB_LABELS}}}"] == 2


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (1, ["dns"]),
        (2, ["dns", "dns b"]),
        (3, ["dns", "dns a", "dns b"]),
        (4, ["dns", "dns a", "dns b", "web"]),
        (5, ["dns", "dns a", "dns b", "web", "web c"]),
        (6, ["dns", "dns a", "dns b", "web", "web c"]),
    ],
)
def test_the_busiest_stay_within_the_limit(limit: int, kept: list[str]) -> None:
    node = Node(limit)
    node.count({})
    found = node.count({WEB: got(1, c=1), DNS: got(5, a=2, b=3)})
    dropped = found.pop(DROPPED)
    labels = [dict(pair.split("=") for pair in name.partition("{")[2].rstrip("}").split(",")) for name in found]
    assert (
        sorted(" ".join([each["service"], *each.get("backend", "").split(":")[:1]]).strip() for each in labels) == kept
    )
    assert dropped == max(5 - limit, 0)


def test_without_a_limit_there_is_nothing() -> None:
    metrics = Metrics()
    assert metrics.show_connections(0) is None
    assert samples(metrics) == {}


class Inline:
    async def run(self, call: Callable[[], Reading]) -> Reading:
        return call()


class Clock(SystemClock):
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_scrapes_count_from_the_first_sync_on_and_outlive_a_failure() -> None:
    totals = [100, DataplaneError("no"), 103]

    def read() -> Reading:
        total = totals.pop(0)
        if isinstance(total, DataplaneError):
            raise total
        return Reading("nftables", 0.0, {WEB: Answer(NAMES[WEB], "rr", Pool())}, {WEB: got(total)})

    async def scenario() -> None:
        metrics, clock = Metrics(), Clock()
        counted = metrics.show_connections(10)
        reader = ConnectionReader("n", read, Inline(), clock, report=lambda _: None, metrics=counted)
        await reader.count()
        assert len(totals) == 3
        reader.begin()
        assert reader._begun is not None
        await reader._begun
        for value in (0, 3):
            clock.now += 2
            await reader.count()
            assert samples(metrics)[f"{SERVICE}{{{WEB_LABELS}}}"] == value

    asyncio.run(scenario())
    assert totals == []


def test_nobody_looks_at_the_counters_for_metrics_that_nobody_wants() -> None:
    def read() -> Reading:
        raise AssertionError

    async def scenario() -> None:
        reader = ConnectionReader("n", read, Inline(), Clock(), report=lambda _: None)
        reader.begin()
        await reader.count()

    asyncio.run(scenario())
