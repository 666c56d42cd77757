"""Metrics as Prometheus wants them: counted in plain arithmetic, put into the library's form when they are asked for.

prometheus_client is loaded by the first scrape, since its import takes a tenth of a second and 14 MiB, which nobody
should wait for at a start.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Values = dict[tuple[str, ...], float]
"""Values by their labels' values."""


class Collector(Protocol):
    """Yields metrics when it is asked for them."""

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        ...


class Exposition:
    """Writes a collector's metrics, and those of the process; no registry is shared with another one.

    Args:
        collector: asked at each scrape.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._registry: CollectorRegistry | None = None

    def text(self) -> bytes:
        """Write everything in Prometheus' text format, version 0.0.4."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest  # noqa: PLC0415 (see above)

        registry = self._registry
        if registry is None:
            registry = CollectorRegistry(auto_describe=False)
            ProcessCollector(registry=registry)
            registry.register(self._collector)
            self._registry = registry  # last: scrapes run in threads, and none must meet one that is half filled
        return generate_latest(registry)


class Histogram:
    """Counts observations in buckets."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return how many values are at or below each bound, as Prometheus wants it."""
        result: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            result.append((bound, total))
        return result


def histogram(
    name: str, help_text: str, labels: tuple[str, ...], histograms: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    """Make a histogram of some, by their labels' values."""
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 (see the module's docstring)

    metric = HistogramMetricFamily(name, help_text, labels=labels)
    for values_of_labels, each in histograms.items():
        metric.add_metric(values_of_labels, each.cumulative(), each.sum)
    return metric


def counter(name: str, help_text: str, labels: tuple[str, ...], values: Values) -> Metric:
    """Make a counter, whose name ends in ``_total``."""
    from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415 (see the module's docstring)

    metric = CounterMetricFamily(name, help_text, labels=labels)
    for values_of_labels, value in values.items():
        metric.add_metric(values_of_labels, value)
    return metric


def gauge(name: str, help_text: str, labels: tuple[str, ...], values: Values) -> Metric:
    """Make a gauge."""
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415 (see the module's docstring)

    metric = GaugeMetricFamily(name, help_text, labels=labels)
    for values_of_labels, value in values.items():
        metric.add_metric(values_of_labels, value)
    return metric
