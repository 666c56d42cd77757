from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman.agent.metrics import PROGRAMMING_BUCKETS, SYNC_BUCKETS, Metrics
from pointsman.agent.outcome import Cleaned, Facts, Outcome
from pointsman.dataplane.protocol import Written
from pointsman.process.exposition import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Family


@dataclass
class FakeCounts:
    services: int = 5
    service_ports: int = 6
    endpoints: int = 7
    no_local_endpoints_internal: int = 1
    no_local_endpoints_external: int = 2


class FakeQueue:
    queued_at = 1_000.0

    def totals(self) -> dict[str, int]:
        return {"Service": 3, "EndpointSlice": 4, "Endpoints": 1, "Node": 9}

    def pending(self) -> dict[str, int]:
        return {"EndpointSlice": 2}


def outcome(
    *,
    full: bool = False,
    families: frozenset[int] = frozenset({4}),
    error: str = "",
    mode: str = "nftables",
    rules: Mapping[tuple[Family, str], int] | None = None,
) -> Outcome:
    facts = Facts(
        mode=mode,
        counts=FakeCounts(),
        health_checks={},
        problems=(),
        node_leaving=False,
        min_sync_period=0.05,
        sync_period=30.0,
    )
    written = None if error else Written(1, 2, rules=rules or {})
    triggers = () if error else (990.0, 999.9)
    cleaned = (Cleaned(4, 3, 0.5),)
    return Outcome(full, families, 0.003, 1_000.0, written, error, triggers, cleaned, facts)


def samples(metrics: Metrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_buckets_are_those_of_kube_proxy() -> None:
    assert SYNC_BUCKETS[:3] == (0.001, 0.002, 0.004)
    assert len(SYNC_BUCKETS) == 15
    assert PROGRAMMING_BUCKETS[:5] == (0.0, 0.25, 0.5, 1.0, 2.0)
    assert PROGRAMMING_BUCKETS[-10:] == (105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0)
    assert len(PROGRAMMING_BUCKETS) == 81


def test_a_histogram_counts_at_or_below_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum == 12.0


def test_syncs_are_counted_for_the_families_that_they_touched() -> None:
    metrics = Metrics()
    metrics.count_sync(outcome(full=True, families=frozenset({4, 6})))
    metrics.count_sync(outcome())
    found = samples(metrics)
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=IPv4}"] == 2
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=IPv6}"] == 1
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=IPv4,le=0.002}"] == 0
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=IPv4,le=0.004}"] == 2
    assert found["kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=IPv4}"] == 1
    assert found["kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=IPv4}"] == 1
    assert found["kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=IPv6}"] == 0
    assert found["kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}"] == 1_000.0
    assert found["kubeproxy_network_programming_duration_seconds_bucket{ip_family=IPv6,le=0.25}"] == 1
    assert found["kubeproxy_network_programming_duration_seconds_sum{ip_family=IPv6}"] == pytest.approx(10.1)
    assert found["kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=IPv4}"] == 6
    assert found["kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=IPv4}"] == 2
    assert found["kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=internal}"] == 1
    assert found["kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=external}"] == 2


def test_a_failed_sync_is_a_failure_and_no_success() -> None:
    metrics = Metrics()
    metrics.count_sync(outcome(error="no"))
    found = samples(metrics)
    assert found["kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=IPv4}"] == 1
    assert found["kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=IPv6}"] == 0
    assert "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}" not in found
    assert found["kubeproxy_network_programming_duration_seconds_count{ip_family=IPv4}"] == 0


def test_iptables_has_the_metrics_of_kube_proxys_mode_of_that_name() -> None:
    metrics = Metrics()
    failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=IPv4}"
    total = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=IPv6,table=nat}"
    metrics.count_sync(outcome())
    assert not {failures, total} & samples(metrics).keys()
    metrics.count_sync(outcome(mode="iptables", rules={(6, "nat"): 40, (4, "filter"): 7}))
    metrics.count_sync(outcome(mode="iptables", error="no"))
    found = samples(metrics)
    assert (found[failures], found[total]) == (1, 40)
    assert found["kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=IPv4}"] == 0
    metrics.count_sync(outcome())
    assert not {failures, total} & samples(metrics).keys()


def test_changes_are_counted_as_kube_proxy_does() -> None:
    metrics = Metrics()
    metrics.follow(FakeQueue())
    found = samples(metrics)
    assert found["kubeproxy_sync_proxy_rules_service_changes_total{}"] == 3
    assert found["kubeproxy_sync_proxy_rules_service_changes_pending{}"] == 0
    assert found["kubeproxy_sync_proxy_rules_endpoint_changes_total{}"] == 5
    assert found["kubeproxy_sync_proxy_rules_endpoint_changes_pending{}"] == 2
    assert found["kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=IPv6}"] == 1_000.0


def test_probes_are_counted_by_code() -> None:
    metrics = Metrics()
    for code in (200, 200, 503):
        metrics.count_probe("healthz", code)
    metrics.count_probe("livez", 200)
    found = samples(metrics)
    assert found["kubeproxy_proxy_healthz_total{code=200}"] == 2
    assert found["kubeproxy_proxy_healthz_total{code=503}"] == 1
    assert found["kubeproxy_proxy_livez_total{code=200}"] == 1


def test_two_agents_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.count_probe("livez", 200)
    assert "kubeproxy_proxy_livez_total{code=200}" not in samples(other)
    assert "process_resident_memory_bytes{}" in samples(one)


def test_whether_the_api_server_answers_is_told_where_there_is_one() -> None:
    metrics = Metrics()
    assert "pointsman_api_server_up{}" not in samples(metrics)
    away: list[float | None] = [None, 1_000.0]
    metrics.watch_api_server(lambda: away.pop(0))
    assert samples(metrics)["pointsman_api_server_up{}"] == 1
    assert samples(metrics)["pointsman_api_server_up{}"] == 0
