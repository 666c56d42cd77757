"""An IPVS of plain dicts: takes messages, decoded by pyroute2, and refuses what the kernel refuses."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.generic.ipvs import ipvsmsg

from pointsman.dataplane.ipvs.objects import Real, ServerKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.dataplane.ipvs.servers import Command
    from pointsman.model.plan import Family, Transport

NEW_SERVICE, SET_SERVICE, DEL_SERVICE = 1, 2, 3
NEW_DEST, SET_DEST, DEL_DEST = 5, 6, 7
_TRANSPORTS: dict[int, Transport] = {6: "tcp", 17: "udp", 132: "sctp"}


class IpvsMemory:
    """What IPVS holds.

    Attributes:
        servers: scheduler by virtual server.
        reals: weights of real servers, by virtual server.
        written: how many messages were taken.
    """

    def __init__(self) -> None:
        self.servers: dict[ServerKey, str] = {}
        self.reals: dict[ServerKey, dict[Real, int]] = {}
        self.written = 0

    def take(self, commands: Iterable[Command]) -> None:
        """Carry out commands; each has to be one that the kernel takes."""
        for command in commands:
            self.written += 1
            refused = self._take(decode(command.message))
            assert not refused, f"{errno.errorcode[refused]}: {command}"

    def _take(self, message: Any) -> int:  # noqa: ANN401 - pyroute2 has no types
        key = _key(message.get_attr("IPVS_CMD_ATTR_SERVICE"))
        command = message["cmd"]
        if (key in self.servers) == (command == NEW_SERVICE):
            return errno.EEXIST if command == NEW_SERVICE else errno.ESRCH
        if command in {NEW_SERVICE, SET_SERVICE}:
            service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
            self.servers[key] = service.get_attr("IPVS_SVC_ATTR_SCHED_NAME")
            self.reals.setdefault(key, {})
            return 0
        if command == DEL_SERVICE:
            del self.servers[key], self.reals[key]
            return 0
        return self._take_real(command, self.reals[key], message.get_attr("IPVS_CMD_ATTR_DEST"), key.family)

    def _take_real(self, command: int, reals: dict[Real, int], dest: Any, family: Family) -> int:  # noqa: ANN401
        real = Real(_address(dest.get_attr("IPVS_DEST_ATTR_ADDR"), family), dest.get_attr("IPVS_DEST_ATTR_PORT"))
        if (real in reals) == (command == NEW_DEST):
            return errno.EEXIST if command == NEW_DEST else errno.ENOENT
        if command == DEL_DEST:
            del reals[real]
        else:
            reals[real] = dest.get_attr("IPVS_DEST_ATTR_WEIGHT")
        return 0


def decode(message: bytes) -> Any:  # noqa: ANN401 - pyroute2 has no types
    """Decode a message that has no netlink header."""
    whole = (len(message) + 16).to_bytes(4, sys.byteorder) + bytes(12) + message
    decoded = ipvsmsg(whole)
    decoded.decode()
    return decoded


def _key(service: Any) -> ServerKey:  # noqa: ANN401 - pyroute2 has no types
    family: Family = 4 if service.get_attr("IPVS_SVC_ATTR_AF") == socket.AF_INET else 6
    if mark := service.get_attr("IPVS_SVC_ATTR_FWMARK"):
        return ServerKey(family, "", "tcp", 0, mark)
    protocol = _TRANSPORTS[service.get_attr("IPVS_SVC_ATTR_PROTOCOL")]
    address = _address(service.get_attr("IPVS_SVC_ATTR_ADDR"), family)
    return ServerKey(family, address, protocol, service.get_attr("IPVS_SVC_ATTR_PORT"))


def _address(value: Any, family: Family) -> str:  # noqa: ANN401 - pyroute2 gives octets or text
    if isinstance(value, str):
        return value
    return socket.inet_ntop(
        socket.AF_INET if family == 4 else socket.AF_INET6, bytes(value)[: 4 if family == 4 else 16]
    )
