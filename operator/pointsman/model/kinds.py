"""The kinds that a Service proxy reads, and how each is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pydantic

from pointsman.api.errors import validation_problems
from pointsman.api.names import API_VERSION
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.resource import unknown_fields
from pointsman.model import convert_cluster, convert_endpoints, convert_service, raw
from pointsman.model.objects import (
    Endpoints,
    EndpointSlice,
    Kind,
    Namespace,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServiceCIDR,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.model.notes import Notes

Object = Service | EndpointSlice | Endpoints | Pod | Node | ServiceCIDR | Namespace | ProxyConfig | NodeProxy
"""Everything that a source can tell of."""


def key_of(obj: Object) -> ObjectKey:
    """Tell what identifies `obj`."""
    return ObjectKey(_KINDS[type(obj)], getattr(obj, "namespace", ""), obj.name)


class Reader(NamedTuple):
    """How one kind is read.

    Attributes:
        kind: as the objects name it.
        api_versions: those that are read; the first is the one to recommend.
        raw_type: the struct in `pointsman.model.raw`.
        convert: takes the raw object, namespace, name and notes; None when the object cannot be used.
        namespaced: its objects live in namespaces.
    """

    kind: Kind
    api_versions: tuple[str, ...]
    raw_type: type[Any]
    convert: Callable[[Any, str, str, Notes], Object | None]
    namespaced: bool = False

    def is_of_group(self, api_version: str | None) -> bool:
        """Tell whether the API group is this kind's; others have kinds of the same name (Knative has a Service)."""
        return api_version is None or _group(api_version) == _group(self.api_versions[0])


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _resource(read: Callable[[object], Object]) -> Callable[[Any, str, str, Notes], Object | None]:
    """Return how a custom resource is read: what is wrong with it are notes."""

    def convert(plain: object, _namespace: str, _name: str, notes: Notes) -> Object | None:
        try:
            return read(plain)
        except pydantic.ValidationError as error:
            for problem in validation_problems(error):
                notes.note(problem.field, problem.message, f"allowed: {problem.allowed}")
            return None

    return convert


def _proxy_config(plain: Any, namespace: str, name: str, notes: Notes) -> Object | None:  # noqa: ANN401 - plain data
    """Read a ProxyConfig. The API server warns of unknown fields; for a file there is nobody else."""
    found = _resource(ProxyConfig.read)(plain, namespace, name, notes)
    if found is not None:
        for field in unknown_fields(ProxyConfigSpec, plain.get("spec"), "spec"):
            remedy = f"write {field.nearest}" if field.nearest else "see docs/configuration.md for the fields"
            notes.note(field.path, "is no field of a ProxyConfig", remedy, "this field")
    return found


_READERS: Final = (
    Reader("Service", ("v1",), raw.Service, convert_service.service, namespaced=True),
    Reader(
        "EndpointSlice", ("discovery.k8s.io/v1",), raw.EndpointSlice, convert_endpoints.endpoint_slice, namespaced=True
    ),
    Reader("Endpoints", ("v1",), raw.Endpoints, convert_endpoints.endpoints, namespaced=True),
    Reader("Pod", ("v1",), raw.Pod, convert_cluster.pod, namespaced=True),
    Reader("Node", ("v1",), raw.Node, convert_cluster.node),
    Reader(
        "ServiceCIDR",
        ("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
        raw.ServiceCIDR,
        convert_cluster.service_cidr,
    ),
    Reader("Namespace", ("v1",), raw.Namespace, convert_cluster.namespace),
    Reader("ProxyConfig", (API_VERSION,), raw.ProxyConfig, _proxy_config),
    Reader("NodeProxy", (API_VERSION,), raw.NodeProxy, _resource(NodeProxy.read)),
)
BY_KIND: Final[dict[str, Reader]] = {reader.kind: reader for reader in _READERS}
BY_RAW_TYPE: Final = {reader.raw_type: reader for reader in _READERS}
_KINDS: Final[dict[type[Object], Kind]] = {
    Service: "Service",
    EndpointSlice: "EndpointSlice",
    Endpoints: "Endpoints",
    Pod: "Pod",
    Node: "Node",
    ServiceCIDR: "ServiceCIDR",
    Namespace: "Namespace",
    ProxyConfig: "ProxyConfig",
    NodeProxy: "NodeProxy",
}
