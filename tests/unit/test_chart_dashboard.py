"""The dashboard asks for nothing that agents and operator do not count."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman.agent.connections import Reading
from pointsman.agent.metrics import Metrics
from pointsman.agent.outcome import Cleaned, Facts, Outcome
from pointsman.api.chart_dashboard import PANELS
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.controller.metrics import Known, OperatorMetrics
from pointsman.dataplane.protocol import ServerTraffic, Traffic, Written
from pointsman.model.plan import Answer, Frontend, Pool

if TYPE_CHECKING:
    from pointsman.api.chart_dashboard import Panel

OF_PROMETHEUS: Final = {"instance", "job"}


class Counts:
    services, service_ports, endpoints = 5, 6, 7
    no_local_endpoints_internal, no_local_endpoints_external = 1, 2


class Queue:
    queued_at = 1_000.0

    def totals(self) -> dict[str, int]:
        return {"Service": 3, "EndpointSlice": 4}

    def pending(self) -> dict[str, int]:
        return {"EndpointSlice": 2}


def busy_agent() -> bytes:
    """Return what an agent shows that has done all that one can do."""
    facts = Facts(
        mode="iptables", counts=Counts(), health_checks={}, problems=(), node_leaving=False,
        min_sync_period=0.05, sync_period=30.0,
    )  # fmt: skip
    metrics = Metrics()
    metrics.follow(Queue())
    metrics.watch_api_server(lambda: None)
    metrics.count_probe("healthz", 200)
    traffic = {Frontend(4, "10.96.0.1", "tcp", 80): Traffic(5, {("10.0.0.1", 80): ServerTraffic(5, 1, 2, 3)})}
    answers = {frontend: Answer("default/web", "rr", Pool()) for frontend in traffic}
    connections = metrics.show_connections(10)
    assert connections is not None
    connections.count(Reading("ipvs", 1_000.0, answers, traffic))
    full, cleaned = True, (Cleaned(4, 3, 0.5),)
    metrics.count_sync(Outcome(full, frozenset({4, 6}), 0.003, 1_000.0, Written(1, 2), "", (990.0,), cleaned, facts))
    return metrics.exposition()


def busy_operator() -> bytes:
    """Return what a replica shows that has done all that one can do."""
    nodes = {"desired": 3, "updated": 3, "ready": 2, "summary": "2/3"}
    config = ProxyConfig.read({"metadata": {"name": "default"}, "spec": {}, "status": {"nodes": nodes}})
    metrics = OperatorMetrics()
    metrics.count_write("done")
    metrics.count_review("Service", 0.003, allowed=True)
    metrics.watch_certificate(lambda: datetime(2027, 1, 1, tzinfo=UTC))
    metrics.follow(Known({"default": config}, lambda: True, lambda: 7, lambda: None))
    return metrics.exposition()


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """The names of all samples, each with its labels."""
    found: dict[str, set[str]] = {}
    for text in (busy_agent(), busy_operator()):
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_query_is_answered(shown: dict[str, set[str]], panel: Panel) -> None:
    for legend, query in panel.queries.items():
        bare = re.sub(r'"[^"]*"', "", query)
        names = re.findall(r"\b(?:kubeproxy|pointsman|process)_\w+", bare)
        assert names
        assert set(names) <= set(shown)
        labels = OF_PROMETHEUS.union(*(shown[name] for name in names))
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", bare) for label in group.split(", ")}
        matched = set(re.findall(r"(\w+)=~?", bare.replace("==", "")))
        assert grouped | matched <= labels
        told = set(re.findall(r"{{(\w+)}}", legend))
        assert told <= grouped or "topk" in query


def test_metrics_that_kube_proxy_has_too_are_those_of_agents() -> None:
    queries = [query for panel in PANELS for query in panel.queries.values()]
    asked = [found for query in queries for found in re.findall(r"kubeproxy_\w+(\{[^}]*\})?", query)]
    assert asked
    assert set(asked) == {'{job="pointsman-agent"}'}
