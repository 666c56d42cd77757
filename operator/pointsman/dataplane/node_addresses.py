"""The node's own addresses: the primary ones, and all that there are on its devices."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.channel import ADDRESS_FAMILY, NETLINK_ROUTE, Channel, read_addresses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Family

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FAMILIES: Final[tuple[Family, Family]] = (4, 6)
_ELSEWHERE: Final[Mapping[Family, str]] = {4: "198.51.100.1", 6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): nearly always behind the default route."""
_GROUPS: Final = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)."""


def node_addresses() -> tuple[str, ...]:
    """Find the primary address of each IP family in this thread's network namespace.

    That is the address from which the node would connect to somewhere beyond its default route, or, without such a
    route, the lowest address that is neither loopback, link-local nor multicast. No packet is sent.

    Returns:
        At most one canonical address for each family, IPv4 first.
    """
    found = (_towards_elsewhere(family) or _lowest(family) for family in _FAMILIES)
    return tuple(address for address in found if address)


def _towards_elsewhere(family: Family) -> str:
    try:
        with socket.socket(ADDRESS_FAMILY[family], socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))  # connecting a datagram socket only looks up the route
            address = probe.getsockname()[0]
    except OSError:
        return ""
    return address if _serves(ipaddress.ip_address(address)) else ""


def _lowest(family: Family) -> str:
    try:
        channel = Channel(NETLINK_ROUTE)
    except OSError:
        return ""
    try:
        addresses = [ipaddress.ip_address(packed) for packed in sorted(read_addresses(channel, family))]
    except OSError:
        return ""
    finally:
        channel.close()
    return next((str(address) for address in addresses if _serves(address)), "")


def _serves(address: IPAddress) -> bool:
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def device_addresses() -> frozenset[IPAddress]:
    """Return all addresses on devices of this thread's network namespace.

    Raises:
        OSError: the kernel has no rtnetlink, or refused.
    """
    channel = Channel(NETLINK_ROUTE)
    try:
        return _read(channel)
    finally:
        channel.close()


def _read(channel: Channel) -> frozenset[IPAddress]:
    return frozenset(ipaddress.ip_address(packed) for family in _FAMILIES for packed in read_addresses(channel, family))


class AddressWatch:
    """The addresses of the node's devices, and an ear for changes of them.

    Everything happens in the network namespace of the thread that made it.
    """

    def __init__(self) -> None:
        """Open the sockets.

        Raises:
            OSError: the kernel has no rtnetlink.
        """
        self._channel = Channel(NETLINK_ROUTE)
        self._ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._ear.bind((0, _GROUPS))

    def read(self) -> frozenset[IPAddress]:
        """Return all addresses on devices.

        Raises:
            OSError: the kernel refused.
        """
        return _read(self._channel)

    def heard(self) -> bool:
        """Tell whether any address came or went since the last call; never blocks."""
        found = False
        while True:
            try:
                self._ear.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            found = True

    def close(self) -> None:
        """Close the sockets."""
        self._channel.close()
        self._ear.close()
