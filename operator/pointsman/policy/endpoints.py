"""Which endpoints answer for one port of a Service; pure.

The rules are those of kube-proxy (`CategorizeEndpoints`; KEP-1669 terminating endpoints, KEP-2086 internal traffic
policy, KEP-2433 and KEP-3015 topology hints), with weights added: an endpoint of weight 0 keeps its place, but does not
count when it is asked whether anybody could answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from pointsman.model.objects import Endpoint
from pointsman.model.plan import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.model.objects import EndpointSlice, ServicePort

DEFAULT_WEIGHT = 1

Topology = Literal["", "node", "zone"]
"""Which hints are followed: none, those for this node, those for this node's zone."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where this node is: its name, and its label ``topology.kubernetes.io/zone`` or ""."""

    node: str
    zone: str = ""


class Target(msgspec.Struct, frozen=True, gc=False):
    """One endpoint with one port: what it would be as a backend, and what is known of it."""

    backend: Backend
    endpoint: Endpoint


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The endpoints that answer under each traffic policy, in the order of the targets.

    Attributes:
        cluster: under Cluster policy; None when nobody asked.
        local: under Local policy; None when nobody asked.
        usable: who could answer at all, on whatever node and whatever the hints.
        topology: the hints by which `cluster` was chosen.
    """

    cluster: tuple[Target, ...] | None = None
    local: tuple[Target, ...] | None = None
    usable: tuple[Target, ...] = ()
    topology: Topology = ""


def stands_in(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint may answer while no ready one does: it is on its way out, but serves still."""
    return not endpoint.ready and endpoint.serving and endpoint.terminating


def find_targets(
    slices: Iterable[EndpointSlice], port: ServicePort, node: str, pod_weights: Mapping[str, int]
) -> tuple[Target, ...]:
    """Gather the endpoints of a Service's port from its slices, whatever their condition.

    The port of a slice is the Service's when name and protocol are the same (its number is the targetPort). An address
    and port that comes more than once is one target: the ready one, else the one that serves.

    Args:
        slices: of this Service and of one IP family, in any order.
        port: the Service's port.
        node: name of this node.
        pod_weights: weights by ``namespace/pod name``; they win over the slice's.

    Returns:
        Sorted by address and port.
    """
    name, protocol = port.name, port.protocol
    found: dict[tuple[str, int], Target] = {}
    for part in slices:
        weight = DEFAULT_WEIGHT if part.weight is None else part.weight
        for candidate in part.ports:
            if candidate.name != name or candidate.protocol != protocol:
                continue
            number = candidate.port
            for endpoint in part.endpoints:
                own = weight
                if pod_weights and endpoint.pod:
                    own = pod_weights.get(f"{part.namespace}/{endpoint.pod}", weight)
                where = endpoint.node
                target = Target(Backend(endpoint.address, number, own, not where or where == node), endpoint)
                key = (endpoint.address, number)
                other = found.get(key)
                if other is None or _preference(target) > _preference(other):
                    found[key] = target
    if len(found) == 1:
        return tuple(found.values())
    return tuple([found[key] for key in sorted(found)])


def choose(targets: tuple[Target, ...], place: Place, *, cluster: bool, local: bool) -> Choice:
    """Choose who answers under the policies that are asked for.

    Ready endpoints answer. Where there is none in a policy's scope, those that terminate but still serve stand in.
    Hints count under Cluster policy only, and only for ready endpoints.
    """
    if not targets:
        return Choice(() if cluster else None, () if local else None)
    ready = targets if _all_ready(targets) else tuple([t for t in targets if t.endpoint.ready])
    usable = ready or tuple([t for t in targets if stands_in(t.endpoint)])
    topology: Topology = ""
    chosen: tuple[Target, ...] | None = None
    if cluster:
        topology = _topology(ready, place)
        chosen = usable if not topology else tuple([t for t in ready if _is_hinted(t.endpoint, topology, place)])
    here = _local(targets, ready, place.node) if local else None
    return Choice(chosen, here, usable, topology)


def serves(targets: Iterable[Target]) -> bool:
    """Tell whether any of these gets new connections."""
    return any(target.backend.weight for target in targets)


def _all_ready(targets: tuple[Target, ...]) -> bool:
    return all([target.endpoint.ready for target in targets])  # noqa: C419 -- a list is faster than a generator here


def _local(targets: tuple[Target, ...], ready: tuple[Target, ...], node: str) -> tuple[Target, ...]:
    here = tuple([t for t in ready if t.endpoint.node == node])
    return here or tuple([t for t in targets if t.endpoint.node == node and stands_in(t.endpoint)])


def _topology(ready: tuple[Target, ...], place: Place) -> Topology:
    """Choose the hints to follow: every ready endpoint has to carry one, and one that serves has to match."""
    if not ready:
        return ""
    first = ready[0].endpoint
    if first.node_hints and _followed(ready, "node", place):
        return "node"
    if first.zone_hints and _followed(ready, "zone", place):
        return "zone"
    return ""


def _followed(ready: tuple[Target, ...], topology: Topology, place: Place) -> bool:
    if not all(t.endpoint.node_hints if topology == "node" else t.endpoint.zone_hints for t in ready):
        return False
    matching = [t for t in ready if _is_hinted(t.endpoint, topology, place)]
    # Draining every endpoint of a zone must not leave its clients with nobody while other zones serve.
    return serves(matching) or (bool(matching) and not serves(ready))


def _is_hinted(endpoint: Endpoint, topology: Topology, place: Place) -> bool:
    return place.node in endpoint.node_hints if topology == "node" else place.zone in endpoint.zone_hints


def _preference(target: Target) -> tuple[object, ...]:
    """Order targets with the same address and port; complete, so that the order of slices changes nothing."""
    endpoint, backend = target.endpoint, target.backend
    return (
        endpoint.ready,
        stands_in(endpoint),
        backend.local,
        -backend.weight,
        endpoint.node,
        endpoint.zone_hints,
        endpoint.node_hints,
        endpoint.serving,
        endpoint.terminating,
        endpoint.pod,
    )
