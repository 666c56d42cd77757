from __future__ import annotations

from typing import TYPE_CHECKING

import prometheus_client

from pointsman.process.exposition import Exposition, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class One:
    def collect(self) -> Iterator[Metric]:
        yield gauge("ours", "Ours", (), {(): 1.0})


def test_a_scrape_beside_the_first_one_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    exposition = Exposition(One())
    beside: list[bytes] = []
    filling: list[CollectorRegistry] = []

    def fill(registry: CollectorRegistry) -> None:
        filling.append(registry)
        if len(filling) == 1:  # another thread's scrape comes while the first one is still filling its registry
            beside.append(exposition.text())

    monkeypatch.setattr(prometheus_client, "ProcessCollector", fill)
    assert b"ours 1.0" in exposition.text()
    assert [b"ours 1.0" in text for text in beside] == [True]


def test_scrapes_share_one_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CollectorRegistry] = []

    def fill(registry: CollectorRegistry) -> None:
        made.append(registry)

    monkeypatch.setattr(prometheus_client, "ProcessCollector", fill)
    exposition = Exposition(One())
    assert exposition.text() == exposition.text()
    assert len(made) == 1
