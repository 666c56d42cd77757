"""Who may connect to a load balancer's address (``spec.loadBalancerSourceRanges``); pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pointsman.model.address import family_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.model.plan import Family


def ranges_of(service_ranges: Iterable[str], family: Family) -> tuple[str, ...]:
    """Return the networks of one IP family."""
    return tuple([network for network in service_ranges if family_of(network) == family])


def allowed_sources(
    ranges: tuple[str, ...], balancer_ips: Iterable[str], node_addresses: Iterable[str]
) -> tuple[str, ...] | None:
    """Say which clients may connect to the load balancer addresses of a Service.

    A load balancer's address is often an address of the node too. What the node then sends to it comes from that very
    address, so that a node which may connect needs it among the sources (as in kube-proxy).

    Args:
        ranges: canonical networks of one IP family, at least one.
        balancer_ips: the Service's load balancer addresses of that family.
        node_addresses: the node's own addresses, of any family.

    Returns:
        The fewest networks that say it, sorted and without overlap; None for everybody.
    """
    networks = [ipaddress.ip_network(text) for text in ranges]
    own = [ipaddress.ip_address(text) for text in node_addresses]
    if any(address in network for network in networks for address in own):
        networks += [ipaddress.ip_network(text) for text in balancer_ips]
    if any(network.prefixlen == 0 for network in networks):
        return None
    return tuple(str(network) for network in ipaddress.collapse_addresses(networks))  # type: ignore[type-var]  # one family


def holds(networks: Iterable[str], address: str) -> bool:
    """Tell whether `address` is in one of `networks` (of any family)."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(network) for network in networks)
