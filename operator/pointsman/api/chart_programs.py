"""The chart's values of the two programs: the agent's DaemonSet, the operator's Deployment."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from pointsman.api.chart_parts import EVERYWHERE, AnyMapping, IntOrShare, Piece, Pod, Port, Resources, Seconds, Texts

_OPERATOR_LABELS: Final = {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "operator"}


class Agent(Pod):
    """The node agent: a DaemonSet, on every node."""

    on_uninstall: Literal["clean", "keep"] = "clean"
    """`clean`: `helm uninstall` waits until every node's agent has removed what it put into the kernel. `keep`: it all
    stays in force, for a change to another release or by hand."""

    sysctls: bool = True
    """Mount the node's `/proc/sys/net`, so that `spec.conntrack` and `spec.iptables.localhostNodePorts` of a
    ProxyConfig can be put in force, and what the mode `ipvs` needs. The agent is not privileged, and its own
    `/proc/sys` is read-only."""

    iptables_legacy: bool = False
    """Give agents what the mode `iptables` needs on nodes that use the legacy iptables (`iptables --version` says
    `legacy` there): the capability `NET_RAW`, and the node's `/run/xtables.lock`. Others need neither."""

    state_dir: Annotated[str, Field(pattern="^/.+")] = "/var/lib/pointsman"
    """Directory of the node in which an agent keeps its last configuration, for a start without the API server."""

    fallback_config: bool = False
    """Give agents `proxyConfig.spec` as a file, too: what a node does before it has a NodeProxy, as without the
    operator. A running agent does not read it again; one with a bad file does not start."""

    health_port: Port = 10256
    """Port of `/healthz` and `/livez` on all addresses of the node; load balancers ask there, as they do kube-proxy."""

    connection_metrics: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many series of Services' and backends' connections an agent may have in its `/metrics`; 0 for none. The
    busiest Services come first. With ten thousand Services, each scrape reads the kernel's counters for 50 ms."""

    max_unavailable: IntOrShare = 1
    """How many nodes may be without their agent during an update. Rules stay in force meanwhile."""

    se_linux_options: AnyMapping = Field(default_factory=dict)
    """`seLinuxOptions` of the container, for nodes on which SELinux would keep it from `stateDir`: `{type: spc_t}`."""

    node_selector: Texts = Field(default={"kubernetes.io/os": "linux"})
    """Labels of the nodes that agents run on. A node that is taken out keeps the rules of that time: run `pointsman
    cleanup` there."""

    tolerations: list[AnyMapping] = Field(default=EVERYWHERE)
    """All nodes need their proxy, whatever their taints. A node whose agent is evicted by a taint keeps the rules of
    that time: run `pointsman cleanup` there if it is to be without a proxy."""

    priority_class_name: str = "system-node-critical"
    """Pods of this class are the last to be evicted."""

    termination_grace_period_seconds: Seconds = 30
    """How long an agent that was told to end may take, as to clean up when the chart is uninstalled."""

    resources: Resources = Resources(requests={"cpu": "20m", "memory": "96Mi"}, limits={"memory": "512Mi"})
    """Measured: 75 MiB at 10,000 Services, 165 MiB at 44,000. The limit is there because the kernel spares Pods of this
    priority when memory is short: one that grows without end would take the node with it. An agent that is killed
    leaves all rules in force."""


class DisruptionBudget(Piece):
    """The operator's PodDisruptionBudget."""

    enabled: bool = True
    """There is one, with two replicas or more."""

    max_unavailable: IntOrShare = 1
    """How many replicas a drain may take at one time."""


class Operator(Pod):
    """The operator: a Deployment. Nodes go on without it."""

    replicas: Annotated[int, Field(ge=0, le=100)] = 2
    """One leads, all serve the webhook."""

    host_network: bool = False
    """For clusters whose API server does not reach Pods (some managed ones): the webhook then answers on the nodes'
    addresses, at the port `webhook.port`."""

    health_port: Port = 8080
    """Port of `/healthz`, `/livez`, `/readyz` and `/metrics`."""

    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """Keeps drains from taking all replicas."""

    topology_spread_constraints: list[AnyMapping] = Field(
        default=[
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _OPERATOR_LABELS},
            }
        ]
    )
    """How replicas spread."""

    tolerations: list[AnyMapping] = Field(
        default=[{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}]
    )
    """It may run on control-plane nodes."""

    priority_class_name: str = "system-cluster-critical"
    """Pods of this class are among the last to be evicted."""

    termination_grace_period_seconds: Seconds = 15
    """It gives its leadership back and ends, in a second as a rule."""

    resources: Resources = Resources(requests={"cpu": "20m", "memory": "128Mi"}, limits={"memory": "512Mi"})
    """Measured: 114 MiB at 10,000 Services with two endpoints each."""
