"""kube-proxy's device: in its mode ipvs each address of a Service is on a dummy device, so it is the node's own."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.channel import NETLINK_ROUTE, Channel, attributes
from pointsman.dataplane.leftovers.found import Leftover
from pointsman.dataplane.netlink import attribute
from pointsman.dataplane.protocol import DataplaneError
from pointsman.dataplane.rtnetlink import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDRMSG,
    IFINFOMSG,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
)

if TYPE_CHECKING:
    from pointsman.dataplane.channel import Message

NAME: Final = "kube-ipvs0"


class Device:
    """The device, in the network namespace of the thread that makes it; used by one thread at a time.

    Args:
        name: what it is called.
        kind: what it has to be, as ``ip -d link`` says; one of another kind is somebody else's.
    """

    def __init__(self, name: str = NAME, kind: str = "dummy") -> None:
        """Open a socket.

        Raises:
            OSError: the kernel has no rtnetlink.
        """
        self._name, self._kind = name, kind
        self._channel = Channel(NETLINK_ROUTE)

    def addresses(self) -> frozenset[str]:
        """Return the addresses on it; none when it is not there, or somebody else's.

        Raises:
            OSError: the kernel refused.
        """
        found = self._look()
        if found is None or found[1] != self._kind:
            return frozenset()
        request = IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        pairs = map(_address, self._channel.dump(RTM_GETADDR, request))
        # The kernel gives each device a link-local address by itself.
        return frozenset(str(each) for index, each in pairs if index == found[0] and each and not each.is_link_local)

    def find(self) -> list[Leftover]:
        """Look for it.

        Raises:
            OSError: the kernel refused.
        """
        found = self._look()
        if found is None:
            return []
        if found[1] != self._kind:
            return [Leftover("device", self._name, kept=f"it is no {self._kind} device, so not kube-proxy's")]
        return [Leftover("device", self._name, detail=f"{len(self.addresses()):,} addresses")]

    def remove(self) -> None:
        """Delete it with its addresses; none is fine.

        Raises:
            DataplaneError: the kernel refused.
        """
        found = self._look()
        if found is None or found[1] != self._kind:
            return
        request = IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, found[0], 0, 0)
        for code in self._channel.run(RTM_DELLINK, [request]):
            if code != errno.ENODEV:
                raise DataplaneError(f"can't delete the device {self._name}: {os.strerror(code)}")

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()

    def _look(self) -> tuple[int, str] | None:
        """Return its number and its kind, or None."""
        request = IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)
        request += attribute(IFLA_IFNAME, self._name.encode() + b"\0")
        try:
            message = self._channel.get(RTM_GETLINK, request)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        data = message.data
        spans = attributes(data, message.start + IFINFOMSG.size, message.end)
        kind = attributes(data, *spans.get(IFLA_LINKINFO, (0, 0))).get(IFLA_INFO_KIND, (0, 0))
        index = IFINFOMSG.unpack_from(data, message.start)[3]
        return index, data[slice(*kind)].rstrip(b"\0").decode()


def _address(message: Message) -> tuple[int, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    """Read the number of an address's device, and the address."""
    index = IFADDRMSG.unpack_from(message.data, message.start)[4]
    spans = attributes(message.data, message.start + IFADDRMSG.size, message.end)
    span = spans.get(IFA_LOCAL) or spans.get(IFA_ADDRESS)
    return index, ipaddress.ip_address(message.data[slice(*span)]) if span else None
