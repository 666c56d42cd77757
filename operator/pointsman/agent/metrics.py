"""What the agent counts, under the names that dashboards for kube-proxy know.

Names, labels and buckets: kube-proxy's ``pkg/proxy/metrics``. A metric that would have no true value here (iptables
rules in another mode, say) is not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pointsman.agent.connection_metrics import ConnectionMetrics
from pointsman.process.exposition import Exposition, Histogram, counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from pointsman.agent.outcome import Outcome
    from pointsman.model.objects import Kind
    from pointsman.model.plan import Family
    from pointsman.process.exposition import Values

SYNC_BUCKETS: Final = tuple(0.001 * 2**n for n in range(15))
PROGRAMMING_BUCKETS: Final = (0.0, 0.25, 0.5, *map(float, (*range(1, 60), *range(60, 120, 5), *range(120, 301, 30))))
_FAMILY_LABELS: Final[Mapping[Family, str]] = {4: "IPv4", 6: "IPv6"}
_SYNC: Final = "kubeproxy_sync_proxy_rules"
_ENDPOINT_KINDS: Final = ("EndpointSlice", "Endpoints")


class Queue(Protocol):
    """What the metrics ask of the sync loop when they are scraped."""

    @property
    def queued_at(self) -> float | None: ...  # noqa: D102 (Unix seconds of the last change)
    def totals(self) -> Mapping[Kind, int]: ...  # noqa: D102 (changes that ever came)
    def pending(self) -> Mapping[Kind, int]: ...  # noqa: D102 (changes that are not in the kernel)


class Metrics:
    """All that this agent counts; no state is shared with another one."""

    def __init__(self) -> None:
        self._queue: Queue | None = None
        self._outage: Callable[[], float | None] | None = None
        self._connections: ConnectionMetrics | None = None
        self._sync = _by_family(SYNC_BUCKETS)
        self._full = _by_family(SYNC_BUCKETS)
        self._partial = _by_family(SYNC_BUCKETS)
        self._programming = _by_family(PROGRAMMING_BUCKETS)
        self._clean = _by_family(SYNC_BUCKETS)
        self._cleaned: dict[Family, int] = {4: 0, 6: 0}
        self._failures: dict[Family, int] = {4: 0, 6: 0}
        self._restore_failures: dict[Family, int] = {4: 0, 6: 0}
        self._rules: Mapping[tuple[Family, str], int] = {}
        self._uses_iptables = False
        self._synced: dict[Family, float] = {}
        self._no_local: dict[str, int] = {}
        self._probes: dict[tuple[str, int], int] = {}
        self._exposition = Exposition(self)

    def follow(self, queue: Queue) -> None:
        """Ask `queue` for pending changes at each scrape."""
        self._queue = queue

    def watch_api_server(self, outage: Callable[[], float | None]) -> None:
        """Ask at each scrape since when the API server is away (Unix seconds; None: it is there)."""
        self._outage = outage

    def show_connections(self, limit: int) -> ConnectionMetrics | None:
        """Show connections of Services, too, in no more than `limit` series; None when that is 0."""
        if limit:
            self._connections = ConnectionMetrics(limit)
        return self._connections

    def count_probe(self, probe: str, code: int) -> None:
        """Count a response of ``healthz`` or ``livez``."""
        self._probes[probe, code] = self._probes.get((probe, code), 0) + 1

    def count_sync(self, outcome: Outcome) -> None:
        """Count one sync, whatever came of it."""
        counts = outcome.facts.counts
        self._no_local = {
            "internal": counts.no_local_endpoints_internal,
            "external": counts.no_local_endpoints_external,
        }
        self._uses_iptables = outcome.facts.mode == "iptables"
        failures = self._restore_failures if self._uses_iptables else self._failures
        if outcome.written is not None:
            self._rules = outcome.written.rules or (self._rules if self._uses_iptables else {})
        for family in outcome.families:
            self._sync[family].observe(outcome.seconds)
            (self._full if outcome.full else self._partial)[family].observe(outcome.seconds)
            if outcome.written is None:
                failures[family] += 1
                continue
            self._synced[family] = outcome.finished
            for trigger in outcome.triggers:
                self._programming[family].observe(max(outcome.finished - trigger, 0.0))
        for cleaned in outcome.cleaned:
            self._clean[cleaned.family].observe(cleaned.seconds)
            self._cleaned[cleaned.family] += cleaned.entries

    def exposition(self) -> bytes:
        """Write everything in Prometheus' text format, version 0.0.4."""
        return self._exposition.text()

    def collect(self) -> Iterator[Metric]:
        """Yield everything as prometheus_client's metrics."""
        yield _histogram(f"{_SYNC}_duration_seconds", "SyncProxyRules latency in seconds", self._sync)
        yield _histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Syncs that compare all", self._full)
        yield _histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Syncs of changes", self._partial)
        yield _histogram(
            "kubeproxy_network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            self._programming,
        )
        yield _histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds", "Looks for stale UDP entries", self._clean
        )
        yield counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Cumulative conntrack flows deleted",
            ("ip_family",),
            _labelled(self._cleaned),
        )
        yield counter(
            f"{_SYNC}_nftables_sync_failures_total",
            "Cumulative proxy nftables sync failures",
            ("ip_family",),
            _labelled(self._failures),
        )
        if self._uses_iptables:
            yield from self._of_iptables()
        for probe in ("healthz", "livez"):
            codes: Values = {(str(code),): count for (name, code), count in self._probes.items() if name == probe}
            yield counter(f"kubeproxy_proxy_{probe}_total", f"Cumulative proxy {probe} HTTP status", ("code",), codes)
        yield from self._gauges()
        if self._connections is not None:
            yield from self._connections.collect()

    def _of_iptables(self) -> Iterator[Metric]:
        yield counter(
            f"{_SYNC}_iptables_restore_failures_total",
            "Cumulative proxy iptables restore failures",
            ("ip_family",),
            _labelled(self._restore_failures),
        )
        yield gauge(
            f"{_SYNC}_iptables_total",
            "Total number of iptables rules owned by the proxy",
            ("table", "ip_family"),
            {(table, _FAMILY_LABELS[family]): count for (family, table), count in self._rules.items()},
        )

    def _gauges(self) -> Iterator[Metric]:
        if self._outage is not None:
            there: Values = {(): float(self._outage() is None)}
            yield gauge("pointsman_api_server_up", "Whether the API server answers this agent", (), there)
        yield gauge(
            f"{_SYNC}_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            ("ip_family",),
            _labelled(self._synced),
        )
        yield gauge(
            f"{_SYNC}_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            ("traffic_policy",),
            {(policy,): count for policy, count in self._no_local.items()},
        )
        if self._queue is None:
            return
        queued = self._queue.queued_at
        times: Values = {} if queued is None else {(label,): queued for label in _FAMILY_LABELS.values()}
        help_text = "The last time a sync of proxy rules was queued"
        yield gauge(f"{_SYNC}_last_queued_timestamp_seconds", help_text, ("ip_family",), times)
        totals, pending = self._queue.totals(), self._queue.pending()
        for name, title, kinds in (("service", "Service", ("Service",)), ("endpoint", "Endpoint", _ENDPOINT_KINDS)):
            changes = f"{_SYNC}_{name}_changes"
            yield gauge(f"{changes}_pending", f"Pending proxy rules {title} changes", (), _total(pending, kinds))
            yield counter(f"{changes}_total", f"Cumulative proxy rules {title} changes", (), _total(totals, kinds))


def _by_family(buckets: tuple[float, ...]) -> dict[Family, Histogram]:
    return {4: Histogram(buckets), 6: Histogram(buckets)}


def _labelled(values: Mapping[Family, float]) -> Values:
    return {(_FAMILY_LABELS[family],): value for family, value in values.items()}


def _total(counts: Mapping[Kind, int], kinds: Iterable[str]) -> Values:
    return {(): sum(count for kind, count in counts.items() if kind in kinds)}


def _histogram(name: str, help_text: str, families: Mapping[Family, Histogram]) -> Metric:
    return histogram(
        name, help_text, ("ip_family",), {(_FAMILY_LABELS[family],): each for family, each in families.items()}
    )
