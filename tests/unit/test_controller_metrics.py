from __future__ import annotations

from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.controller.metrics import Known, OperatorMetrics


def samples(metrics: OperatorMetrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def config(name: str, desired: int, updated: int, ready: int) -> ProxyConfig:
    nodes = {"desired": desired, "updated": updated, "ready": ready, "summary": f"{ready}/{desired}"}
    return ProxyConfig.read({"metadata": {"name": name}, "spec": {}, "status": {"nodes": nodes}})


def test_a_new_replica_has_counted_nothing_and_knows_of_no_certificate() -> None:
    found = samples(OperatorMetrics())
    ours = {name: value for name, value in found.items() if name.startswith("pointsman") and "_bucket" not in name}
    created = {name for name in ours if "_created" in name}
    assert {name: value for name, value in ours.items() if name not in created} == {
        "pointsman_operator_writes_total{outcome=done}": 0,
        "pointsman_operator_writes_total{outcome=conflict}": 0,
        "pointsman_operator_writes_total{outcome=failed}": 0,
        "pointsman_admission_review_duration_seconds_count{}": 0,
        "pointsman_admission_review_duration_seconds_sum{}": 0,
    }
    assert any(name.startswith("process_") for name in found)


def test_what_is_counted_is_shown() -> None:
    metrics = OperatorMetrics()
    for outcome in ("done", "conflict", "conflict", "failed"):
        metrics.count_write(outcome)
    metrics.count_review("Service", 0.003, allowed=True)
    metrics.count_review("Service", 0.2, allowed=False)
    metrics.count_review("ProxyConfig", 0.0001, allowed=True)
    found = samples(metrics)
    assert found["pointsman_operator_writes_total{outcome=done}"] == 1
    assert found["pointsman_operator_writes_total{outcome=conflict}"] == 2
    assert found["pointsman_operator_writes_total{outcome=failed}"] == 1
    assert found["pointsman_admission_reviews_total{kind=Service,verdict=allowed}"] == 1
    assert found["pointsman_admission_reviews_total{kind=Service,verdict=refused}"] == 1
    assert found["pointsman_admission_reviews_total{kind=ProxyConfig,verdict=allowed}"] == 1
    assert found["pointsman_admission_review_duration_seconds_bucket{le=0.0005}"] == 1
    assert found["pointsman_admission_review_duration_seconds_bucket{le=0.004}"] == 2
    assert found["pointsman_admission_review_duration_seconds_count{}"] == 3


def test_what_is_known_is_asked_for_at_each_scrape() -> None:
    metrics, end = OperatorMetrics(), datetime(2027, 1, 1, tzinfo=UTC)
    configs = {"default": config("default", 5, 4, 3)}
    outages: list[float | None] = [None]
    metrics.follow(Known(configs, lambda: True, lambda: 7, lambda: outages[-1]))
    metrics.watch_certificate(lambda: end)
    found = samples(metrics)
    assert found["pointsman_operator_leader{}"] == 1
    assert found["pointsman_operator_reconciles_total{}"] == 7
    assert found["pointsman_api_server_up{}"] == 1
    assert found["pointsman_webhook_certificate_expiry_timestamp_seconds{}"] == end.timestamp()
    states = {state: found[f"pointsman_proxyconfig_nodes{{proxyconfig=default,state={state}}}"] for state in STATES}
    assert states == {"desired": 5, "updated": 4, "ready": 3}
    outages.append(1.0)
    del configs["default"]
    found = samples(metrics)
    assert found["pointsman_api_server_up{}"] == 0
    assert not [name for name in found if name.startswith("pointsman_proxyconfig_nodes")]


STATES = ("desired", "updated", "ready")


def test_two_replicas_in_one_process_share_nothing() -> None:
    one, other = OperatorMetrics(), OperatorMetrics()
    one.count_write("done")
    assert samples(other)["pointsman_operator_writes_total{outcome=done}"] == 0
