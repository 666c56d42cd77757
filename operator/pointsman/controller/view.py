"""The operator's picture of the cluster; pure.

Whoever watches the cluster puts in what it hears (`put`, `remove`, …), and what the API server answers to a write: what
is older than what is known is left out, so that a write counts at once, before the watch tells of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.selection import select
from pointsman.controller.catalog import Catalog
from pointsman.controller.nodes import is_told_silent
from pointsman.model.kinds import key_of
from pointsman.model.objects import Endpoints, EndpointSlice, Namespace, Node, Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.api.values import PortRange
    from pointsman.model.kinds import Object
    from pointsman.model.objects import Kind, ObjectKey
    from pointsman.model.plan import Transport

_Resource = TypeVar("_Resource", ProxyConfig, NodeProxy)
_DEFAULTS: Final = ProxyConfigSpec()


class NodeRecord(NamedTuple):
    """A Node.

    Attributes:
        node: what is read of it.
        uid: its `metadata.uid`; what it owns names it.
    """

    node: Node
    uid: str = ""


class View:
    """The cluster as the operator knows it.

    Attributes:
        nodes: the Nodes, by name.
        configs: the ProxyConfigs, by name.
        node_proxies: the NodeProxies, by name (that of their node).
        namespaces: the Namespaces, by name.
        catalog: the Services and what belongs to them.
        versions: the resourceVersions of ProxyConfigs and NodeProxies.
        silent: names of the nodes whose agents give no sign of life.
        listed: the kinds of which everything that there was has been told; absence of others means nothing.
        revision: counts the changes of anything.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRecord] = {}
        self.configs: dict[str, ProxyConfig] = {}
        self.node_proxies: dict[str, NodeProxy] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.catalog = Catalog()
        self.versions: dict[ObjectKey, int] = {}
        self.silent: frozenset[str] = frozenset()
        self.listed: set[Kind] = set()
        self.revision = 0
        self._selection: dict[str, ProxyConfig | None] | None = None

    def put(self, obj: Object, version: int = 0, uid: str = "") -> None:
        """Take an object that came or changed.

        Args:
            obj: kinds that the operator does not ask for are left out.
            version: its resourceVersion.
            uid: its `metadata.uid`; needed of Nodes and Services.
        """
        key = key_of(obj)
        match obj:
            case Service():
                changed = self.catalog.put_service(_path(key), obj, version, uid)
            case EndpointSlice():
                changed = self.catalog.put_slice(_path(key), obj, version)
            case Endpoints():
                changed = self.catalog.put_endpoints(_path(key), obj)
            case Node():
                changed = self._put_node(key, obj, uid)
            case Namespace():
                changed = self._put_namespace(key, obj)
            case ProxyConfig():
                changed = self._put_resource(self.configs, key, obj, version)
            case NodeProxy():
                changed = self._put_node_proxy(key, obj, version)
            case _:
                return
        self.revision += changed

    def remove(self, key: ObjectKey, version: int = 0) -> None:
        """Take that an object went; `version` is its resourceVersion then."""
        match key.kind:
            case "Service":
                changed = self.catalog.remove_service(_path(key), version)
            case "EndpointSlice":
                changed = self.catalog.put_slice(_path(key), None, version)
            case "Endpoints":
                changed = self.catalog.put_endpoints(_path(key), None)
            case "Node":
                changed = self.nodes.pop(key.name, None) is not None
                self._selection = None
            case "Namespace":
                changed = self.namespaces.pop(key.name, None) is not None
            case "ProxyConfig":
                changed = self._remove_resource(self.configs, key, version)
            case "NodeProxy":
                changed = self._remove_resource(self.node_proxies, key, version)
            case _:
                return
        self.revision += changed

    def put_condition(self, key: ObjectKey, status: str, version: int = 0) -> None:
        """Take a Service's condition `pointsman.dev/Programmed` as the cluster has it.

        Args:
            key: of the Service; one that is not known is left out.
            status: of the condition; "" when there is none.
            version: the Service's resourceVersion; what is older than what is known is left out.
        """
        self.catalog.put_condition(_path(key), status, version)

    def set_silent(self, names: Iterable[str]) -> None:
        """Take the names of the nodes whose agents give no sign of life; all others are heard of."""
        silent = frozenset(names)
        self.revision += silent != self.silent
        self.silent = silent

    def mark_listed(self, kind: Kind) -> None:
        """Take that everything that there is of a kind has been put in."""
        self.revision += kind not in self.listed
        self.listed.add(kind)

    def take_dirty(self) -> frozenset[str]:
        """Return the Services (``namespace/name``) of which something changed since the last call."""
        dirty = frozenset(self.catalog.dirty)
        self.catalog.dirty.clear()
        return dirty

    def service(self, key: ObjectKey) -> Service | None:
        """Return a Service."""
        entry = self.catalog.entries.get(_path(key))
        return entry.service if entry is not None else None

    def keys(self, kind: Kind) -> tuple[str, ...]:
        """Return the names (``namespace/name`` where there are namespaces) of all that is known of a kind.

        A watch that starts anew does not tell what went meanwhile: what is not in its list any more has to be removed.
        """
        of_kind: Mapping[str, Iterable[str]] = {
            "Node": self.nodes,
            "Namespace": self.namespaces,
            "ProxyConfig": self.configs,
            "NodeProxy": self.node_proxies,
        }
        return tuple(of_kind[kind]) if kind in of_kind else self.catalog.keys(kind)

    def selection(self) -> Mapping[str, ProxyConfig | None]:
        """Return the ProxyConfig that each node gets, by the node's name, in the order of the names."""
        if self._selection is None:
            configs = list(self.configs.values())
            self._selection = {name: select(configs, self._labels_of(name)) for name in sorted(self.nodes)}
        return self._selection

    def effective_configs(self) -> tuple[ProxyConfig, ...]:
        """Return the ProxyConfigs that some node gets, by name; all of them while no node is known."""
        if not self.nodes:
            return tuple(self.configs[name] for name in sorted(self.configs))
        chosen = {config.name: config for config in self.selection().values() if config is not None}
        return tuple(chosen[name] for name in sorted(chosen))

    def node_port_ranges(self, namespace: str) -> tuple[tuple[str, PortRange], ...]:
        """Return the ranges that hold in a namespace, each with its ProxyConfig's name; the default one without any."""
        labels = self.namespace_labels(namespace)
        ranges = tuple((config.name, config.spec.node_port_range_in(labels)) for config in self.effective_configs())
        return ranges or (("default", _DEFAULTS.node_port_range),)

    def node_port_users(self, port: int, protocol: Transport) -> tuple[str, ...]:
        """Return the Services (``namespace/name``) that have a node port."""
        return self.catalog.users(port, protocol)

    def node_port_services(self) -> Iterator[Service]:
        """Return the Services that have node ports."""
        return (service for _, service in self.catalog.services(tuple(self.catalog.node_port_keys)))

    def node_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each node, by its name."""
        return {name: self._labels_of(name) for name in self.nodes}

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace; none of one that is not known."""
        known = self.namespaces.get(namespace)
        return dict(known.labels) if known is not None else {}

    def _labels_of(self, node: str) -> Mapping[str, str]:
        return dict(self.nodes[node].node.labels)

    def _put_node(self, key: ObjectKey, node: Node, uid: str) -> bool:
        record = NodeRecord(node, uid)
        if self.nodes.get(key.name) == record:
            return False
        self.nodes[key.name] = record
        self._selection = None
        return True

    def _put_namespace(self, key: ObjectKey, namespace: Namespace) -> bool:
        before = self.namespaces.get(key.name)
        self.namespaces[key.name] = namespace
        return before != namespace

    def _put_node_proxy(self, key: ObjectKey, proxy: NodeProxy, version: int) -> bool:
        before = self.node_proxies.get(key.name)
        changed = self._put_resource(self.node_proxies, key, proxy, version)
        if changed and before is not None and is_told_silent(before) and not is_told_silent(proxy):
            self.silent -= {key.name}  # its agent writes: that is a sign of life, before the next look for one
        return changed

    def _put_resource(self, known: dict[str, _Resource], key: ObjectKey, obj: _Resource, version: int) -> bool:
        if version < self.versions.get(key, 0):
            return False
        self.versions[key] = version
        changed = known.get(key.name) != obj
        known[key.name] = obj
        if changed and key.kind == "ProxyConfig":
            self._selection = None
        return changed

    def _remove_resource(self, known: dict[str, _Resource], key: ObjectKey, version: int) -> bool:
        if 0 < version < self.versions.get(key, 0):
            return False
        self.versions.pop(key, None)
        self._selection = None
        return known.pop(key.name, None) is not None


def _path(key: ObjectKey) -> str:
    return f"{key.namespace}/{key.name}"
