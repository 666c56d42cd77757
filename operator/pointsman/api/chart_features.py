"""The chart's values of what can be switched: admission, policies, metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pointsman.api.chart_parts import AnyMapping, Piece, Port, Texts
from pointsman.api.webhooks import FailurePolicy  # noqa: TC001 (pydantic reads the annotations)


class CertManager(Piece):
    """With `webhook.certificates: certManager`."""

    issuer_ref: AnyMapping = Field(default_factory=dict)
    """`{name: …, kind: Issuer | ClusterIssuer, group: cert-manager.io}` of the issuer; `name` is required. It has to
    put the authority's certificate (`ca.crt`) into the Secret."""


class Webhook(Piece):
    """The admission webhook."""

    enabled: bool = True
    """Ask the operator about Services and ProxyConfigs before they are written."""

    failure_policy: FailurePolicy = "Ignore"
    """What the API server does without an answer. `Ignore`: it writes the object unjudged, and a dead webhook stops
    nothing. `Fail`: nobody can change a Service then."""

    namespace_selector: AnyMapping = Field(default_factory=dict)
    """The namespaces whose Services are asked about. Empty: all but `kube-system` and the release's own."""

    timeout_seconds: Annotated[int, Field(ge=1, le=30)] = 5
    """How long the API server waits for an answer."""

    port: Port = 9443
    """Port of the operator's Pods; the Service in front of it has 443."""

    certificates: Literal["operator", "certManager", "secret"] = "operator"
    """Who makes the certificates. `operator`: the operator makes and renews them. `certManager`: cert-manager does.
    `secret`: you do, in the Secret `pointsman-webhook-tls` (`tls.crt`, `tls.key`, `ca.crt`). The operator keeps
    `caBundle` true in all three."""

    cert_manager: CertManager = CertManager()
    """With `certificates: certManager`."""


class NetworkPolicy(Piece):
    """Who may connect to the operator's Pods."""

    enabled: bool = False
    """Allow the webhook's port and the one of probes and metrics, and nothing else. Without effect on `hostNetwork`."""

    api_server_cidrs: list[str] = Field(default_factory=list)
    """Networks from which the webhook may be asked, as the API server's `[192.0.2.10/32]`. Empty: all."""


class AdmissionPolicy(Piece):
    """What RBAC cannot say."""

    enabled: bool = True
    """A ValidatingAdmissionPolicy that binds each agent to its own node: it may write the status of that node's
    NodeProxy and renew that node's Lease, and no other's."""


class ServiceMonitor(Piece):
    """For Prometheus' operator (`monitoring.coreos.com/v1`)."""

    enabled: bool = False
    """Have agents and operator scraped. Agents' metrics then answer on all addresses of a node, see
    `metrics.bindAddress`."""

    labels: Texts = Field(default_factory=dict)
    """Labels by which your Prometheus finds ServiceMonitors: `{release: kube-prometheus-stack}`."""

    interval: str = "30s"
    """How often."""

    scrape_timeout: str = ""
    """How long a scrape may take. Empty: Prometheus' own."""

    metric_relabelings: list[AnyMapping] = Field(default_factory=list)
    """Applied to what was scraped."""


class Dashboard(Piece):
    """For Grafana's sidecar."""

    enabled: bool = False
    """A ConfigMap with a dashboard."""

    labels: Texts = Field(default={"grafana_dashboard": "1"})
    """Labels by which the sidecar finds it."""

    annotations: Texts = Field(default_factory=dict)
    """Annotations of the ConfigMap, such as the folder: `{grafana_folder: Network}`."""


class Metrics(Piece):
    """What agents and operator count."""

    bind_address: str = ""
    """Address of a node on which its agent's `/metrics` answers, IPv6 with or without brackets. Empty: `127.0.0.1`,
    as kube-proxy; with `serviceMonitor.enabled` all addresses, as nobody could scrape it."""

    port: Port = 10249
    """Its port."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    """For Prometheus' operator."""

    dashboard: Dashboard = Dashboard()
    """For Grafana."""
