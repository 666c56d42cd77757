"""A cluster of Nodes, ProxyConfigs and agents in memory, which does what the operator says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.status import Condition, HeldVersions, NodeProxyStatus
from pointsman.api.timestamps import rfc3339
from pointsman.controller import actions as do
from pointsman.controller.reconcile import Memory, reconcile
from pointsman.controller.view import View
from pointsman.model.objects import Node, ObjectKey, Service, ServicePort

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.controller.actions import Action

KINDS = ("Node", "ProxyConfig", "NodeProxy", "Service", "EndpointSlice", "Namespace")
START = 1_700_000_000.0


def configuration(name: str = "default", generation: int = 1, **spec: Any) -> ProxyConfig:  # noqa: ANN401 -- any spec
    return ProxyConfig.read({"metadata": {"name": name, "generation": generation, "uid": f"uid-{name}"}, "spec": spec})


def web(name: str = "web", *, node_port: int = 0, scheduler: str | None = None, ignored: str = "") -> Service:
    ports = (ServicePort(80, node_port=node_port),)
    return Service("shop", name, "NodePort", ("10.96.0.1",), ports=ports, scheduler=scheduler, ignored=ignored)


def says(kind: str, status: str, reason: str, message: str = "", at: float = START) -> Condition:
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": rfc3339(at)}
    )


class Cluster:
    """The API server, as far as the operator writes to it, and agents that tests speak for."""

    def __init__(self, *nodes: str, configs: Iterable[ProxyConfig] = ()) -> None:
        self.view = View()
        self.memory = Memory()
        self.now = START
        self.version = 100
        self.done: list[Action] = []
        for kind in KINDS:
            self.view.mark_listed(kind)
        for name in nodes:
            self.add_node(name)
        for config in configs:
            self.put(config)

    def put(self, obj: Any, uid: str = "") -> int:  # noqa: ANN401 -- any object
        self.version += 1
        self.view.put(obj, self.version, uid)
        return self.version

    def add_node(self, name: str, **labels: str) -> None:
        self.put(Node(name, labels=tuple(labels.items())), f"uid-{name}")

    def restart_operator(self) -> None:
        self.memory = Memory()

    def pass_(self, seconds: float = 0.0) -> tuple[Action, ...]:
        """Let time pass, ask the operator once, and do what it says."""
        self.now += seconds
        actions = reconcile(self.view, self.memory, self.now)
        for action in actions:
            self._do(action)
        self.done += actions
        return actions

    def settle(self) -> None:
        """Ask until there is nothing to do."""
        for _ in range(50):
            if not self.pass_(1.0):
                return
        raise AssertionError("the operator does not come to rest")

    def report(self, name: str, *conditions: Condition, mode: str = "nftables", held: tuple[int, int] = (0, 0)) -> None:
        """Speak for an agent; without conditions: all is well."""
        proxy = self.view.node_proxies[name]
        well = (says("Ready", "True", "Programmed"), says("ModeInForce", "True", "AsConfigured"))
        given = {each.type for each in conditions}
        status = NodeProxyStatus.model_validate(
            {
                "observedGeneration": proxy.generation,
                "mode": mode,
                "conditions": (*conditions, *(each for each in well if each.type not in given)),
                "resourceVersions": HeldVersions(services=str(held[0]), endpoint_slices=str(held[1])),
            }
        )
        self.put(proxy.model_copy(update={"status": status}))

    def config(self, name: str = "default") -> ProxyConfig:
        return self.view.configs[name]

    def conditions(self, name: str = "default") -> Mapping[str, tuple[str, str]]:
        return {each.type: (each.status, each.reason) for each in self.config(name).status.conditions}

    def message(self, kind: str, name: str = "default") -> str:
        return next(each.message for each in self.config(name).status.conditions if each.type == kind)

    def _do(self, action: Action) -> None:
        proxies = self.view.node_proxies
        match action:
            case do.CreateNodeProxy(node, _, spec):
                self.put(NodeProxy.read({"metadata": {"name": node, "generation": 1}, "spec": spec.model_dump()}))
            case do.UpdateNodeProxy(node, spec, version):
                assert version == self.view.versions[ObjectKey("NodeProxy", "", node)]
                generation = proxies[node].generation + 1
                self.put(proxies[node].model_copy(update={"spec": spec, "generation": generation}))
            case do.DeleteNodeProxy(node):
                self.view.remove(ObjectKey("NodeProxy", "", node))
            case do.PatchNodeProxyStatus(node, conditions, _):
                status = proxies[node].status.model_copy(update={"conditions": conditions})
                self.put(proxies[node].model_copy(update={"status": status}))
            case do.PatchProxyConfigStatus(name, status):
                self.put(self.view.configs[name].model_copy(update={"status": status}))
            case do.PatchServiceCondition(namespace, name, condition):
                key = ObjectKey("Service", namespace, name)
                service = self.view.service(key)
                assert service is not None
                self.put(service)
                self.view.put_condition(key, condition.status if condition else "")
            case do.SendEvent():
                pass
