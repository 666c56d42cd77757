"""The plan: what a node's kernel shall do, as plain data.

A plan maps a *frontend* (where a connection goes to) to an *answer* (what becomes of it). Everything that is
Kubernetes (traffic policies, topology hints, terminating endpoints, source ranges) has been decided by
`pointsman.policy` before a plan exists; a dataplane knows nothing of Services.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

Family = Literal[4, 6]
Transport = Literal["tcp", "udp", "sctp"]
Masquerade = Literal["never", "off-cluster", "node", "always"]
WhenEmpty = Literal["reject", "drop"]
Draw = Literal["random", "client", "turn"]

IPV4: Final = 4
IPV6: Final = 6
FAMILIES: Final[tuple[Family, ...]] = (IPV4, IPV6)

NODE_PORT: Final = "*"
"""The address of a frontend that stands for every node-port address of the node."""


class Frontend(msgspec.Struct, frozen=True, gc=False, order=True):
    """Where a connection goes to.

    Attributes:
        family: IP version, 4 or 6.
        address: canonical IP address, or `NODE_PORT`.
        protocol: transport protocol, in lower case.
        port: 1..65535.
    """

    family: Family
    address: str
    protocol: Transport
    port: int


class Backend(msgspec.Struct, frozen=True, gc=False, order=True):
    """One endpoint that can answer.

    Attributes:
        address: canonical IP address of the frontend's family.
        port: 1..65535.
        weight: share of new connections, 0..256; 0 drains (no new connections, existing ones go on).
        local: the endpoint may run on this node (its node is this one, or is not known).
    """

    address: str
    port: int
    weight: int = 1
    local: bool = False


class Slots(msgspec.Struct, frozen=True, gc=False):
    """Which backend a scheduler of somebody's own has put where.

    Attributes:
        draw: how a new connection gets its slot: at random, by a hash of the client's address, or in turn.
        backends: the one in each slot, one slot or more; each has a weight above 0, and stands in its pool.
    """

    draw: Draw
    backends: tuple[Backend, ...]


class Pool(msgspec.Struct, frozen=True, gc=False):
    """The backends of one class of clients.

    Attributes:
        backends: sorted, each address and port once.
        when_empty: what becomes of a new connection when no backend has a weight above 0.
        local: a traffic policy keeps other nodes' endpoints out. It says where the backends come from, for dataplanes
            that name their pools; what becomes of a connection does not depend on it.
        slots: what takes the place of the backends' weights, where the scheduler is somebody's own; else None.
    """

    backends: tuple[Backend, ...] = ()
    when_empty: WhenEmpty = "reject"
    local: bool = False
    slots: Slots | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What becomes of connections to one frontend.

    Attributes:
        service_port: ``namespace/name`` or ``namespace/name:port``, for people and metrics.
        scheduler: how a backend is chosen, as the dataplane names it.
        pool: who answers; with `outside` set, who answers pods of this cluster and the node itself.
        outside: who answers all other clients (``externalTrafficPolicy: Local``); None means `pool`.
        affinity: seconds for which a client stays with its backend, or None.
        masquerade: whose source address is replaced by the node's: nobody's, that of clients that are no pods of
            this cluster, that of the node's own connections, everybody's. (A backend that reaches itself is
            always masqueraded.)
        exclusive: the address is this Service's own cluster IP: its other ports are rejected.
        source_ranges: CIDRs of the clients that may connect (others are dropped); None means all.
        scheduler_flags: variants of the scheduler, as ipvsadm(8) calls them (``sh-port``), sorted; IPVS alone has any.
    """

    service_port: str
    scheduler: str
    pool: Pool
    outside: Pool | None = None
    affinity: int | None = None
    masquerade: Masquerade = "never"
    exclusive: bool = False
    source_ranges: tuple[str, ...] | None = None
    scheduler_flags: tuple[str, ...] = ()


class IpvsSettings(msgspec.Struct, frozen=True, gc=False):
    """What the mode `ipvs` needs to know besides; times are in seconds.

    Attributes:
        exclude_cidrs: virtual servers at addresses in these networks belong to others; both families.
        graceful_termination: how long a TCP real server that left may keep its connections.
        tcp_timeout, tcp_fin_timeout, udp_timeout: how long IPVS keeps an idle connection, one after a FIN, and a UDP
            flow; None leaves the kernel's value alone.
    """

    exclude_cidrs: tuple[str, ...] = ()
    graceful_termination: float = 900.0
    tcp_timeout: float | None = None
    tcp_fin_timeout: float | None = None
    udp_timeout: float | None = None


class IptablesSettings(msgspec.Struct, frozen=True, gc=False):
    """What the mode `iptables` needs to know besides.

    Attributes:
        masquerade_bit: the bit of a packet's mark that asks for masquerading, 0..31.
        localhost_node_ports: node ports answer on 127.0.0.1, too.
    """

    masquerade_bit: int = 14
    localhost_node_ports: bool = False


class UserspaceSettings(msgspec.Struct, frozen=True, gc=False):
    """What the mode `userspace` needs to know besides.

    Attributes:
        udp_idle_timeout: seconds after which a UDP client that is silent, and gets no answers, is forgotten.
    """

    udp_idle_timeout: float = 120.0


class NodeSettings(msgspec.Struct, frozen=True, gc=False):
    """What holds for the whole node, not for one frontend.

    Attributes:
        pod_cidrs: networks of this cluster's pods, as this node tells them apart; both families.
        service_cidrs: networks of cluster IPs; addresses there that no frontend has are dropped; both families.
        node_port_cidrs: node-port frontends answer on the node's own addresses in these networks; both families.
            ``0.0.0.0/0`` and ``::/0`` stand for every address of the node but loopback.
        drop_invalid: drop forwarded TCP packets that connection tracking calls invalid
            (kubernetes/kubernetes#74839); off when the kernel's TCP tracking is liberal.
        sync_period: seconds after which the kernel is looked at, where it does not tell of changes by itself.
        drain_timeout: seconds for which connections that a dataplane carries by itself may go on after another mode
            has come in force.
        localhost_node_ports: node ports answer on loopback, too, in a mode that needs the userspace proxy for that.
        ipvs, iptables, userspace: what these modes need to know besides.
    """

    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    node_port_cidrs: tuple[str, ...] = ()
    drop_invalid: bool = True
    sync_period: float = 30.0
    drain_timeout: float = 900.0
    localhost_node_ports: bool = False
    ipvs: IpvsSettings = IpvsSettings()
    iptables: IptablesSettings = IptablesSettings()
    userspace: UserspaceSettings = UserspaceSettings()


class Plan(msgspec.Struct, frozen=True):
    """A node's whole plan."""

    answers: Mapping[Frontend, Answer]
    settings: NodeSettings = NodeSettings()


class Delta(msgspec.Struct, frozen=True):
    """The way from one plan to the next.

    Attributes:
        changed: frontends that are new or answered otherwise, with their new answer.
        removed: frontends that are gone.
        settings: the new settings, or None when they did not change.
    """

    changed: Mapping[Frontend, Answer]
    removed: frozenset[Frontend] = frozenset()
    settings: NodeSettings | None = None

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return bool(self.changed or self.removed or self.settings is not None)


def difference(old: Plan, new: Plan) -> Delta:
    """Compare two plans.

    Returns:
        The delta for which ``apply(old, delta) == new``.
    """
    before = old.answers
    return Delta(
        changed={f: a for f, a in new.answers.items() if before.get(f) != a},
        removed=frozenset(before.keys() - new.answers.keys()),
        settings=None if old.settings == new.settings else new.settings,
    )


def apply(plan: Plan, delta: Delta) -> Plan:
    """Return the plan that `delta` leads to from `plan`."""
    answers = {f: a for f, a in plan.answers.items() if f not in delta.removed}
    answers.update(delta.changed)
    return Plan(answers, delta.settings or plan.settings)
