"""How much there is: numbers for metrics and health checks; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.policy.endpoints import DEFAULT_WEIGHT
from pointsman.policy.frontends import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.model.objects import EndpointPort, EndpointSlice

_NONE: Final = Tally()


class HealthCheck(msgspec.Struct, frozen=True, gc=False):
    """A Service's own health check port (``healthCheckNodePort``).

    Attributes:
        namespace, name: of the Service.
        port: where to answer.
        local_endpoints: distinct addresses of ready endpoints on this node that get new connections.
    """

    namespace: str
    name: str
    port: int
    local_endpoints: int


class Counts(msgspec.Struct, frozen=True, gc=False):
    """How much the plan holds.

    Attributes:
        services: Services that are served.
        service_ports: their ports.
        endpoints: backends in use, each once for a Service port and IP family.
        no_local_endpoints_internal, no_local_endpoints_external: Service ports under a Local policy (internal,
            external) that have endpoints, but none on this node.
    """

    services: int
    service_ports: int
    endpoints: int
    no_local_endpoints_internal: int
    no_local_endpoints_external: int


class Totals:
    """Sums of what the Services add.

    Attributes:
        node_port_services: how many Services have a node port.
    """

    def __init__(self) -> None:
        self.node_port_services = 0
        self._services = 0
        self._ports = 0
        self._endpoints = 0
        self._no_local_internal = 0
        self._no_local_external = 0

    def move(self, old: Tally, new: Tally) -> None:
        """Count a Service as `new` that counted as `old`."""
        if old == new:
            return
        self._services += (new != _NONE) - (old != _NONE)
        self._ports += new.ports - old.ports
        self._endpoints += new.endpoints - old.endpoints
        self._no_local_internal += new.no_local_internal - old.no_local_internal
        self._no_local_external += new.no_local_external - old.no_local_external
        self.node_port_services += new.node_port - old.node_port

    def counts(self) -> Counts:
        """Return the sums."""
        return Counts(self._services, self._ports, self._endpoints, self._no_local_internal, self._no_local_external)


def ready_here(slices: Iterable[EndpointSlice], node: str, pod_weights: Mapping[str, int]) -> int:
    """Count the distinct addresses of ready endpoints on a node.

    A drained endpoint (weight 0) does not count: with none but drained ones the node drops new connections, and a
    load balancer has to send them elsewhere.

    Args:
        slices: of one Service.
        node: name of the node.
        pod_weights: weights by ``namespace/pod name``; they win over the slice's.
    """
    weights: dict[tuple[str, tuple[EndpointPort, ...]], int] = {}
    for part in slices:
        if not part.ports:
            continue
        weight = DEFAULT_WEIGHT if part.weight is None else part.weight
        for endpoint in part.endpoints:
            if not endpoint.ready or endpoint.node != node:
                continue
            own = pod_weights.get(f"{part.namespace}/{endpoint.pod}", weight) if endpoint.pod else weight
            key = (endpoint.address, part.ports)
            # Of an endpoint that comes twice, the lower weight holds, as in the plan (see `find_targets`).
            weights[key] = min(own, weights.get(key, own))
    return len({address for (address, _), weight in weights.items() if weight})
