"""What an operator in a whole cluster has for Prometheus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import fetch

if TYPE_CHECKING:
    from pointsman.lab.controlplane.cluster import LiveCluster


def scraped(cluster: LiveCluster) -> dict[str, float]:
    host = cluster.operators.replicas[0].host
    status, body = fetch(host, "127.0.0.1", 8080, "/metrics")
    assert status == 200
    lines = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.mark.needs("nftables", "connection tracking")
def test_the_operator_counts_reviews_and_knows_its_nodes(cluster: LiveCluster) -> None:
    before = scraped(cluster)
    cluster.operators.wait_for_webhook()  # asks for what is refused
    now = scraped(cluster)
    refused = 'pointsman_admission_reviews_total{kind="Service",verdict="refused"}'
    assert now[refused] > before[refused]
    assert now["pointsman_admission_review_duration_seconds_count"] >= now[refused]
    assert now["pointsman_operator_leader"] == 1
    assert now["pointsman_operator_reconciles_total"] >= 1
    assert now['pointsman_operator_writes_total{outcome="done"}'] >= 1
    assert now["pointsman_api_server_up"] == 1
    days = (now["pointsman_webhook_certificate_expiry_timestamp_seconds"] - time.time()) / 86_400
    assert 300 < days < 366
    assert now["process_resident_memory_bytes"] > 1e7
