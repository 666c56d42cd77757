"""One Service and its endpoints: which frontends it has, and what answers for each; pure.

Everything that is planned here depends on this Service, its slices, and the `Context`. What two Services make of the
same frontend is settled by `pointsman.policy.planner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.address import family_of
from pointsman.model.plan import NODE_PORT, Answer, Backend, Family, Frontend, Masquerade, Pool, WhenEmpty
from pointsman.model.problems import Problem
from pointsman.policy.endpoints import Choice, Target, choose, find_targets, serves
from pointsman.policy.own_schedulers import SlotsError, filled
from pointsman.policy.schedulers import in_place_of, schedule
from pointsman.policy.source_ranges import allowed_sources, ranges_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.api.values import PortRange
    from pointsman.model.objects import EndpointSlice, Service, ServicePort
    from pointsman.policy.context import Context
    from pointsman.policy.own_schedulers import Scheduler

_FAMILIES: Final[tuple[Family, Family]] = (4, 6)
_NOBODY: Final[Mapping[Family, str]] = {4: "0.0.0.0/32", 6: "::/128"}
_REJECTED: Final = Pool()
_DROPPED_LOCAL: Final = Pool(when_empty="drop", local=True)
_REJECTED_LOCAL: Final = Pool(local=True)


class Tally(msgspec.Struct, frozen=True, gc=False):
    """How much a Service adds to the node's counts.

    Attributes:
        ports: its ports that are served.
        endpoints: backends in use, each once for a port and IP family.
        no_local_internal, no_local_external: ports whose policy is Local while all endpoints are on other nodes.
        node_port: it has a node port.
    """

    ports: int = 0
    endpoints: int = 0
    no_local_internal: int = 0
    no_local_external: int = 0
    node_port: bool = False


class ServicePlan(msgspec.Struct, frozen=True, gc=False):
    """What a Service asks for.

    Attributes:
        claims: its frontends with their answers.
        tally: how much it is.
        problems: what is wrong with it.
    """

    claims: Mapping[Frontend, Answer]
    tally: Tally
    problems: tuple[Problem, ...] = ()


NOTHING: Final = ServicePlan({}, Tally())
"""The plan of a Service that is not there, or not for a proxy."""


def families_of(service: Service) -> tuple[Family, ...]:
    """Return the IP families in which a Service has cluster IPs; it has nothing in another one."""
    ips = service.cluster_ips
    if len(ips) == 1:
        return (family_of(ips[0]),)
    return tuple(family for family in _FAMILIES if any(family_of(ip) == family for ip in ips))


def port_name(service: Service, port: ServicePort) -> str:
    """Write the name of a Service's port for people: ``namespace/name`` or ``namespace/name:port``."""
    name = f"{service.namespace}/{service.name}"
    return f"{name}:{port.name}" if port.name else name


def node_port_of(service: Service, port: ServicePort) -> int:
    """Return the node port that is served, or 0; only two types of Service have any."""
    return port.node_port if service.type in ("NodePort", "LoadBalancer") else 0


def external_ips_of(service: Service, family: Family) -> tuple[str, ...]:
    """Return the external IPs of one family."""
    return tuple([ip for ip in service.external_ips if family_of(ip) == family])


def balancer_ips_of(service: Service, family: Family) -> tuple[str, ...]:
    """Return the load balancer's addresses of one family; only one type of Service has any."""
    if service.type != "LoadBalancer":
        return ()
    return tuple([ip for ip in service.load_balancer_ips if family_of(ip) == family])


def plan_service(
    service: Service,
    slices: tuple[EndpointSlice, ...],
    context: Context,
    *,
    node_port_range: PortRange,
    pod_weights: Mapping[str, int],
) -> ServicePlan:
    """Plan one Service.

    Args:
        service: the Service.
        slices: its EndpointSlices (or what its Endpoints say in that form), in any order.
        context: what holds for all Services.
        node_port_range: the node ports that Services of its namespace should have; others are served, and reported.
        pod_weights: weights of Pods by ``namespace/name``.
    """
    if service.ignored:
        return NOTHING
    planning = _Planning(service, context, pod_weights)
    for family in families_of(service):
        of_family = [part for part in slices if part.family == family and not part.ignored]
        planning.add_family(family, of_family)
    problems = planning.problems
    if service.type != "ClusterIP":
        problems += _node_port_problems(service, node_port_range)
    return ServicePlan(planning.claims, planning.tally(), tuple(dict.fromkeys(problems)) if problems else ())


class _Planning:
    """The plan of one Service while it is made."""

    def __init__(self, service: Service, context: Context, pod_weights: Mapping[str, int]) -> None:
        self.claims: dict[Frontend, Answer] = {}
        self.problems: list[Problem] = []
        self._service = service
        self._context = context
        self._pod_weights = pod_weights
        self._endpoints = 0
        self._no_local_internal: set[ServicePort] = set()
        self._no_local_external: set[ServicePort] = set()
        self._scheduler, self._flags, problems = schedule(service, context)
        self.problems += problems
        self._own = context.own_schedulers.get(self._scheduler)
        self._filled: dict[Pool, Pool] = {}

    def tally(self) -> Tally:
        service = self._service
        return Tally(
            len(service.ports),
            self._endpoints,
            len(self._no_local_internal),
            len(self._no_local_external),
            node_port=service.type != "ClusterIP" and any(node_port_of(service, port) for port in service.ports),
        )

    def add_family(self, family: Family, slices: list[EndpointSlice]) -> None:
        """Add the frontends of one IP family."""
        service = self._service
        cluster_ips: Iterable[str] = service.cluster_ips
        if len(service.cluster_ips) > 1:
            cluster_ips = [ip for ip in cluster_ips if family_of(ip) == family]
        external_ips = external_ips_of(service, family) if service.external_ips else ()
        balancer_ips = balancer_ips_of(service, family) if service.load_balancer_ips else ()
        sources = self._allowed_sources(family, balancer_ips) if balancer_ips and service.source_ranges else None
        for port in _sorted(service.ports):
            node_port = node_port_of(service, port)
            accessible = bool(node_port or external_ips or balancer_ips)
            choice = self._choose(port, slices, accessible=accessible)
            name = port_name(service, port)
            internal = self._internal(port, name, choice, family)
            self._claim(family, cluster_ips, port, port.port, internal)
            if not accessible:
                continue
            external = self._external(port, name, choice)
            guarded = external if sources is None else msgspec.structs.replace(external, source_ranges=sources)
            # A load balancer's address that is an external IP as well stays guarded: it comes first.
            self._claim(family, balancer_ips, port, port.port, guarded)
            self._claim(family, external_ips, port, port.port, external)
            if node_port:
                self._claim(family, (NODE_PORT,), port, node_port, external)

    def _claim(
        self, family: Family, addresses: Iterable[str], port: ServicePort, number: int, answer: Answer
    ) -> None:  # fmt: skip
        for address in addresses:
            frontend = Frontend(family, address, port.protocol, number)
            other = self.claims.setdefault(frontend, answer)
            if other is not answer and other.service_port != answer.service_port:
                self._note(
                    f"spec.ports[{self._service.ports.index(port)}]",
                    f"{number}/{port.protocol} belongs to {other.service_port} already",
                    "give each port of the Service another number",
                    "this frontend",
                )

    def _choose(self, port: ServicePort, slices: list[EndpointSlice], *, accessible: bool) -> Choice:
        service, place = self._service, self._context.place
        targets = find_targets(slices, port, place.node, self._pod_weights)
        return choose(
            targets,
            place,
            cluster=accessible or not service.internal_local,
            local=service.internal_local or (accessible and service.external_local),
        )

    def _internal(self, port: ServicePort, name: str, choice: Choice, family: Family) -> Answer:
        service, context = self._service, self._context
        masquerade: Masquerade = "never"
        if context.masquerade_all:
            masquerade = "always"
        elif family in context.pod_families:
            masquerade = "off-cluster"
        if service.internal_local:
            pool = _local_pool(choice)
            if pool.when_empty == "drop" and not choice.local:
                self._no_local_internal.add(port)
        else:
            pool = _cluster_pool(choice)
        self._count(choice)
        return self._answer(name, pool, None, masquerade, exclusive=True)

    def _external(self, port: ServicePort, name: str, choice: Choice) -> Answer:
        service = self._service
        pool = _cluster_pool(choice)
        if not service.external_local:
            return self._answer(name, pool, None, "always")
        outside = _local_pool(choice)
        if outside.when_empty == "drop" and not choice.local:
            self._no_local_external.add(port)
        return self._answer(name, pool, outside, "node")

    def _answer(
        self, name: str, pool: Pool, outside: Pool | None, masquerade: Masquerade, *, exclusive: bool = False
    ) -> Answer:  # fmt: skip
        affinity = self._service.affinity
        answer = Answer(
            name, self._scheduler, pool, outside, affinity, masquerade, exclusive, scheduler_flags=self._flags
        )  # fmt: skip
        return answer if self._own is None else self._with_slots(answer, self._own)

    def _with_slots(self, answer: Answer, own: Scheduler) -> Answer:
        """Let a scheduler of somebody's own fill the pools; one that cannot is replaced for this Service's port."""
        outside = answer.outside
        try:
            pools = {"pool": self._fill(answer.pool, own), "outside": outside and self._fill(outside, own)}
        except SlotsError as error:
            used, problem = in_place_of(self._service, self._context, self._scheduler, str(error))
            self.problems.append(problem)
            return msgspec.structs.replace(answer, scheduler=used)
        return msgspec.structs.replace(answer, **pools)

    def _fill(self, pool: Pool, own: Scheduler) -> Pool:
        """Fill a pool; most frontends of a Service have the same one."""
        if pool not in self._filled:
            self._filled[pool] = filled(pool, own)
        return self._filled[pool]

    def _count(self, choice: Choice) -> None:
        if choice.local and choice.cluster:
            self._endpoints += len({target.backend for target in (*choice.local, *choice.cluster)})
        else:
            self._endpoints += len(choice.local or choice.cluster or ())

    def _allowed_sources(self, family: Family, balancer_ips: tuple[str, ...]) -> tuple[str, ...] | None:
        ranges = ranges_of(self._service.source_ranges, family)
        if ranges:
            return allowed_sources(ranges, balancer_ips, self._context.addresses)
        # kube-proxy drops ranges of the other family, and guards nothing when none is left (newBaseServiceInfo).
        self._note(
            "spec.loadBalancerSourceRanges",
            f"has no IPv{family} network; every IPv{family} client may connect to {', '.join(balancer_ips)}",
            f"add the IPv{family} networks that may connect; {_NOBODY[family]} means nobody",
            f"nothing; the load balancer is open for IPv{family}, as with kube-proxy",
        )
        return None

    def _note(self, field: str, message: str, remedy: str, dropped: str) -> None:
        self.problems.append(Problem("", _object(self._service), field, message, remedy, dropped))


def _sorted(ports: tuple[ServicePort, ...]) -> Iterable[ServicePort]:
    """Order ports by name: which of two that clash is served must not depend on the order in the object."""
    return ports if len(ports) == 1 else sorted(ports, key=lambda port: (port.name, port.port, port.node_port))


def _cluster_pool(choice: Choice) -> Pool:
    chosen = choice.cluster
    return Pool(_backends(chosen)) if chosen else _REJECTED


def _local_pool(choice: Choice) -> Pool:
    """Make the pool of a Local policy: it drops while endpoints on other nodes serve, and rejects when none does."""
    chosen = choice.local
    if not chosen:
        return _DROPPED_LOCAL if serves(choice.usable) else _REJECTED_LOCAL
    when_empty: WhenEmpty = "drop" if not serves(chosen) and serves(choice.usable) else "reject"
    return Pool(_backends(chosen), when_empty, local=True)


def _backends(chosen: tuple[Target, ...]) -> tuple[Backend, ...]:
    return tuple([target.backend for target in chosen])


def _node_port_problems(service: Service, allowed: PortRange) -> list[Problem]:
    return [
        Problem(
            source="",
            object=_object(service),
            field=f"spec.ports[{index}].nodePort",
            message=f"{port.node_port} is not in the range of valid ports {allowed}",
            remedy="choose a port of that range, or change spec.nodePortRange of the ProxyConfig",
            dropped="nothing; the node port is served all the same",
        )
        for index, port in enumerate(service.ports)
        if port.node_port and not allowed.holds(port.node_port)
    ]


def _object(service: Service) -> str:
    return f"Service {service.namespace}/{service.name}"
