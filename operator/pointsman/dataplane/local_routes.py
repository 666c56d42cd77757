"""Routes of type `local`: they make whole networks of cluster IPs the node's own, without one address on a device.

IPVS serves connections to local addresses alone, and the userspace proxy listens at one. kube-proxy puts each cluster
IP on a device of its own, ``kube-ipvs0``; thousands of addresses there are read by everything that lists addresses. One
route does the same for a whole network. It can name the source address of the node's own connections as well, for IPv4
and IPv6.

As with addresses on a device, the node answers ARP for all of an IPv4 network, on every device, unless
``net.ipv4.conf.all.arp_ignore`` is 1 or 2 (strictARP); then it answers for none of it. IPv6 neighbour discovery never
answers for a network.

A mode's are told from all others by their protocol number (IPVS: ``ip route show table local proto 112``).

Formats: rtnetlink(7), ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.dataplane.channel import ADDRESS_FAMILY, NETLINK_ROUTE, Channel, attributes
from pointsman.dataplane.netlink import NLM_F_APPEND, NLM_F_CREATE, attribute

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.dataplane.channel import Message
    from pointsman.dataplane.netlink import Refusal
    from pointsman.model.plan import Family

PROTOCOL: Final = 112
"""Free in ``linux/rtnetlink.h`` and in iproute2's ``rt_protos``; 80 is Calico's. The letter p."""

_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_RT_TABLE_LOCAL: Final = 255
_RT_SCOPE_HOST: Final = 254
_RTN_LOCAL: Final = 2
_RTM_F_CLONED: Final = 0x200  # a cache entry, not a route
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_PREFSRC: Final = 7
_LOOPBACK: Final = "lo"


class _Verb(NamedTuple):
    """What is done with a route: its name, message type and flags, and the errno that is as good as success."""

    name: str
    kind: int
    flags: int
    fine: int


# Appended, not put in front: where the node has the address itself, the kernel's own route stays the first.
_ADD: Final = _Verb("add", _RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, errno.EEXIST)
_REMOVE: Final = _Verb("remove", _RTM_DELROUTE, 0, errno.ESRCH)


class RouteError(OSError):
    """The kernel refused a route; the message names its network."""


class LocalRoutes:
    """Our local routes in the network namespace of the thread that makes it; used by one thread at a time."""

    def __init__(self, protocol_number: int = PROTOCOL) -> None:
        """Open a socket.

        Args:
            protocol_number: 5..255; whose routes these are (``rtm_protocol``).

        Raises:
            OSError: the kernel has no netlink, or the namespace no loopback device.
        """
        self._protocol = protocol_number
        self._channel = Channel(NETLINK_ROUTE)
        self._loopback = socket.if_nametoindex(_LOOPBACK)

    def read(self, family: Family) -> set[str]:
        """Read the networks of our routes, in canonical form (``10.96.0.0/12``, ``203.0.113.5/32``).

        Raises:
            OSError: the kernel refused.
        """
        return set(self.sources(family))

    def sources(self, family: Family) -> dict[str, str]:
        """Read the networks of our routes, each with its source address ("": it has none).

        Raises:
            OSError: the kernel refused.
        """
        request = _RTMSG.pack(ADDRESS_FAMILY[family], 0, 0, 0, _RT_TABLE_LOCAL, 0, 0, 0, 0)
        return dict(filter(None, map(self._ours, self._channel.dump(_RTM_GETROUTE, request))))

    def change(self, family: Family, add: Iterable[str], remove: Iterable[str], source: str | None = None) -> None:
        """Remove routes, then add others. What is gone or there already is fine.

        A route whose source changes has to be in both. An address that leaves the node stays the source of our routes
        (no answer finds its way back then; IPv6 routes lose it in newer kernels): compare `sources` with what shall be.

        Args:
            family: IP version of everything else.
            add: networks.
            remove: networks of our own routes; those of others at the same network stay.
            source: address of the node from which its own connections to `add` come; None leaves it to the kernel,
                which takes the destination (IPv4) or any address of the node (IPv6).

        Raises:
            RouteError: the kernel refused one; all the others are done.
        """
        errors = [
            error
            for verb, networks, origin in ((_REMOVE, remove, None), (_ADD, add, source))
            if (error := self._submit(verb, family, list(networks), origin)) is not None
        ]
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Close the socket; the routes stay."""
        self._channel.close()

    def _submit(self, verb: _Verb, family: Family, networks: list[str], source: str | None) -> RouteError | None:
        requests = [self._route(family, network, source) for network in networks]
        refused = [r for r in self._channel.submit(verb.kind, requests, verb.flags) if r.error != verb.fine]
        return _error(verb, networks, refused, source) if refused else None

    def _route(self, family: Family, network: str, source: str | None) -> bytes:
        address, _, bits = network.partition("/")
        parts = [
            _RTMSG.pack(
                ADDRESS_FAMILY[family], int(bits), 0, 0, _RT_TABLE_LOCAL, self._protocol, _RT_SCOPE_HOST, _RTN_LOCAL, 0
            ),
            attribute(_RTA_DST, socket.inet_pton(ADDRESS_FAMILY[family], address)),
            attribute(_RTA_OIF, struct.pack("=I", self._loopback)),
        ]
        if source is not None:
            parts.append(attribute(_RTA_PREFSRC, socket.inet_pton(ADDRESS_FAMILY[family], source)))
        return b"".join(parts)

    def _ours(self, message: Message) -> tuple[str, str] | None:
        """Read one route of the dump; the kernel filters only for those who ask it to, and not before Linux 4.20."""
        _family, bits, _source, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(
            message.data, message.start
        )
        ours = table == _RT_TABLE_LOCAL and protocol == self._protocol and kind == _RTN_LOCAL
        if not ours or flags & _RTM_F_CLONED:
            return None
        spans = attributes(message.data, message.start + _RTMSG.size, message.end)
        source = spans.get(_RTA_PREFSRC)
        return (
            f"{ipaddress.ip_address(message.data[slice(*spans[_RTA_DST])])}/{bits}",
            str(ipaddress.ip_address(message.data[slice(*source)])) if source else "",
        )


def _error(verb: _Verb, networks: list[str], refused: list[Refusal], source: str | None) -> RouteError:
    first = refused[0]
    others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    hint = f"; is the source {source} an address of this node?" if source and first.error == errno.EINVAL else ""
    text = f": {first.text}" if first.text else ""
    route = f"the local route to {networks[first.index]}{others}"
    return RouteError(first.error, f"can't {verb.name} {route}: {os.strerror(first.error)}{text}{hint}")
