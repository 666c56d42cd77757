"""The node's plan, kept up to date object by object; pure.

`put` and `remove` only note which Services are concerned; `take` plans these anew and says what changed. A change of
one slice costs the work for its Service; a change of the configuration or of the node costs all Services, if it
means anything to them. `full` plans everything from scratch, by a shorter way, and comes to the same plan.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.schedulers import default_scheduler, schedulers_of
from pointsman.model.objects import (
    Endpoints,
    EndpointSlice,
    Namespace,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServiceCIDR,
)
from pointsman.model.plan import Answer, Delta, Frontend, NodeSettings, Plan
from pointsman.policy.claims import Claims, winner
from pointsman.policy.cluster import Cluster
from pointsman.policy.counts import Counts, HealthCheck, Totals, ready_here
from pointsman.policy.frontends import NOTHING, ServicePlan, plan_service
from pointsman.policy.schedulers import there
from pointsman.policy.store import Entry, Store

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.parse import Object
    from pointsman.model.problems import Problem
    from pointsman.policy.own_schedulers import Scheduler


__all__ = ["Counts", "HealthCheck", "Planner"]


class Planner:
    """Objects in, plan out.

    Args:
        node_name: the node that the plan is for.
        config: the configuration to use, whatever ProxyConfig objects there are, until this node has a NodeProxy.
        addresses: the node's own addresses (the most important of each family first), used while there is no Node
            object that has any.
        mode: the dataplane in force, whatever the configuration asks for, until `use` says another one.
        own_schedulers: schedulers of somebody's own, by name.
    """

    def __init__(
        self,
        node_name: str,
        *,
        config: NodeConfiguration | None = None,
        addresses: tuple[str, ...] = (),
        mode: Mode = "nftables",
        own_schedulers: Mapping[str, Scheduler] = MappingProxyType({}),
    ) -> None:
        self._cluster = Cluster(node_name, config, addresses, mode, own_schedulers)
        self._planned_for = _dependencies(self._cluster)
        self._store = Store()
        self._claims = Claims()
        self._pod_weights: dict[str, int] = {}
        self._changed_pods: dict[str, set[str]] = {}
        self._dirty: set[str] = set()
        self._settings = NodeSettings()
        self._totals = Totals()
        self._health_checks: dict[str, HealthCheck] = {}
        self._service_problems: dict[str, tuple[Problem, ...]] = {}
        self._problems: tuple[Problem, ...] | None = None
        self._triggers: list[float] = []
        self._cluster_changed = True

    def put(self, obj: Object) -> None:
        """Take in an object that is new or changed; one that is equal to what is known changes nothing."""
        match obj:
            case EndpointSlice():
                self._put_slice(f"{obj.namespace}/{obj.name}", obj)
            case Service():
                self._put_service(f"{obj.namespace}/{obj.name}", obj)
            case Endpoints():
                self._put_endpoints(f"{obj.namespace}/{obj.name}", obj)
            case Pod():
                self._put_pod(obj.namespace, obj.name, obj.weight)
            case _:
                self._put_in_cluster(obj)

    def remove(self, key: ObjectKey) -> None:
        """Forget an object; one that is not known changes nothing."""
        name = f"{key.namespace}/{key.name}"
        match key.kind:
            case "EndpointSlice":
                self._put_slice(name, None)
            case "Service":
                self._put_service(name, None)
            case "Endpoints":
                self._put_endpoints(name, None)
            case "Pod":
                self._put_pod(key.namespace, key.name, None)
            case _:
                self._remove_from_cluster(key)

    def use(self, mode: Mode, schedulers: Collection[str]) -> None:
        """Plan for a mode, and the schedulers that the node has there; what is so already changes nothing.

        Another mode has other schedulers and other defaults, so that everything is planned anew by the next `take`.
        """
        cluster = self._cluster
        now = there(mode, schedulers, cluster.own_schedulers)
        if (mode, now) != (cluster.mode, cluster.schedulers):
            cluster.mode, cluster.schedulers = mode, now
            self._cluster_changed = True

    def lacks_schedulers(self) -> bool:
        """Tell whether somebody asks for a scheduler that the mode in force has, and this node does not."""
        cluster = self._cluster
        missing = set(schedulers_of(cluster.mode)).difference(cluster.schedulers)
        if not missing:
            return False
        default = cluster.config.scheduler or default_scheduler(cluster.mode)
        return not missing.isdisjoint({*self.wanted_schedulers(), default})

    def wanted_schedulers(self) -> frozenset[str]:
        """Return the schedulers that configuration and Services ask for, whatever there is."""
        services = (entry.service for _, entry in self._store.items())
        names = {service.scheduler for service in services if service is not None}
        return frozenset(name for name in (*names, self._cluster.config.scheduler) if name)

    def resolve(self) -> None:
        """Bring `config` up to date with the objects, and no more than that: `take` does the rest."""
        if self._cluster_changed:
            self._cluster.resolve()

    def take(self) -> Delta:
        """Bring the plan up to date; return what changed since the last call."""
        self._resolve_cluster()
        self._find_services_of_pods()
        dirty, self._dirty = self._dirty, set()
        for key in dirty:
            self._plan_anew(key)
        if dirty:
            self._problems = None
        delta = self._claims.take()
        settings = self._cluster.settings
        if settings == self._settings:
            return delta
        self._settings = settings
        return Delta(delta.changed, delta.removed, settings)

    def full(self) -> Plan:
        """Plan everything from scratch, changes since the last `take` included; the planner stays as it is."""
        cluster = self._cluster
        cluster.resolve()
        rivals: dict[Frontend, dict[str, Answer]] = {}
        for key, entry in self._store.items():
            for frontend, answer in self._plan_entry(entry).claims.items():
                rivals.setdefault(frontend, {})[key] = answer
        return Plan({frontend: found[winner(found)] for frontend, found in rivals.items()}, cluster.settings)

    @property
    def plan(self) -> Plan:
        """The plan as of the last `take`; a copy that later changes leave alone."""
        return Plan(dict(self._claims.answers), self._settings)

    @property
    def answers(self) -> Mapping[Frontend, Answer]:
        """The plan's answers as of the last `take`, to look at: they change with the next one."""
        return MappingProxyType(self._claims.answers)

    @property
    def settings(self) -> NodeSettings:
        """The plan's settings as of the last `take`."""
        return self._settings

    @property
    def cluster(self) -> Cluster:
        """Configuration, Node and networks, to look at."""
        return self._cluster

    @property
    def mode(self) -> Mode:
        """The dataplane in force."""
        return self._cluster.mode

    @property
    def config(self) -> NodeConfiguration:
        """The configuration in force."""
        return self._cluster.config

    @property
    def node(self) -> Node | None:
        """This node's object, if there is one."""
        return self._cluster.node

    @property
    def node_proxy(self) -> NodeProxy | None:
        """The NodeProxy that the configuration in force comes from, if it comes from one."""
        return self._cluster.node_proxy

    @property
    def counts(self) -> Counts:
        """How much there is, as of the last `take`."""
        return self._totals.counts()

    @property
    def health_checks(self) -> Mapping[str, HealthCheck]:
        """Services with a health check port of their own, by ``namespace/name``, as of the last `take`."""
        return MappingProxyType(self._health_checks)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with Services and configuration, sorted, as of the last `take`."""
        if self._problems is None:
            found = [problem for problems in self._service_problems.values() for problem in problems]
            found += self._claims.problems()
            found += self._cluster.problems(node_ports=self._totals.node_port_services > 0)
            self._problems = tuple(sorted(found))
        return self._problems

    def take_triggers(self) -> tuple[float, ...]:
        """Return the trigger times (Unix seconds) of the slices that changed since the last call."""
        triggers, self._triggers = self._triggers, []
        return tuple(triggers)

    def service(self, key: str) -> Service | None:
        """Return the Service ``namespace/name``."""
        entry = self._store.get(key)
        return entry.service if entry is not None else None

    def slices(self, key: str) -> tuple[EndpointSlice, ...]:
        """Return the slices that count for the Service ``namespace/name``."""
        entry = self._store.get(key)
        return entry.effective_slices() if entry is not None else ()

    @property
    def pod_weights(self) -> Mapping[str, int]:
        """Weights of Pods, by ``namespace/name``."""
        return MappingProxyType(self._pod_weights)

    def _put_slice(self, key: str, new: EndpointSlice | None) -> None:
        old = self._store.slice(key)
        touched = self._store.put_slice(key, new)
        self._dirty.update(touched)
        if new is not None and touched:
            self._note_trigger(old, new)

    def _put_service(self, key: str, service: Service | None) -> None:
        if self._store.put_service(key, service):
            self._dirty.add(key)

    def _put_endpoints(self, key: str, endpoints: Endpoints | None) -> None:
        if self._store.put_endpoints(key, endpoints):
            self._dirty.add(key)
            for part in endpoints.slices if endpoints is not None else ():
                self._note_trigger(None, part)

    def _note_trigger(self, old: EndpointSlice | None, new: EndpointSlice) -> None:
        if new.trigger_time is not None and (old is None or old.trigger_time != new.trigger_time):
            self._triggers.append(new.trigger_time)

    def _put_pod(self, namespace: str, name: str, weight: int | None) -> None:
        key = f"{namespace}/{name}"
        if self._pod_weights.get(key) == weight:
            return
        if weight is None:
            del self._pod_weights[key]
        else:
            self._pod_weights[key] = weight
        self._changed_pods.setdefault(namespace, set()).add(name)

    def _put_in_cluster(self, obj: Node | ServiceCIDR | Namespace | ProxyConfig | NodeProxy) -> None:
        cluster = self._cluster
        match obj:
            case Node():
                if obj.name != cluster.node_name or cluster.node == obj:
                    return
                cluster.node = obj
            case ServiceCIDR():
                cluster.service_cidrs[obj.name] = obj
            case Namespace():
                if cluster.namespaces.get(obj.name) == obj:
                    return
                cluster.namespaces[obj.name] = obj
                self._check_node_ports_again(obj.name)
            case ProxyConfig():
                cluster.configs[obj.name] = obj
            case NodeProxy():
                if obj.name != cluster.node_name:
                    return
                cluster.node_proxy = obj
        self._cluster_changed = True

    def _remove_from_cluster(self, key: ObjectKey) -> None:
        cluster = self._cluster
        match key.kind:
            case "Node":
                if key.name != cluster.node_name:
                    return
                cluster.node = None
            case "ServiceCIDR":
                cluster.service_cidrs.pop(key.name, None)
            case "Namespace":
                cluster.namespaces.pop(key.name, None)
                self._check_node_ports_again(key.name)
            case "NodeProxy":
                return  # what it said stays in force
            case _:
                cluster.configs.pop(key.name, None)
        self._cluster_changed = True

    def _check_node_ports_again(self, namespace: str) -> None:
        if self._cluster.config.node_port_ranges:
            self._dirty.update(key for key in self._store if key.startswith(f"{namespace}/"))

    def _resolve_cluster(self) -> None:
        if not self._cluster_changed:
            return
        self._cluster_changed = False
        self._problems = None
        cluster = self._cluster
        cluster.resolve()
        before, self._planned_for = self._planned_for, _dependencies(cluster)
        if before != self._planned_for:
            self._dirty.update(self._store)

    def _find_services_of_pods(self) -> None:
        changed, self._changed_pods = self._changed_pods, {}
        for namespace, pods in changed.items():
            self._dirty.update(self._store.of_pods(namespace, pods))

    def _plan_anew(self, key: str) -> None:
        entry = self._store.get(key)
        if entry is None:
            return
        new = self._plan_entry(entry)
        self._claims.replace(key, entry.frontends, new.claims)
        entry.frontends = tuple(new.claims)
        self._totals.move(entry.tally, new.tally)
        entry.tally = new.tally
        if new.problems:
            self._service_problems[key] = new.problems
        elif self._service_problems:
            self._service_problems.pop(key, None)
        self._update_health_check(key, entry)
        if entry.unused:
            self._store.drop_unused(key)

    def _plan_entry(self, entry: Entry) -> ServicePlan:
        service = entry.service
        if service is None:
            return NOTHING
        return plan_service(
            service,
            entry.effective_slices(),
            self._cluster.context,
            node_port_range=self._cluster.node_port_range(service.namespace),
            pod_weights=self._pod_weights,
        )

    def _update_health_check(self, key: str, entry: Entry) -> None:
        service = entry.service
        if service is not None and service.health_check_node_port and not service.ignored:
            local = ready_here(entry.effective_slices(), self._cluster.node_name, self._pod_weights)
            self._health_checks[key] = HealthCheck(
                service.namespace, service.name, service.health_check_node_port, local
            )
        elif self._health_checks:
            self._health_checks.pop(key, None)


def _dependencies(cluster: Cluster) -> tuple[object, ...]:
    """Return what every Service's plan depends on."""
    return cluster.context, cluster.config.node_port_range, cluster.config.node_port_ranges
