"""Why an endpoint answers, or does not; pure. Words for people, from the same facts that `endpoints` decides by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from pointsman.policy.endpoints import Choice, Target, choose, find_targets, stands_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.model.objects import EndpointSlice, ServicePort
    from pointsman.policy.endpoints import Place

Policy = Literal["Cluster", "Local"]


class EndpointReason(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One endpoint of a Service, and what becomes of it.

    Attributes:
        address: IP address.
        port: the port it would get connections on; 0 when it has none for this Service port.
        used: it gets new connections.
        weight: its share of them.
        node: name of its node, or "".
        why: the reason, as a clause.
    """

    address: str
    port: int
    used: bool
    weight: int
    node: str
    why: str


def endpoint_reasons(
    slices: Iterable[EndpointSlice],
    port: ServicePort,
    policy: Policy,
    place: Place,
    pod_weights: Mapping[str, int],
) -> tuple[EndpointReason, ...]:
    """Say of every endpoint whether it answers, and why; those that do come first.

    Args:
        slices: of the Service and of one IP family.
        port: the Service's port.
        policy: the traffic policy that holds for the connection.
        place: this node's name and zone.
        pod_weights: weights of Pods by ``namespace/name``.
    """
    parts = list(slices)
    targets = find_targets(parts, port, place.node, pod_weights)
    choice = choose(targets, place, cluster=policy == "Cluster", local=policy == "Local")
    chosen = set(choice.cluster or choice.local or ())
    found = [_reason(target, choice, policy, place, chosen=target in chosen) for target in targets]
    found += _without_port(parts, port, {target.endpoint.address for target in targets})
    return tuple(sorted(found, key=lambda reason: not reason.used))


def _reason(target: Target, choice: Choice, policy: Policy, place: Place, *, chosen: bool) -> EndpointReason:
    backend, endpoint = target.backend, target.endpoint
    why = _why_chosen(target, choice, place) if chosen else _why_not(target, choice, policy, place)
    return EndpointReason(
        backend.address, backend.port, chosen and backend.weight > 0, backend.weight, endpoint.node, why
    )


def _why_chosen(target: Target, choice: Choice, place: Place) -> str:
    if not target.backend.weight:
        return "its weight is 0: it drains, and gets no new connections"
    if not target.endpoint.ready:
        return "it is terminating, but serves still, and no endpoint is ready"
    match choice.topology:
        case "node":
            return f"it is ready, and hinted for node {place.node}"
        case "zone":
            return f"it is ready, and hinted for zone {place.zone}"
        case _:
            return "it is ready"


def _why_not(target: Target, choice: Choice, policy: Policy, place: Place) -> str:
    endpoint = target.endpoint
    if not endpoint.ready and not stands_in(endpoint):
        return "it is terminating, and serves no more" if endpoint.terminating else "it is not ready"
    if policy == "Local" and endpoint.node != place.node:
        where = f"it is on node {endpoint.node}" if endpoint.node else "its node is not known"
        return f"{where}; the Local policy uses endpoints on {place.node} alone"
    if not endpoint.ready:
        return "it is terminating, and others are ready"
    if choice.topology == "node":
        return f"it is hinted for node {', '.join(endpoint.node_hints)}; others are hinted for {place.node}"
    return f"it is hinted for zone {', '.join(endpoint.zone_hints)}; others are hinted for {place.zone}, this node's"


def _without_port(
    slices: Iterable[EndpointSlice], port: ServicePort, known: set[str]
) -> Iterator[EndpointReason]:  # fmt: skip
    wanted = f'port named "{port.name}"' if port.name else "port without a name"
    for part in slices:
        for endpoint in part.endpoints:
            if endpoint.address not in known:
                known.add(endpoint.address)
                why = f"EndpointSlice {part.name} has no {wanted} for {port.protocol.upper()}"
                yield EndpointReason(endpoint.address, 0, used=False, weight=0, node=endpoint.node, why=why)
