"""What a replica of the operator counts, and what it knows of the cluster, for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman.process.exposition import Exposition, Histogram, counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from prometheus_client.metrics_core import Metric

    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.controller.writer import Outcome
    from pointsman.process.exposition import Values

REVIEW_BUCKETS: Final = tuple(0.0005 * 2**n for n in range(14))
"""From half a millisecond to four seconds, where the API server has stopped waiting, as a rule."""
_STATES: Final = ("desired", "updated", "ready")


@dataclass(frozen=True, slots=True)
class Known:
    """What is asked for at each scrape.

    Attributes:
        configs: the ProxyConfigs, by name.
        leads: whether this replica leads.
        reconciles: how many times it has decided.
        outage: Unix seconds since when the API server does not answer; None while it does.
    """

    configs: Mapping[str, ProxyConfig]
    leads: Callable[[], bool]
    reconciles: Callable[[], int]
    outage: Callable[[], float | None]


class OperatorMetrics:
    """All that one replica counts; no state is shared with another one."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._writes: dict[Outcome, int] = {"done": 0, "conflict": 0, "failed": 0}
        self._reviews: dict[tuple[str, str], int] = {}
        self._seconds = Histogram(REVIEW_BUCKETS)
        self._certificate_end: Callable[[], datetime | None] = _never
        self._exposition = Exposition(self)

    def follow(self, known: Known) -> None:
        """Ask `known` at each scrape."""
        self._known = known

    def count_write(self, outcome: Outcome) -> None:
        """Count one request to write what was decided."""
        self._writes[outcome] += 1

    def count_review(self, kind: str, seconds: float, *, allowed: bool) -> None:
        """Count one admission review of an object of a kind."""
        verdict = "allowed" if allowed else "refused"
        self._reviews[kind, verdict] = self._reviews.get((kind, verdict), 0) + 1
        self._seconds.observe(seconds)

    def watch_certificate(self, end: Callable[[], datetime | None]) -> None:
        """Ask at each scrape when the certificate that is served ends."""
        self._certificate_end = end

    def exposition(self) -> bytes:
        """Write everything in Prometheus' text format, version 0.0.4."""
        return self._exposition.text()

    def collect(self) -> Iterator[Metric]:
        """Yield everything as prometheus_client's metrics."""
        writes: Values = {(outcome,): count for outcome, count in self._writes.items()}
        yield counter("pointsman_operator_writes_total", "Requests to write what was decided", ("outcome",), writes)
        reviews: Values = dict(self._reviews.items())
        yield counter("pointsman_admission_reviews_total", "Admission reviews", ("kind", "verdict"), reviews)
        name, help_text = "pointsman_admission_review_duration_seconds", "Seconds from a review to its answer"
        yield histogram(name, help_text, (), {(): self._seconds})
        end = self._certificate_end()
        if end is not None:
            name, help_text = "pointsman_webhook_certificate_expiry_timestamp_seconds", "End of the served certificate"
            yield gauge(name, help_text, (), {(): end.timestamp()})
        if self._known is not None:
            yield from _of_cluster(self._known)


def _never() -> None:
    """Know of no certificate: the webhook is not served."""


def _of_cluster(known: Known) -> Iterator[Metric]:
    yield gauge("pointsman_operator_leader", "Whether this replica leads", (), {(): float(known.leads())})
    reconciles: Values = {(): float(known.reconciles())}
    yield counter("pointsman_operator_reconciles_total", "Decisions on what there is to do", (), reconciles)
    there: Values = {(): float(known.outage() is None)}
    yield gauge("pointsman_api_server_up", "Whether the API server answers this replica", (), there)
    nodes: Values = {
        (name, state): getattr(config.status.nodes, state)
        for name, config in sorted(known.configs.items())
        for state in _STATES
    }
    help_text = "Nodes that a ProxyConfig is for, that were told its newest form, and that do what it says"
    yield gauge("pointsman_proxyconfig_nodes", help_text, ("proxyconfig", "state"), nodes)
