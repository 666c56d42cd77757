"""What a lab has to be made of for a set of objects: nodes, pods, servers and clients; pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.network import canonical, family_of
from pointsman.model.objects import EndpointSlice, Node, Service
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.model.parse import Object

CLIENT_ADDRESSES: Final = ("203.0.113.9", "2001:db8:203::9")
"""Of the documentation networks: the client outside of the cluster."""


class PlannedNode(msgspec.Struct, frozen=True):
    """A node, with the addresses of the client pod that the lab runs on it."""

    name: str
    addresses: tuple[str, ...]
    client: tuple[str, ...]


class PlannedPod(msgspec.Struct, frozen=True):
    """An endpoint's pod: its name, its one address, its node."""

    name: str
    address: str
    node: str


class PlannedServer(msgspec.Struct, frozen=True, order=True):
    """A port that an endpoint answers at."""

    address: str
    port: int
    protocol: Transport


class Layout(msgspec.Struct, frozen=True):
    """A whole lab.

    Attributes:
        nodes, pods, servers: what there has to be. Endpoints with a node's address have no pod.
        outside: addresses of load balancers and external IPs, which clients reach through the first node.
    """

    nodes: tuple[PlannedNode, ...]
    pods: tuple[PlannedPod, ...]
    servers: tuple[PlannedServer, ...]
    outside: tuple[str, ...]


def lay_out(objects: Iterable[Object]) -> Layout:
    """Find what the objects need: a node for each Node and nodeName, a pod for each endpoint's address."""
    every = tuple(objects)
    slices = [obj for obj in every if isinstance(obj, EndpointSlice) and not obj.ignored]
    taken = {endpoint.address for piece in slices for endpoint in piece.endpoints}
    nodes = _nodes(every, slices, taken)
    own = {address for node in nodes for address in node.addresses}
    services = [obj for obj in every if isinstance(obj, Service) and not obj.ignored]
    outside = {a for service in services for a in (*service.external_ips, *service.load_balancer_ips)}
    return Layout(
        nodes=nodes,
        pods=_pods(slices, nodes, own),
        servers=tuple(
            sorted(
                {
                    PlannedServer(endpoint.address, port.port, port.protocol)
                    for piece in slices
                    for endpoint in piece.endpoints
                    for port in piece.ports
                }
            )
        ),
        outside=tuple(sorted(outside - own)),
    )


def _nodes(every: tuple[Object, ...], slices: list[EndpointSlice], taken: set[str]) -> tuple[PlannedNode, ...]:
    known = {obj.name: obj for obj in every if isinstance(obj, Node)}
    named = {endpoint.node for piece in slices for endpoint in piece.endpoints if endpoint.node}
    names = list(dict.fromkeys((*known, *sorted(named)))) or ["node-1"]
    planned = []
    for number, name in enumerate(names, 1):
        node = known.get(name, Node(name))
        addresses = node.addresses or (f"172.31.255.{number}", f"fd00:172:31:255::{number:x}")
        networks = node.pod_cidrs or (f"192.168.{200 + number % 50}.0/24", f"fd00:192:168:{200 + number % 50:x}::/64")
        client = _one_each(_last_free(network, taken) for network in networks)
        planned.append(PlannedNode(name, addresses, client))
    return tuple(planned)


def _pods(slices: list[EndpointSlice], nodes: tuple[PlannedNode, ...], own: set[str]) -> tuple[PlannedPod, ...]:
    known = {node.name for node in nodes}
    pods: dict[str, PlannedPod] = {}
    names = {node.name for node in nodes}
    for piece in slices:
        for endpoint in piece.endpoints:
            address = endpoint.address
            if address in own or address in pods:
                continue
            name = endpoint.pod or "pod-" + address.replace(".", "-").replace(":", "-").strip("-")
            while name in names:
                name += "-2"
            names.add(name)
            pods[address] = PlannedPod(name, address, endpoint.node if endpoint.node in known else nodes[0].name)
    return tuple(pods.values())


def _last_free(network: str, taken: set[str]) -> str:
    """Pick an address at the end of a network, where allocators come last."""
    parsed = ipaddress.ip_network(network)
    for offset in range(2, min(parsed.num_addresses, 1000)):
        address = canonical(str(parsed[-offset]))
        if address not in taken:
            return address
    return str(parsed[0])


def _one_each(addresses: Iterable[str]) -> tuple[str, ...]:
    """Keep the first address of each family."""
    first: dict[int, str] = {}
    for address in addresses:
        first.setdefault(family_of(address), address)
    return tuple(first.values())
