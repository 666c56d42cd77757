"""The rules of one Service's port: its chains, and its lines in the chains that all share.

The order of decisions is kube-proxy's: a cluster IP leads to KUBE-SVC or KUBE-SVL; other addresses and node ports to
KUBE-EXT, some through KUBE-FW, and from there to KUBE-SVC or KUBE-SVL; these choose one KUBE-SEP, which translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.iptables.names import (
    EXTERNAL_SERVICES,
    FILTER,
    MARK_MASQUERADE,
    NAT,
    NODE_PORTS,
    PROXY_FIREWALL,
    SERVICES,
    Place,
    endpoint_chain,
    port_chain,
    saved_probability,
)
from pointsman.dataplane.iptables.words import (
    LOCAL_SOURCE,
    RECENT_MASK,
    address_text,
    comment,
    escaped,
    network_text,
    source,
)
from pointsman.model.address import joined
from pointsman.model.plan import NODE_PORT, Frontend

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from pointsman.dataplane.iptables.names import Kind
    from pointsman.dataplane.iptables.words import Pods
    from pointsman.model.plan import Answer, Backend, Family, Pool, Transport, WhenEmpty

_BITS: Final = {4: 32, 6: 128}
_UNREACHABLE: Final = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}


class Line(msgspec.Struct, frozen=True, gc=False):
    """A frontend's rule in a chain that all share."""

    place: Place
    rule: str
    frontend: Frontend


class PortRules(msgspec.Struct, frozen=True):
    """The rules of one Service's port.

    Attributes:
        order: its frontends, cluster IPs first. The first one stands for all where a rule is nobody's alone.
        chains: its own chains of the table ``nat``.
        lines: its rules in chains that all share.
        endpoints: by address and port, the rules of ``nat`` that translate to there; nearly always one.
    """

    order: tuple[Frontend, ...]
    chains: Mapping[str, tuple[str, ...]]
    lines: tuple[Line, ...]
    endpoints: Mapping[tuple[str, int], tuple[str, ...]]


def port_rules(members: Mapping[Frontend, Answer], pods: Pods) -> PortRules:
    """Write the rules of one Service's port.

    Args:
        members: its frontends of one family and protocol, at least one, with their answers.
        pods: who is a pod of this cluster.
    """
    return _Writer(members, pods).write()


def takers(pool: Pool) -> tuple[Backend, ...]:
    """Return the backends that get new connections."""
    backends = pool.backends
    for backend in backends:
        if not backend.weight:
            return tuple(backend for backend in backends if backend.weight)
    return backends


class _Writer:
    """The rules of one Service's port while they are written."""

    def __init__(self, members: Mapping[Frontend, Answer], pods: Pods) -> None:
        self._members = members
        self._pods = pods
        frontend, answer = next(iter(members.items()))
        self._service_port = answer.service_port
        self._escaped = escaped(answer.service_port)
        self._plain = comment(answer.service_port)
        self._protocol: Transport = frontend.protocol
        self._family: Family = frontend.family
        self._specs: dict[str, Hashable] = {}
        self._chains: dict[str, tuple[str, ...]] = {}
        self._pools: dict[str, tuple[tuple[Backend, ...], int | None, list[str]]] = {}
        self._lines: list[Line] = []
        self._endpoints: dict[tuple[str, int], tuple[str, ...]] = {}

    def write(self) -> PortRules:
        # The first one of a kind gets the names that kube-proxy would give; others are rare (see `_take`).
        order = sorted(self._members, key=self._rank)
        for frontend in order:
            self._write_frontend(frontend, self._members[frontend])
        for chain, (backends, affinity, masquerading) in self._pools.items():
            self._chains[chain] = (*masquerading, *self._choice(chain, backends, affinity))
        return PortRules(tuple(order), self._chains, tuple(self._lines), self._endpoints)

    def _rank(self, frontend: Frontend) -> tuple[bool, bool, bool, str, int]:
        answer = self._members[frontend]
        open_to_all = answer.source_ranges is None
        return (
            not answer.exclusive,
            frontend.address == NODE_PORT,
            open_to_all,
            frontend.address,
            frontend.port,
        )

    def _write_frontend(self, frontend: Frontend, answer: Answer) -> None:
        inside = takers(answer.pool)
        outside = inside if answer.outside is None else takers(answer.outside)
        if inside or outside:
            self._write_way(frontend, answer)
        if not (inside and outside):
            self._write_refusal(frontend, answer, refuses_inside=not inside, refuses_outside=not outside)

    def _write_way(self, frontend: Frontend, answer: Answer) -> None:
        """Write the rule that leads to the endpoints' chains, and those chains."""
        if answer.exclusive and answer.outside is None and answer.source_ranges is None:
            chain = self._pool(answer.pool, answer.affinity, frontend)
            port = f"-m {self._protocol} --dport {frontend.port}"
            packets = f"{self._match(frontend)}{self._comment(' cluster IP')} {port}"
            masquerading = self._pools[chain][-1]
            masquerading.extend(self._masquerade(chain, answer, packets))
        else:
            chain = self._external(frontend, answer)
            if answer.source_ranges is not None:
                chain = self._firewall(frontend, answer.source_ranges, chain)
        if frontend.address == NODE_PORT:
            self._add((NAT, NODE_PORTS), frontend, self._plain, f"-j {chain}")
        else:
            self._add((NAT, SERVICES), frontend, self._comment(f" {_kind_of(answer)}"), f"-j {chain}")

    def _write_refusal(
        self, frontend: Frontend, answer: Answer, *, refuses_inside: bool, refuses_outside: bool
    ) -> None:  # fmt: skip
        """Write what becomes of connections that no chain translates."""
        inside = answer.pool.when_empty
        outside = inside if answer.outside is None else answer.outside.when_empty
        place: Place = (FILTER, EXTERNAL_SERVICES)
        if frontend.address == NODE_PORT:
            place = (FILTER, NODE_PORTS)
        elif answer.exclusive:
            place = (FILTER, SERVICES)
        if refuses_inside and refuses_outside and inside != outside:
            note, verdict = self._refusal(inside)
            for match in self._pods.sources:
                self._add(place, frontend, note, verdict, match)
            self._add(place, frontend, note, f"{LOCAL_SOURCE} {verdict}")
        note, verdict = self._refusal(outside if refuses_outside else inside)
        self._add(place, frontend, note, verdict)

    def _refusal(self, when_empty: WhenEmpty) -> tuple[str, str]:
        if when_empty == "drop":
            return self._comment(" has no local endpoints"), "-j DROP"
        # A TCP reset, as in the mode nftables: of ICMP errors the kernel sends few a second.
        answer = "tcp-reset" if self._protocol == "tcp" else _UNREACHABLE[self._family]
        return self._comment(" has no endpoints"), f"-j REJECT --reject-with {answer}"

    def _masquerade(self, chain: str, answer: Answer, packets: str) -> Iterator[str]:
        """Write whose source is replaced, among the packets that a match means."""
        if answer.masquerade == "always":
            yield f"-A {chain} {packets} -j {MARK_MASQUERADE}"
        elif answer.masquerade == "off-cluster" and self._pods.mark:
            yield f"-A {chain} {self._pods.strangers}{packets} -j {self._pods.mark}"
        elif answer.masquerade == "node":
            yield f"-A {chain} {packets} {LOCAL_SOURCE} -j {MARK_MASQUERADE}"

    def _external(self, frontend: Frontend, answer: Answer) -> str:
        """Write KUBE-EXT: who is masqueraded, and who gets which endpoints."""
        pool = self._pool(answer.pool, answer.affinity, frontend)
        outside = None if answer.outside is None else self._pool(answer.outside, answer.affinity, frontend)
        chain = self._take("EXT", (pool, outside, answer.masquerade), frontend)
        if chain in self._chains:
            return chain
        if outside is None:
            rules = [*self._masquerade(chain, answer, self._about("masquerade traffic for")), f"-A {chain} -j {pool}"]
        else:
            rules = [*self._inside_clients(chain, answer, pool), *self._outside_clients(chain, answer, outside)]
        self._chains[chain] = tuple(rules)
        return chain

    def _inside_clients(self, chain: str, answer: Answer, pool: str) -> Iterator[str]:
        """Write where pods and the node itself go.

        Those who get nothing return without a mark, which the table ``filter`` would accept before it refuses them.
        """
        way = pool or "RETURN"
        for match in self._pods.sources:
            if pool and answer.masquerade == "always":
                yield f"-A {chain} {match}{self._about('masquerade pod traffic for')} -j {MARK_MASQUERADE}"
            yield f"-A {chain} {match}{self._about('pod traffic for')} -j {way}"
        if pool and (answer.masquerade in ("always", "node") or self._masquerades_strangers(answer)):
            note = self._about("masquerade LOCAL traffic for")
            yield f"-A {chain} {note} {LOCAL_SOURCE} -j {MARK_MASQUERADE}"
        yield f"-A {chain} {self._about('route LOCAL traffic for')} {LOCAL_SOURCE} -j {way}"

    def _outside_clients(self, chain: str, answer: Answer, pool: str) -> Iterator[str]:
        if pool:
            if answer.masquerade == "always" or self._masquerades_strangers(answer):
                yield f"-A {chain} {self._about('masquerade traffic for')} -j {MARK_MASQUERADE}"
            yield f"-A {chain} -j {pool}"

    def _masquerades_strangers(self, answer: Answer) -> bool:
        return answer.masquerade == "off-cluster" and bool(self._pods.mark)

    def _firewall(self, frontend: Frontend, ranges: tuple[str, ...], external: str) -> str:
        """Write KUBE-FW, which lets some clients through; the others are dropped in the table filter."""
        chain = self._take("FW", (ranges, external), frontend)
        if chain not in self._chains:
            note = self._comment(" loadbalancer IP")
            rest = self._comment(f" will be dropped by {PROXY_FIREWALL}", "other traffic to ")
            allowed = (f"-A {chain} {source(network_text(network))}{note} -j {external}" for network in ranges)
            self._chains[chain] = (*allowed, f"-A {chain} {rest}")
        self._add((FILTER, PROXY_FIREWALL), frontend, self._comment(f" traffic not accepted by {chain}"), "-j DROP")
        return chain

    def _pool(self, pool: Pool, affinity: int | None, frontend: Frontend) -> str:
        """Return the chain that chooses among a pool's backends; "" when none gets new connections."""
        backends = takers(pool)
        if not backends:
            return ""
        chain = self._take("SVL" if pool.local else "SVC", (backends, affinity), frontend)
        if chain not in self._pools:
            self._pools[chain] = backends, affinity, []
            self._chains[chain] = ()  # its place is in front of its endpoints'; `write` fills it
        return chain

    def _choice(self, chain: str, backends: tuple[Backend, ...], affinity: int | None) -> list[str]:
        """Recall the client's backend, or choose one by chance: each by its weight's part of what is left."""
        ways = []
        for backend in backends:
            endpoint = joined(address_text(backend.address), backend.port)
            note = f"-A {chain} {self._comment(f' -> {endpoint}')}"
            ways.append((note, self._endpoint(backend, endpoint, affinity), backend.weight))
        rules = []
        if affinity is not None:
            recall = f"--rcheck --seconds {affinity} --reap"
            mask = RECENT_MASK[self._family]
            rules = [f"{note} -m recent {recall} --name {to} --mask {mask} --rsource -j {to}" for note, to, _ in ways]
        rest = sum(weight for *_, weight in ways)
        for note, to, weight in ways[:-1]:
            chance = saved_probability(weight / rest)
            rules.append(f"{note} -m statistic --mode random --probability {chance} -j {to}")
            rest -= weight
        note, to, _ = ways[-1]
        rules.append(f"{note} -j {to}")
        return rules

    def _endpoint(self, backend: Backend, endpoint: str, affinity: int | None) -> str:
        """Write KUBE-SEP, which translates; a backend that reaches itself is masqueraded."""
        chain = endpoint_chain(self._service_port, self._protocol, endpoint)
        remembers = affinity is not None
        if self._specs.setdefault(chain, remembers) != remembers:
            chain = endpoint_chain(self._service_port, self._protocol, endpoint, f"/{remembers}")
        if chain not in self._chains:
            host = f"{endpoint.rpartition(':')[0].strip('[]')}/{_BITS[self._family]}"
            recent = f"-m recent --set --name {chain} --mask {RECENT_MASK[self._family]} --rsource "
            translation = (
                f"-A {chain} -p {self._protocol} {self._plain} {recent if remembers else ''}"
                f"-m {self._protocol} -j DNAT --to-destination {endpoint}"
            )
            self._chains[chain] = (f"-A {chain} -s {host} {self._plain} -j {MARK_MASQUERADE}", translation)
            where = backend.address, backend.port
            self._endpoints[where] = (*self._endpoints.get(where, ()), translation)
        return chain

    def _take(self, kind: Kind, spec: Hashable, frontend: Frontend) -> str:
        """Return the chain of a kind that does what is asked for; a second one of a kind gets a name of its own."""
        chain = port_chain(kind, self._service_port, self._protocol)
        if self._specs.setdefault(chain, spec) != spec:
            chain = port_chain(kind, self._service_port, self._protocol, f"/{frontend.address}/{frontend.port}")
            if self._specs.setdefault(chain, spec) != spec:
                # One frontend whose two pools are of one kind.
                chain = port_chain(kind, self._service_port, self._protocol, f"/{frontend.address}/{frontend.port}/2")
                self._specs[chain] = spec
        return chain

    def _add(self, place: Place, frontend: Frontend, note: str, rest: str, match: str = "") -> None:
        protocol = self._protocol
        rule = f"-A {place[1]} {match}{self._match(frontend)}{note} -m {protocol} --dport {frontend.port} {rest}"
        self._lines.append(Line(place, rule, frontend))

    def _match(self, frontend: Frontend) -> str:
        if frontend.address == NODE_PORT:
            return f"-p {self._protocol} "
        return f"-d {network_text(frontend.address)} -p {self._protocol} "

    def _comment(self, after: str, before: str = "") -> str:
        return f'-m comment --comment "{before}{self._escaped}{after}"'

    def _about(self, what: str) -> str:
        return self._comment(" external destinations", f"{what} ")


def _kind_of(answer: Answer) -> str:
    if answer.exclusive:
        return "cluster IP"
    # The plan does not tell a load balancer's address that is open to all from an external IP.
    return "external IP" if answer.source_ranges is None else "loadbalancer IP"
