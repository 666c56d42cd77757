"""Where frontends are: each at its own address, and node ports at each of the node's addresses; pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from pointsman.model.plan import IPV4, NODE_PORT, Family, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.model.plan import NodeSettings

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Places:
    """The node's addresses, and what follows from them and from the settings.

    Args:
        settings: of the node.
        addresses: its own ones, as on its devices.

    Attributes:
        own: all of them, as canonical text.
        node_ports: those on which node ports answer, by family.
        networks: those networks of cluster IPs that can be made local as a whole, by family.
        settings: the node's, with no other networks of cluster IPs than these: elsewhere an address that no Service has
            may be somebody's, and the node's own way there must not be closed.
    """

    def __init__(self, settings: NodeSettings, addresses: Iterable[_Address]) -> None:
        found = sorted(addresses, key=lambda address: (address.version, address))
        self.own = frozenset(map(str, found))
        self._served = frozenset(str(address) for address in found if _serves(address))
        self._excluded = [ipaddress.ip_network(cidr) for cidr in settings.ipvs.exclude_cidrs]
        ports = [ipaddress.ip_network(cidr) for cidr in settings.node_port_cidrs]
        self.node_ports: dict[Family, tuple[str, ...]] = {4: (), 6: ()}
        self.networks: dict[Family, tuple[_Network, ...]] = {4: (), 6: ()}
        strangers = [*found, *(ipaddress.ip_network(cidr) for cidr in settings.pod_cidrs)]
        networks = [ipaddress.ip_network(cidr) for cidr in settings.service_cidrs]
        families: tuple[Family, Family] = (4, 6)
        for family in families:
            self.node_ports[family] = tuple(
                str(a) for a in found if a.version == family and _serves(a) and any(a in network for network in ports)
            )
            # A network in which the node or a pod lives can't be made local: they would not be reached any more.
            self.networks[family] = tuple(
                network for network in networks if network.version == family and not _holds_any(network, strangers)
            )
        local = tuple(str(network) for family in families for network in self.networks[family])
        self.settings = msgspec.structs.replace(settings, service_cidrs=local)
        self._bounds = {
            family: [(int(network[0]), int(network[-1])) for network in found]
            for family, found in self.networks.items()
        }

    def of(self, frontend: Frontend) -> list[Frontend]:
        """Return where a frontend is."""
        if frontend.address != NODE_PORT:
            return [frontend]
        return [msgspec.structs.replace(frontend, address=address) for address in self.node_ports[frontend.family]]

    def routes(self, family: Family, addresses: Iterable[str]) -> set[str]:
        """Return the networks that have to be local: those of cluster IPs, and each other address by itself.

        Args:
            family: address family.
            addresses: those of frontends that the node does not have anyway.
        """
        wanted = {str(network) for network in self.networks[family]}
        return wanted.union(filter(None, (self.lone_route(family, address) for address in addresses)))

    def lone_route(self, family: Family, address: str) -> str:
        """Return the network of one address, or "" when its route is that of a network of cluster IPs."""
        number = int(ipaddress.ip_address(address))
        if any(first <= number <= last for first, last in self._bounds[family]):
            return ""
        return f"{address}/{32 if family == IPV4 else 128}"

    def covers(self, family: Family, network: str) -> bool:
        """Tell whether a network is a part of one of cluster IPs that is made local as a whole."""
        inner = ipaddress.ip_network(network)
        return any(first <= int(inner[0]) and int(inner[-1]) <= last for first, last in self._bounds[family])

    def is_node_port(self, spot: Frontend) -> bool:
        """Tell whether node ports answer at a spot's address."""
        return spot.address in self.node_ports[spot.family]

    def __eq__(self, other: object) -> bool:
        """Tell whether the same follows for all frontends."""
        if not isinstance(other, Places):
            return NotImplemented
        return (self._served, self.node_ports, self.networks, self._excluded) == (
            other._served,
            other.node_ports,
            other.networks,
            other._excluded,
        )

    __hash__ = None  # type: ignore[assignment]  # a place is compared, never looked up

    def is_excluded(self, address: str) -> bool:
        """Tell whether virtual servers of others may be at an address (`excludeCIDRs`)."""
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._excluded)


def _serves(address: _Address) -> bool:
    """Tell whether node ports can answer here: loopback is not served (as kube-proxy), link-local IPv6 has a scope."""
    return not address.is_loopback and not (address.version == 6 and address.is_link_local)  # noqa: PLR2004 - IPv6


def _holds_any(network: _Network, strangers: Iterable[_Address | _Network]) -> bool:
    for stranger in strangers:
        if stranger.version != network.version:
            continue
        if isinstance(stranger, ipaddress.IPv4Address | ipaddress.IPv6Address):
            if stranger in network:
                return True
        elif network.overlaps(stranger):
            return True
    return False
