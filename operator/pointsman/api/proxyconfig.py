"""The custom resource ProxyConfig: how nodes proxy Services.

The descriptions of the fields are what users read: `docs/configuration.md` is made from them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasPath, Field, ValidationInfo, field_validator
from pydantic_core import to_json

from pointsman.api.labels import LabelSelector
from pointsman.api.names import MODES, Mode
from pointsman.api.resource import Part
from pointsman.api.schedulers import SCHEDULERS
from pointsman.api.values import (
    Cidr,
    Duration,
    MaxUnavailable,
    NodePortAddress,
    PortRange,
    PortRangeText,
    format_duration,
    refuse,
)


class NamespaceRange(Part):
    """A node-port range for the Services of some namespaces."""

    namespace_selector: LabelSelector = LabelSelector()
    """Which namespaces, by their labels. An absent or empty selector means all."""

    range: PortRangeText
    """The node ports that Services of these namespaces may have."""


class Ipvs(Part):
    """Settings of the mode `ipvs`."""

    strict_arp: bool = False
    """Answer ARP requests for an address only on the interface that has it (sysctls `arp_ignore=1` and
    `arp_announce=2`). Load balancers that announce addresses by ARP, such as MetalLB in layer 2 mode, need it."""

    tcp_timeout: Duration | None = None
    """How long an idle TCP connection stays in the IPVS table. Absent: the kernel's value (15m) is left alone."""

    tcp_fin_timeout: Duration | None = None
    """How long a TCP connection stays in the IPVS table after a FIN. Absent: the kernel's value (2m) is left alone."""

    udp_timeout: Duration | None = None
    """How long an idle UDP flow stays in the IPVS table. Absent: the kernel's value (5m) is left alone."""

    exclude_cidrs: tuple[Cidr, ...] = ()
    """Virtual servers with addresses in these networks belong to somebody else and are never touched."""

    graceful_termination: Duration = 900.0
    """How long the connections of a TCP backend that left may go on before the real server is deleted. It gets no new
    connections in that time."""


class Iptables(Part):
    """Settings of the mode `iptables`."""

    localhost_node_ports: bool = True
    """Let node ports answer on 127.0.0.1 too (sysctl `route_localnet=1`), as kube-proxy does. IPv4 only."""


class Conntrack(Part):
    """The kernel's connection tracking. Each field that is absent leaves the kernel's value alone."""

    max_per_core: int | None = Field(default=None, ge=0)
    """Tracked connections for each CPU core (sysctl `nf_conntrack_max`). 0: no limit is set. kube-proxy's default:
    32768."""

    min: int | None = Field(default=None, ge=0)
    """The least number of tracked connections, whatever `maxPerCore` gives. kube-proxy's default: 131072."""

    tcp_established_timeout: Duration | None = None
    """How long an idle established TCP connection is tracked. kube-proxy's default: 24h."""

    tcp_close_wait_timeout: Duration | None = None
    """How long a TCP connection in CLOSE_WAIT is tracked. kube-proxy's default: 1h."""

    tcp_be_liberal: bool | None = None
    """Do not call TCP packets outside the window invalid. Pointsman then does not drop invalid packets either; needed
    with asymmetric routing. kube-proxy's default: false."""

    udp_timeout: Duration | None = None
    """How long a UDP flow without an answer is tracked. kube-proxy's default: 0s, the kernel's value (30s)."""

    udp_stream_timeout: Duration | None = None
    """How long a UDP flow with packets both ways is tracked. kube-proxy's default: 0s, the kernel's value (2m)."""


class Rollout(Part):
    """How a changed configuration reaches the nodes."""

    max_unavailable: MaxUnavailable = "10%"
    """How many of the configuration's nodes may be changing at one time; a share is rounded up. A node whose
    change fails counts until it is ready again, so that a bad configuration stops there."""


class NodeConfiguration(Part):
    """What a node is to do: the part of a ProxyConfig that its NodeProxy repeats. Every field has a default."""

    mode: Mode = "nftables"
    """The dataplane that brings Services into the node's kernel."""

    fallback_modes: tuple[Mode, ...] = ()
    """What to use, in this order, on a node that does not support `mode`. Without one, such a node proxies nothing and
    says why."""

    scheduler: str | None = None
    """How a backend is chosen for a new connection. A Service overrides it by the annotation
    `pointsman.dev/scheduler`. Absent: the mode's default."""

    node_port_range: PortRangeText = PortRange(30000, 32767)
    """Node ports that Services may have; keep it the same as kube-apiserver's `--service-node-port-range`."""

    node_port_ranges: tuple[NamespaceRange, ...] = ()
    """Other ranges for the Services of some namespaces. The first entry whose selector matches wins over
    `nodePortRange`."""

    node_port_addresses: tuple[NodePortAddress, ...] | None = None
    """The node's own addresses on which node ports answer: those in these networks, `primary` (the Node's
    InternalIPs), `localhost` (loopback; without effect in mode `nftables`), or `all`. Absent or empty: `primary` in
    mode `nftables`, `all` in the other modes."""

    pod_cidrs: tuple[Cidr, ...] = ()
    """Networks of this cluster's pods. Connections from elsewhere to a cluster IP are masqueraded. None known: they
    never are (but see `masqueradeAll`)."""

    service_cidrs: tuple[Cidr, ...] = ()
    """Networks of cluster IPs, for clusters without ServiceCIDR objects (before Kubernetes 1.33). Connections to
    addresses there that no Service has are dropped."""

    local_detection: Literal["ClusterCIDR", "NodeCIDR"] = "ClusterCIDR"
    """Which clients count as pods: those with addresses in `podCIDRs` (`ClusterCIDR`), or in the Node's own
    `spec.podCIDRs` (`NodeCIDR`: pods of this node)."""

    masquerade_all: bool = False
    """Masquerade every connection to a cluster IP. Needed only where pods' answers do not come back through the
    node; backends no longer see their clients' addresses."""

    sync_period: Duration = 30.0
    """How often at the least the agent makes sure that the kernel holds what it should, and the longest wait before a
    failed change is tried again."""

    min_sync_period: Duration = 0.05
    """The shortest time from one change of the kernel to the next; changes that come in between are gathered. The
    first change after a quiet time is made at once."""

    ipvs: Ipvs = Ipvs()
    """Settings of the mode `ipvs`."""

    iptables: Iptables = Iptables()
    """Settings of the mode `iptables`."""

    conntrack: Conntrack = Conntrack()
    """The kernel's connection tracking. Fields that are absent leave the kernel's values alone."""

    service_conditions: bool = False
    """Keep the condition `pointsman.dev/Programmed` on each Service: True when every ready node has its newest form in
    the kernel. Nodes then say within a second which resourceVersions they hold, at most one small write each."""

    def node_port_addresses_in(self, mode: Mode) -> tuple[str, ...]:
        """Return `node_port_addresses`, or the default of the mode that is in force."""
        return self.node_port_addresses or (("primary",) if mode == "nftables" else ("all",))

    @field_validator("fallback_modes")
    @classmethod
    def _fall_back_to_another_mode(cls, modes: tuple[Mode, ...], info: ValidationInfo) -> tuple[Mode, ...]:
        mode = info.data.get("mode")
        if mode in modes or len(set(modes)) < len(modes):
            others = ", ".join(m for m in MODES if m != mode)
            raise refuse(list(modes), f"each of {others} at most once (spec.mode is {mode})")
        return modes

    @field_validator("scheduler")
    @classmethod
    def _scheduler_of_the_mode(cls, scheduler: str | None, info: ValidationInfo) -> str | None:
        mode: Mode | None = info.data.get("mode")
        if scheduler is not None and mode is not None and scheduler not in SCHEDULERS[mode]:
            raise refuse(scheduler, f"in mode {mode}: {', '.join(SCHEDULERS[mode])}")
        return scheduler

    @field_validator("node_port_addresses")
    @classmethod
    def _empty_is_absent(cls, addresses: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return addresses or None

    @field_validator("sync_period")
    @classmethod
    def _sync_sometimes(cls, seconds: float) -> float:
        if seconds <= 0:
            raise refuse(format_duration(seconds), "a duration above 0s")
        return seconds

    @field_validator("min_sync_period")
    @classmethod
    def _not_above_sync_period(cls, seconds: float, info: ValidationInfo) -> float:
        longest = info.data.get("sync_period")
        if longest is not None and seconds > longest:
            allowed = f"a duration not above spec.syncPeriod ({format_duration(longest)})"
            raise refuse(format_duration(seconds), allowed)
        return seconds


class ProxyConfigSpec(NodeConfiguration):
    """What a ProxyConfig asks for. Every field has a default."""

    node_selector: LabelSelector | None = None
    """The nodes that this configuration is for, by their labels. Absent: all nodes."""

    priority: int = 0
    """Of several configurations for one node, the one with the highest priority wins; among equals, the first by
    name."""

    rollout: Rollout = Rollout()
    """How a changed configuration reaches the nodes."""


class ProxyConfig(Part):
    """A ProxyConfig object; cluster-scoped, short name `pxc`."""

    name: str = Field(min_length=1, validation_alias=AliasPath("metadata", "name"))
    """`metadata.name`."""

    generation: int = Field(default=0, validation_alias=AliasPath("metadata", "generation"))
    """`metadata.generation`: counts the changes of `spec`; 0 where no API server counts."""

    spec: ProxyConfigSpec = ProxyConfigSpec()
    """What it asks for."""

    @classmethod
    def read(cls, document: object) -> ProxyConfig:
        """Read a ProxyConfig document.

        Args:
            document: plain data as a JSON or YAML reader gives it. Types are not converted (``"1"`` is no number); a
                field that is null is as good as absent.

        Raises:
            pydantic.ValidationError: what is wrong; `pointsman.api.errors.validation_problems` says it for people.
        """
        return cls.model_validate_json(to_json(without_nulls(document)), strict=True)


def without_nulls(value: object) -> object:
    """Leave out the fields of plain data that are null: to Kubernetes they are absent."""
    match value:
        case dict():
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value
