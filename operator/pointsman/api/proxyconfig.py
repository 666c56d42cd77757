"""The custom resource ProxyConfig: how nodes proxy Services.

The descriptions of the fields are what users read: `docs/configuration.md` is made from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import AliasPath, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pointsman.api import cel
from pointsman.api.fields import (
    MAX_INT32,
    Cidrs,
    Duration,
    MaxUnavailable,
    ModeName,
    NodePortAddresses,
    PortRangeText,
    PositiveDuration,
    SchedulerFlags,
)
from pointsman.api.labels import LabelSelector
from pointsman.api.names import MAX_NAME_LENGTH, MODES, OWN_NAME_ALLOWED
from pointsman.api.resource import Part, read_document
from pointsman.api.schedulers import OWN_SCHEDULERS, SCHEDULERS, allowed_schedulers, may_have
from pointsman.api.status import ProxyConfigStatus
from pointsman.api.values import DURATION_PATTERN, PortRange, format_duration, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.names import Mode

MAX_NAMESPACE_RANGES: Final = 64
"""So many entries `nodePortRanges` may have; the API server wants bounds for what its rules look at."""
MAX_PRIORITY: Final = 1_000_000_000
"""As with PriorityClasses."""


MAX_FALLBACKS: Final = 8
"""So many modes may stand in `fallbackModes`."""

DEFAULT_FALLBACKS: Final[tuple[Mode, ...]] = ("nftables", "iptables")
"""What a node uses that does not support `mode`, when nobody says."""


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

    exclude_cidrs: Cidrs = ()
    """Networks in which other programs have virtual servers. Pointsman never touches those anywhere; a Service at the
    same address and port is an error, unless the address is in one of these networks."""

    scheduler_flags: SchedulerFlags = ()
    """Variants of the schedulers `sh` and `mh`, for Services without the annotation `pointsman.dev/scheduler-flags`.
    `sh-port` and `mh-port`: the client's port is hashed, too. `sh-fallback` and `mh-fallback`: clients of a backend
    whose weight is 0 get another one; that is so whether or not it is written. What is not for a Service's scheduler
    has no effect there."""

    graceful_termination: Duration = 900.0
    """How long the connections of a TCP backend that left may go on before the real server is deleted. It gets no new
    connections in that time."""


class Iptables(Part):
    """Settings of the mode `iptables`."""

    masquerade_bit: int = Field(default=14, ge=0, le=31)
    """The bit of a packet's mark that asks for masquerading (14: the mark 0x4000). Choose one that no other program
    on the node uses."""

    localhost_node_ports: bool = False
    """Let node ports answer on 127.0.0.1 too, where `nodePortAddresses` takes that in, as its default does here. It
    needs the sysctl `route_localnet`, with which neighbours on the network can send packets to what listens on loopback
    alone, but for a rule of the agent, so that it has to be asked for; kube-proxy's default is true. IPv4 only. The
    agent sets the sysctl back when nothing asks for it any more, and connections to 127.0.0.1 end then."""


class Userspace(Part):
    """Settings of the mode `userspace`."""

    udp_idle_timeout: PositiveDuration = 120.0
    """How long a UDP client is remembered that neither sends nor gets anything. kube-proxy's default was 250ms."""


class Conntrack(Part):
    """The kernel's connection tracking. Each field that is absent leaves the kernel's value alone."""

    max_per_core: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Tracked connections for each CPU core (sysctl `nf_conntrack_max`). 0: no limit is set. kube-proxy's default:
    32768."""

    min: int | None = Field(default=None, ge=0, le=MAX_INT32)
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

    model_config = ConfigDict(
        json_schema_extra={
            cel.RULES: [
                *cel.scheduler_rules(SCHEDULERS, OWN_SCHEDULERS, OWN_NAME_ALLOWED),
                *cel.fallback_rules(MODES),
                cel.period_rule(DURATION_PATTERN),
            ]
        }
    )

    mode: ModeName = "nftables"
    """The dataplane that brings Services into the node's kernel."""

    fallback_modes: tuple[ModeName, ...] = Field(default=(), max_length=MAX_FALLBACKS)
    """What to use, in this order, on a node that does not support `mode`; as soon as it does, `mode` is in force
    there, without a restart. Absent or empty: `nftables`, then `iptables`. A node that supports none of these uses
    what it has, and says so: `ModeInForce` is False."""

    scheduler: str | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        json_schema_extra={
            "x-allowed": f"{'; '.join(map(allowed_schedulers, MODES))}; in a mode of your own what that has"
        },
    )
    """How a backend is chosen for a new connection. A Service overrides it by the annotation
    `pointsman.dev/scheduler`. Absent: the mode's default."""

    node_port_range: PortRangeText = PortRange(30000, 32767)
    """Node ports that Services may have. kube-apiserver has a range of its own (`--service-node-port-range`), and a
    port has to be in both: keep the two the same, or this one inside of that."""

    node_port_ranges: tuple[NamespaceRange, ...] = Field(default=(), max_length=MAX_NAMESPACE_RANGES)
    """Other ranges for the Services of some namespaces. The first entry whose selector matches wins over
    `nodePortRange`."""

    node_port_addresses: NodePortAddresses | None = None
    """The node's own addresses on which node ports answer: those in these networks, `primary` (the Node's
    InternalIPs), `localhost` (127.0.0.1 and ::1), or `all` others. In the modes `nftables` and `userspace` a proxy in
    the agent serves loopback, TCP and UDP; `iptables` needs `iptables.localhostNodePorts` for it; `ipvs` does not
    serve it. Absent or empty: `primary` in mode `nftables`, `all` in the other modes."""

    pod_cidrs: Cidrs = ()
    """Networks of this cluster's pods. Connections from elsewhere to a cluster IP are masqueraded. None known: they
    never are (but see `masqueradeAll`)."""

    service_cidrs: Cidrs = ()
    """Networks of cluster IPs, for clusters without ServiceCIDR objects (before Kubernetes 1.33). Connections to
    addresses there that no Service has are dropped."""

    local_detection: Literal["ClusterCIDR", "NodeCIDR"] = "ClusterCIDR"
    """Which clients count as pods: those with addresses in `podCIDRs` (`ClusterCIDR`), or in the Node's own
    `spec.podCIDRs` (`NodeCIDR`: pods of this node)."""

    masquerade_all: bool = False
    """Masquerade every connection to a cluster IP. Needed only where pods' answers do not come back through the
    node; backends no longer see their clients' addresses."""

    sync_period: PositiveDuration = 30.0
    """How often at the least the agent makes sure that the kernel holds what it should, and the longest wait before a
    failed change is tried again."""

    min_sync_period: Duration = 0.05
    """The shortest time from one change of the kernel to the next; changes that come in between are gathered. The
    first change after a quiet time is made at once."""

    ipvs: Ipvs = Ipvs()
    """Settings of the mode `ipvs`."""

    iptables: Iptables = Iptables()
    """Settings of the mode `iptables`."""

    userspace: Userspace = Userspace()
    """Settings of the mode `userspace`."""

    drain_timeout: Duration = 900.0
    """How long connections go on after a change of `mode`, where the former mode carries them by itself (`ipvs`,
    `userspace`). Those that are left then are ended. Connections of the other modes go on for as long as they like."""

    conntrack: Conntrack = Conntrack()
    """The kernel's connection tracking. Fields that are absent leave the kernel's values alone."""

    service_conditions: bool = False
    """Keep the condition `pointsman.dev/Programmed` on each Service: True when every ready node has its newest form in
    the kernel. Nodes then say within a second which resourceVersions they hold, at most one small write each."""

    def node_port_range_in(self, namespace_labels: Mapping[str, str]) -> PortRange:
        """Return the node ports that Services of a namespace may have: its own range, or the one for all."""
        own = (each.range for each in self.node_port_ranges if each.namespace_selector.matches(namespace_labels))
        return next(own, self.node_port_range)

    def node_port_addresses_in(self, mode: Mode) -> tuple[str, ...]:
        """Return `node_port_addresses`, or the default of the mode that is in force."""
        return self.node_port_addresses or (("primary",) if mode == "nftables" else ("all",))

    def fallback_modes_in_force(self) -> tuple[Mode, ...]:
        """Return `fallback_modes`, or the default when there are none."""
        return self.fallback_modes or tuple(mode for mode in DEFAULT_FALLBACKS if mode != self.mode)

    @field_validator("fallback_modes")
    @classmethod
    def _fall_back_to_another_mode(cls, modes: tuple[Mode, ...], info: ValidationInfo) -> tuple[Mode, ...]:
        mode = info.data.get("mode")
        if mode in modes or len(set(modes)) < len(modes):
            others = ", ".join(m for m in MODES if m != mode)
            allowed = f"each of {others} at most once (spec.mode is {mode})"
            if mode is not None and mode not in MODES:
                allowed = "each mode at most once, and none that is spec.mode"
            raise refuse(list(modes), allowed)
        return modes

    @field_validator("scheduler")
    @classmethod
    def _scheduler_of_the_mode(cls, scheduler: str | None, info: ValidationInfo) -> str | None:
        mode: Mode | None = info.data.get("mode")
        if scheduler is not None and mode is not None and not may_have(mode, scheduler):
            raise refuse(scheduler, allowed_schedulers(mode))
        return scheduler

    @field_validator("node_port_addresses")
    @classmethod
    def _empty_is_absent(cls, addresses: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return addresses or None

    @model_validator(mode="after")
    def _sync_in_time(self) -> Self:
        # Looked at when both are known: a default may be the one that does not fit.
        if self.min_sync_period > self.sync_period:
            allowed = f"a duration not above spec.syncPeriod ({format_duration(self.sync_period)})"
            raise refuse(format_duration(self.min_sync_period), allowed, field="minSyncPeriod")
        return self


class ProxyConfigSpec(NodeConfiguration):
    """What a ProxyConfig asks for. Every field has a default."""

    node_selector: LabelSelector | None = None
    """The nodes that this configuration is for, by their labels. Absent: all nodes."""

    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    """Of several configurations for one node, the one with the highest priority wins; among equals, the first by
    name."""

    rollout: Rollout = Rollout()
    """How a changed configuration reaches the nodes."""


class ProxyConfig(Part):
    """How nodes proxy Services. Cluster-scoped, short name `pxc`.

    A node gets the one with the highest `spec.priority` of those whose `spec.nodeSelector` matches its labels; among
    equals, the first by name. `kubectl get pxc` says on how many nodes it is in force.
    """

    name: str = Field(min_length=1, validation_alias=AliasPath("metadata", "name"))
    """`metadata.name`."""

    generation: int = Field(default=0, validation_alias=AliasPath("metadata", "generation"))
    """`metadata.generation`: counts the changes of `spec`; 0 where no API server counts."""

    uid: str = Field(default="", validation_alias=AliasPath("metadata", "uid"))
    """`metadata.uid`."""

    spec: ProxyConfigSpec = ProxyConfigSpec()
    """What it asks for."""

    status: ProxyConfigStatus = ProxyConfigStatus()
    """What came of it."""

    @classmethod
    def read(cls, document: object) -> ProxyConfig:
        """Read a ProxyConfig document.

        Args:
            document: plain data as a JSON or YAML reader gives it. Types are not converted (``"1"`` is no number); a
                field that is null is as good as absent. What is wrong in its `status` is left out.

        Raises:
            pydantic.ValidationError: what is wrong; `pointsman.api.errors.validation_problems` says it for people.
        """
        return read_document(cls, document)
