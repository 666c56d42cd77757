"""What happens to one connection, and why; from the plan alone, without a kernel.

The decisions are read off the plan, as a dataplane would do; the planner's own objects serve for the reasons.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pointsman.model.address import family_of, joined
from pointsman.model.plan import IPV4, NODE_PORT, Answer, Frontend, Pool, Transport
from pointsman.policy.claims import owner_of
from pointsman.policy.frontends import node_port_of, port_name
from pointsman.policy.reasons import EndpointReason, Policy, endpoint_reasons
from pointsman.policy.source_ranges import holds, ranges_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.objects import Service, ServicePort
    from pointsman.model.plan import Draw, Slots
    from pointsman.policy.planner import Planner

Verdict = Literal["forwarded", "rejected", "dropped", "untouched"]
AddressKind = Literal["cluster IP", "load balancer IP", "external IP", "node port", ""]
SourceClass = Literal["pod", "node", "outside"]
Masqueraded = Literal["yes", "no", "when it reaches itself"]

_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_LISTENED: Final = ("127.0.0.1", "::1")
"""Where the agent's proxy listens on loopback, in a mode whose rules do not reach there."""
_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")
"""Stands for every address of the node but loopback (`NodeSettings.node_port_cidrs`)."""
_CLIENTS: Final = {"pod": "a pod of this cluster", "node": "this node itself", "outside": "a client from outside"}
_DRAWS: Final[Mapping[Draw, str]] = {
    "random": "drawn at random",
    "client": "drawn by the client's address",
    "turn": "drawn in turn",
}
_PROXIED: Final = "the proxy in the agent answers, and connects to the endpoint itself, from an address of the node"
_NO_SCTP: Final = "the proxy of mode userspace copies streams and datagrams, and has no SCTP; use another mode for it"
_ALONE: Final = "; mode iptables has no rule for it, and the packet goes its way"
_SILENT: Final = "node ports do not answer on loopback"
_NAMED: Final = 8
"""Endpoints whose slots are told."""


class Connection(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A connection to be explained: canonical addresses of one IP family, and a port."""

    source: str
    destination: str
    port: int
    protocol: Transport = "tcp"


class Client(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What a source address is to this node: in its pod networks, one of its own, both, or neither."""

    address: str
    is_pod: bool
    is_node: bool

    @property
    def source_class(self) -> SourceClass:
        """The one word for it."""
        return "node" if self.is_node else "pod" if self.is_pod else "outside"

    @property
    def inside(self) -> bool:
        """Whether a Local policy for external traffic does not hold it to this node's endpoints."""
        return self.is_pod or self.is_node


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """What happens to a connection, and why.

    Attributes:
        connection: the question.
        source_class: what the client is to this node.
        verdict: forwarded to an endpoint, rejected at once, dropped in silence, or left untouched.
        why: the reason for the verdict, as a sentence.
        frontend: what it hit, or None.
        address_kind: which kind of the Service's address that is.
        service_port: ``namespace/name:port`` of the Service, or "".
        policy: the traffic policy that holds for this client, or "".
        policy_why: the reason for it.
        scheduler: how one of the endpoints is chosen.
        affinity: seconds for which the client stays with its endpoint, or None.
        masqueraded: whether the endpoint sees the node's address instead of the client's.
        masquerade_why: the reason, as a sentence.
        endpoints: all of the Service's endpoints for this port, those that may get the connection first.
        notes: what else is worth knowing.
    """

    connection: Connection
    source_class: SourceClass
    verdict: Verdict
    why: str
    frontend: Frontend | None = None
    address_kind: AddressKind = ""
    service_port: str = ""
    policy: Policy | Literal[""] = ""
    policy_why: str = ""
    scheduler: str = ""
    affinity: int | None = None
    masqueraded: Masqueraded = "no"
    masquerade_why: str = ""
    endpoints: tuple[EndpointReason, ...] = ()
    notes: tuple[str, ...] = ()


def explain(planner: Planner, source: str, destination: str, port: int, protocol: Transport = "tcp") -> Explanation:
    """Explain the first packet of a connection as this node sees it.

    Args:
        planner: after `take`.
        source: canonical IP address of the client, as the packet has it when it comes to this node.
        destination: canonical IP address to which it connects, of the same family.
        port: to which it connects, 1..65535.
        protocol: transport protocol.

    Raises:
        ValueError: the addresses are of different families, or one of them is no address.
    """
    if ipaddress.ip_address(source).version != ipaddress.ip_address(destination).version:
        raise ValueError(f"{source} and {destination} are of different IP families, so that no packet can have both")
    connection = Connection(source, destination, port, protocol)
    client = _client(planner, source)
    frontend, notes = _find_frontend(planner, connection)
    if not client.is_node and not ranges_of(planner.settings.pod_cidrs, family_of(source)):
        notes.append("no pod networks are known (spec.podCIDRs), so that pods count as clients from outside")
    if frontend is None:
        return _explain_elsewhere(planner, connection, client, notes)
    return _explain_answer(planner, connection, client, frontend, notes)


def _client(planner: Planner, source: str) -> Client:
    own = source in planner.cluster.addresses or holds(_LOOPBACK, source)
    return Client(source, is_pod=holds(planner.settings.pod_cidrs, source), is_node=own)


def _find_frontend(planner: Planner, connection: Connection) -> tuple[Frontend | None, list[str]]:
    family, protocol, port = family_of(connection.destination), connection.protocol, connection.port
    direct = Frontend(family, connection.destination, protocol, port)
    if direct in planner.answers:
        return direct, []
    node_port = Frontend(family, NODE_PORT, protocol, port)
    if node_port not in planner.answers:
        return None, []
    return _node_port(planner, connection, node_port)


def _node_port(planner: Planner, connection: Connection, frontend: Frontend) -> tuple[Frontend | None, list[str]]:
    """Tell whether the destination is an address on which node ports answer."""
    destination, own = connection.destination, planner.cluster.addresses
    what = f"{planner.answers[frontend].service_port} has node port {frontend.port}/{frontend.protocol}"
    if holds(_LOOPBACK, destination):
        against = _against_loopback(planner, connection)
        return (None, [f"{what}, but {against}"]) if against else (frontend, [])
    if not holds(planner.settings.node_port_cidrs, destination):
        networks = ", ".join(planner.settings.node_port_cidrs) or "no address"
        return None, [f"{what}, but node ports answer on {networks} alone (spec.nodePortAddresses)"]
    if destination in own:
        return frontend, []
    if own:
        return None, [f"{what}, but {destination} is no address of this node as far as its Node object says"]
    return frontend, [f"{destination} is taken for an address of this node, of which no address is known"]


def _against_loopback(planner: Planner, connection: Connection) -> str:
    """Say why node ports do not answer at an address of loopback; "" where they do."""
    destination, settings = connection.destination, planner.settings
    if not _client(planner, connection.source).is_node:
        return "nobody but the node itself reaches its loopback"
    match planner.mode:
        case "nftables" | "userspace" if not settings.localhost_node_ports:
            return f'{_SILENT} without "localhost" in spec.nodePortAddresses'
        case "nftables" if destination not in _LISTENED or connection.protocol == "sctp":
            return f"on loopback the agent's proxy serves TCP and UDP at {' and '.join(_LISTENED)} alone"
        case "nftables" | "userspace":
            return ""
        case "iptables" if family_of(destination) == IPV4 and planner.config.iptables.localhost_node_ports:
            against, networks = " where spec.nodePortAddresses leaves it out", settings.node_port_cidrs
        case "iptables" if family_of(destination) == IPV4:
            against, networks = " without spec.iptables.localhostNodePorts", ()
        case "iptables":
            against, networks = " over IPv6 in mode iptables", ()
        case "ipvs":
            against, networks = " in mode ipvs", ()
        case _:
            against, networks = "", tuple(cidr for cidr in settings.node_port_cidrs if cidr not in _EVERYWHERE)
    return "" if holds(networks, destination) else _SILENT + against


def _explain_elsewhere(planner: Planner, connection: Connection, client: Client, notes: list[str]) -> Explanation:
    """Explain a connection that hits no frontend."""
    address = connection.destination
    at_address = [(f, a) for f, a in planner.answers.items() if f.address == address]
    verdict: Verdict = "untouched"
    why = f"{address} is no Service's address as far as this node knows; the packet goes its way"
    owners = sorted({owner_of(answer) for _, answer in at_address if answer.exclusive})
    if owners:
        verdict = "rejected"
        why = f"{address} is the cluster IP of Service {owners[0]}, which has no port {_port_text(connection)}"
    elif at_address:
        why = f"{address} belongs to Service {owner_of(at_address[0][1])}, which has no port {_port_text(connection)}"
    elif holds(planner.settings.service_cidrs, address):
        verdict = "dropped"
        why = f"{address} is a cluster IP that no Service has (networks of cluster IPs: {_cidrs(planner)})"
    if planner.mode == "iptables" and verdict != "untouched":
        # As kube-proxy's iptables mode: it has rules for ports alone, and none for addresses.
        verdict, why = "untouched", why + _ALONE
    return Explanation(connection, client.source_class, verdict, why, notes=tuple(notes))


def _explain_answer(
    planner: Planner, connection: Connection, client: Client, frontend: Frontend, notes: list[str]
) -> Explanation:
    answer = planner.answers[frontend]
    service, port = _service_port(planner, answer, frontend)
    kind = _address_kind(service, frontend, answer)
    policy, policy_why = _policy(service, answer, client)
    pool = answer.pool if answer.outside is None or client.inside else answer.outside
    verdict, why = _verdict(connection, answer, pool, policy, planner.cluster.node_name)
    if verdict == "forwarded" and planner.mode == "userspace" and connection.protocol == "sctp":
        verdict, why = "rejected", _NO_SCTP
    masqueraded: Masqueraded = "no"
    masquerade_why = ""
    if verdict == "forwarded" and _is_proxied(planner, connection):
        masqueraded, masquerade_why = "yes", _PROXIED
    elif verdict == "forwarded":
        masqueraded, masquerade_why = _masquerade(answer, pool, client)
    slices = [part for part in planner.slices(owner_of(answer)) if part.family == frontend.family]
    place = planner.cluster.context.place
    if pool.slots is not None:
        notes.append(_slots_text(answer.scheduler, pool.slots))
    return Explanation(
        connection=connection,
        source_class=client.source_class,
        verdict=verdict,
        why=why,
        frontend=frontend,
        address_kind=kind,
        service_port=answer.service_port,
        policy=policy,
        policy_why=policy_why,
        scheduler=answer.scheduler,
        affinity=answer.affinity,
        masqueraded=masqueraded,
        masquerade_why=masquerade_why,
        endpoints=endpoint_reasons(slices, port, policy, place, planner.pod_weights),
        notes=tuple(notes),
    )


def _service_port(planner: Planner, answer: Answer, frontend: Frontend) -> tuple[Service, ServicePort]:
    service = planner.service(owner_of(answer))
    if service is None:
        raise LookupError(f"{answer.service_port} is in the plan but not in the store; call take() first")
    for port in service.ports:
        number = node_port_of(service, port) if frontend.address == NODE_PORT else port.port
        if (number, port.protocol, port_name(service, port)) == (
            frontend.port, frontend.protocol, answer.service_port,
        ):  # fmt: skip
            return service, port
    raise LookupError(f"{answer.service_port} is in the plan but not in its Service; call take() first")


def _address_kind(service: Service, frontend: Frontend, answer: Answer) -> AddressKind:
    if frontend.address == NODE_PORT:
        return "node port"
    if answer.exclusive:
        return "cluster IP"
    return "load balancer IP" if frontend.address in service.load_balancer_ips else "external IP"


def _policy(service: Service, answer: Answer, client: Client) -> tuple[Policy, str]:
    if answer.exclusive:
        policy: Policy = "Local" if service.internal_local else "Cluster"
        return policy, f"internalTrafficPolicy is {policy}"
    if answer.outside is None:
        return "Cluster", "externalTrafficPolicy is Cluster"
    if client.inside:
        return "Cluster", f"externalTrafficPolicy is Local, but {_CLIENTS[client.source_class]} reaches all endpoints"
    return "Local", "externalTrafficPolicy is Local"


def _verdict(
    connection: Connection, answer: Answer, pool: Pool, policy: Policy, node_name: str
) -> tuple[Verdict, str]:  # fmt: skip
    ranges = answer.source_ranges
    if ranges is not None and not holds(ranges, connection.source):
        return "dropped", f"{connection.source} is in none of the allowed source ranges {', '.join(ranges)}"
    live = [backend for backend in pool.backends if backend.weight]
    if live:
        count = "1 endpoint answers" if len(live) == 1 else f"one of {len(live)} endpoints is chosen"
        return "forwarded", f"{count} for {answer.service_port}"
    if pool.when_empty == "drop":
        return "dropped", f"no endpoint on {node_name} gets new connections, and the policy is {policy}; others do"
    drained = ": all have weight 0" if pool.backends else ""
    return "rejected", f"{answer.service_port} has no endpoint that gets new connections{drained}"


def _is_proxied(planner: Planner, connection: Connection) -> bool:
    """Tell whether the agent's own proxy answers, in place of the kernel: in mode nftables it does so on loopback."""
    on_loopback = planner.mode == "nftables" and holds(_LOOPBACK, connection.destination)
    return planner.mode == "userspace" or on_loopback


def _masquerade(answer: Answer, pool: Pool, client: Client) -> tuple[Masqueraded, str]:
    if why := _why_masqueraded(answer, client):
        return "yes", why
    backends = {backend.address for backend in pool.backends if backend.weight}
    if client.address in backends:
        when: Masqueraded = "yes" if len(backends) == 1 else "when it reaches itself"
        return when, "the client is one of the endpoints (hairpin)"
    if answer.masquerade == "never":
        return "no", "no pod networks are known (spec.podCIDRs)"
    return "no", f"{_CLIENTS[client.source_class]} keeps its address"


def _slots_text(scheduler: str, slots: Slots) -> str:
    """Say what a scheduler of somebody's own made of the weights, which do not count with it."""
    shares = Counter(joined(backend.address, backend.port) for backend in slots.backends).most_common()
    named = ", ".join(f"{endpoint} has {count}" for endpoint, count in shares[:_NAMED])
    more = f", {len(shares) - _NAMED} others have fewer or as many" if len(shares) > _NAMED else ""
    return f"{scheduler} filled {len(slots.backends)} slots, {_DRAWS[slots.draw]}: {named}{more}"


def _why_masqueraded(answer: Answer, client: Client) -> str:
    match answer.masquerade:
        case "always" if answer.exclusive:
            return "spec.masqueradeAll is true"
        case "always":
            return "the endpoint may be on another node, and its answer has to come back through this one"
        case "off-cluster" if not client.is_pod:
            return f"{client.address} is in none of the cluster's pod networks"
        case "node" if client.is_node:
            return "the connection comes from this node itself"
        case _:
            return ""


def _port_text(connection: Connection) -> str:
    return f"{connection.port}/{connection.protocol}"


def _cidrs(planner: Planner) -> str:
    return ", ".join(planner.settings.service_cidrs)
