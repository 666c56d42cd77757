"""The Grafana dashboard: what agents and operator count, as panels."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

_SYNC: Final = "kubeproxy_sync_proxy_rules"
_AGENTS: Final = '{job="pointsman-agent"}'
"""Of agents alone: kube-proxy has metrics of the same names, and runs beside them during a takeover."""
_WIDTH: Final = 24
_HEIGHT: Final = 7


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: its headline.
        unit: of its values, as Grafana names units.
        queries: PromQL, by the legend of what it gives.
        kind: ``timeseries`` or ``stat``.
        width: of 24 columns.
        text: what it says, and what to do about it.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = 8
    text: str = ""


def _rate(metric: str) -> str:
    return f"rate({metric}{_AGENTS}[$__rate_interval])"


def _quantile(share: float, metric: str, of: str = _AGENTS) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{of}[$__rate_interval])))"


PANELS: Final = (
    Panel(
        "Agents without the API server", "short",
        {"agents": 'count(pointsman_api_server_up{job="pointsman-agent"} == 0) or vector(0)'},
        "stat", 6, "Their rules stay in force; what changes meanwhile reaches them when it is back.",
    ),
    Panel(
        "Nodes ready", "short",
        {"{{proxyconfig}}": 'max by (proxyconfig) (pointsman_proxyconfig_nodes{state="ready"})'},
        "stat", 6, "Nodes that do what their ProxyConfig says: kubectl get pxc,npx.",
    ),
    Panel(
        "Nodes not ready", "short",
        {
            "{{proxyconfig}}": 'max by (proxyconfig) (pointsman_proxyconfig_nodes{state="desired"}) - '
            'max by (proxyconfig) (pointsman_proxyconfig_nodes{state="ready"})'
        },
        "stat", 6, "kubectl get npx says why.",
    ),
    Panel(
        "Webhook's certificate ends in", "s",
        {"certificate": "min(pointsman_webhook_certificate_expiry_timestamp_seconds) - time()"},
        "stat", 6, "It is renewed when two thirds of its life are over.",
    ),
    Panel(
        "From an endpoint's change to the kernel", "s",
        {
            "p50": _quantile(0.5, "kubeproxy_network_programming_duration_seconds"),
            "p99": _quantile(0.99, "kubeproxy_network_programming_duration_seconds"),
        },
        text="From the time on the EndpointSlice to the end of the sync that brought it into the kernel.",
    ),
    Panel(
        "Duration of a sync", "s",
        {"p50": _quantile(0.5, f"{_SYNC}_duration_seconds"), "p99": _quantile(0.99, f"{_SYNC}_duration_seconds")},
    ),
    Panel(
        "Syncs", "ops",
        {
            "of changes": f"sum({_rate('kubeproxy_sync_partial_proxy_rules_duration_seconds_count')})",
            "of everything": f"sum({_rate('kubeproxy_sync_full_proxy_rules_duration_seconds_count')})",
        },
    ),
    Panel(
        "Changes that came", "ops",
        {
            "Services": f"max({_rate(f'{_SYNC}_service_changes_total')})",
            "endpoints": f"max({_rate(f'{_SYNC}_endpoint_changes_total')})",
        },
        text="On the node with the most of them; all nodes see the same ones.",
    ),
    Panel(
        "Changes that wait", "short",
        {
            "Services": f"max({_SYNC}_service_changes_pending{_AGENTS})",
            "endpoints": f"max({_SYNC}_endpoint_changes_pending{_AGENTS})",
        },
        text="On the node with the most of them. Ones that stay are a node that cannot write its kernel.",
    ),
    Panel(
        "Failed syncs", "ops",
        {
            "{{instance}}": f"sum by (instance) ({_rate(f'{_SYNC}_nftables_sync_failures_total')}) > 0",
            "{{instance}}: iptables": f"sum by (instance) ({_rate(f'{_SYNC}_iptables_restore_failures_total')}) > 0",
        },
        text="The agent's log and its NodeProxy name what the kernel refused.",
    ),
    Panel(
        "Time since the last sync", "s",
        {"{{instance}}": f"topk(5, time() - max by (instance) ({_SYNC}_last_timestamp_seconds{_AGENTS}))"},
        text="The five nodes with the oldest. Each node syncs at least once every spec.syncPeriod.",
    ),
    Panel(
        "Services without local endpoints", "short",
        {"{{traffic_policy}} policy": f"max by (traffic_policy) ({_SYNC}_no_local_endpoints_total{_AGENTS})"},
        text="With traffic policy Local and nobody to answer on some node, there.",
    ),
    Panel(
        "Admission reviews", "ops",
        {"{{kind}} {{verdict}}": "sum by (kind, verdict) (rate(pointsman_admission_reviews_total[$__rate_interval]))"},
    ),
    Panel(
        "Duration of a review", "s",
        {"p99": _quantile(0.99, "pointsman_admission_review_duration_seconds", of="")},
        width=12,
    ),
    Panel(
        "Operator", "ops",
        {
            "reconciles": "sum(rate(pointsman_operator_reconciles_total[$__rate_interval]))",
            "writes {{outcome}}": "sum by (outcome) (rate(pointsman_operator_writes_total[$__rate_interval]))",
            "leaders": "sum(pointsman_operator_leader)",
        },
        text="There is one leader. None for more than half a minute: look at the operator's log.",
        width=12,
    ),
    Panel(
        "CPU", "percentunit",
        {"{{instance}}": 'topk(5, rate(process_cpu_seconds_total{job=~"pointsman-.*"}[$__rate_interval]))'},
        width=12,
    ),
    Panel(
        "Memory", "bytes",
        {"{{instance}}": 'topk(5, process_resident_memory_bytes{job=~"pointsman-.*"})'},
        width=12,
    ),
    Panel(
        "New connections of the busiest Services", "cps",
        {
            "{{namespace}}/{{service}}:{{port}}": "topk(10, sum by (namespace, service, port) "
            f"({_rate('pointsman_service_connections_total')}))"
        },
        width=12, text="On all nodes; with agent.connectionMetrics of the chart.",
    ),
    Panel(
        "Backends with the most open connections", "short",
        {
            "{{namespace}}/{{service}} {{backend}}": "topk(10, sum by (namespace, service, backend) "
            f"(pointsman_backend_active_connections{_AGENTS}))"
        },
        text="On all nodes, in modes ipvs and userspace: the others do not count them.",
    ),
    Panel(
        "Series left out", "short",
        {"connections": f"max(pointsman_connection_metrics_dropped{_AGENTS})"},
        "stat", 4, "On the node with the most of them: raise agent.connectionMetrics of the chart, or do without.",
    ),
)  # fmt: skip


def dashboard_file() -> str:
    """Return the dashboard as Grafana reads it."""
    return json.dumps(_dashboard(), indent=2) + "\n"


def _dashboard() -> dict[str, Any]:
    datasource = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "pointsman",
        "title": "Pointsman",
        "tags": ["kubernetes", "network"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [datasource]},
        "panels": [_panel(number, panel, *place) for number, (panel, place) in enumerate(_placed(), start=1)],
    }


def _placed() -> list[tuple[Panel, tuple[int, int]]]:
    """Put the panels into rows, from left to right."""
    placed, x, y = [], 0, 0
    for panel in PANELS:
        if x + panel.width > _WIDTH:
            x, y = 0, y + _HEIGHT
        placed.append((panel, (x, y)))
        x += panel.width
    return placed


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }
