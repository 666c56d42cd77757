"""What IPVS holds, as plain data: virtual servers and their real servers.

Words are those of ipvsadm(8). Flags are those of ``linux/ip_vs.h`` and, for ``mh``, of the kernel's
``net/netfilter/ipvs/ip_vs_mh.c``.
"""

from __future__ import annotations

import ipaddress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.plan import IPV4, IPV6, Family, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHED1: Final = 0x0008
"""The scheduler's first flag, IP_VS_SVC_F_SCHED1; what it means is for each scheduler to say."""
SCHED2: Final = 0x0010
SCHED3: Final = 0x0020

SCHEDULER_FLAGS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "sh-fallback": ("sh", SCHED1),
        "sh-port": ("sh", SCHED2),
        "mh-fallback": ("mh", SCHED1),
        "mh-port": ("mh", SCHED2),
    }
)
"""A flag's name in ipvsadm(8) to its scheduler and its bit."""

RIGID: Final = frozenset({"dh"})
"""Schedulers that refuse the clients of a real server whose weight is 0, and can't be told otherwise."""

WIDEST: Final[Mapping[Family, int]] = MappingProxyType({IPV4: 32, IPV6: 128})
"""Bits of an address."""

_SERVICE_OPTION: Final[Mapping[Transport, str]] = MappingProxyType({"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"})


class ServerKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """What tells a virtual server from all others.

    Attributes:
        family: IP version, 4 or 6.
        address: canonical IP address; "" with a mark.
        protocol: transport protocol; "tcp", without a meaning, with a mark.
        port: 1..65535; 0 with a mark.
        mark: 0, or the firewall mark of the packets that it serves, whatever their address.
    """

    family: Family
    address: str
    protocol: Transport
    port: int
    mark: int = 0

    def __str__(self) -> str:
        """Write it as people do: ``10.0.0.1:80/tcp``, ``[fd00::1]:53/udp``, ``mark 7 (IPv4)``."""
        if self.mark:
            return f"mark {self.mark} (IPv{self.family})"
        return f"{_endpoint(self.family, self.address, self.port)}/{self.protocol}"


class Server(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a virtual server does.

    Attributes:
        scheduler: as in ipvsadm(8).
        flags: bits of `SCHED1`, `SCHED2` and `SCHED3`.
        timeout: seconds for which a client stays with its real server (persistence), or 0.
        netmask: leading bits of the address by which clients are told apart (persistence): 32 or 128
            for IPv6 (`WIDEST`) unless someone wants it otherwise.
    """

    scheduler: str
    flags: int = 0
    timeout: int = 0
    netmask: int


class Real(msgspec.Struct, frozen=True, gc=False, order=True):
    """A real server: canonical address of the virtual server's family, and port."""

    address: str
    port: int


def flags_of(scheduler: str, names: Iterable[str]) -> int:
    """Add up the bits of flags; those that are not this scheduler's, or that nobody knows, do not count."""
    bits = 0
    for name in names:
        owner, bit = SCHEDULER_FLAGS.get(name, ("", 0))
        if owner == scheduler:
            bits |= bit
    return bits


def flag_names(scheduler: str, flags: int) -> tuple[str, ...]:
    """Name the flags that are set, as ipvsadm does: ``flag-1`` to ``flag-3`` where the scheduler gives no name."""
    names = {bit: name for name, (owner, bit) in SCHEDULER_FLAGS.items() if owner == scheduler}
    bits = ((SCHED1, "flag-1"), (SCHED2, "flag-2"), (SCHED3, "flag-3"))
    return tuple(names.get(bit, fallback) for bit, fallback in bits if flags & bit)


def server_line(key: ServerKey, server: Server) -> str:
    """Write the command that adds a virtual server, as ``ipvsadm -Sn`` prints and ``ipvsadm --restore`` reads it."""
    line = f"-A {_service(key)} -s {server.scheduler}"
    if server.timeout:
        line += f" -p {server.timeout}"
        if server.netmask != WIDEST[key.family]:
            line += f" -M {_netmask(key.family, server.netmask)}"
    names = flag_names(server.scheduler, server.flags)
    return f"{line} -b {','.join(names)}" if names else line


def real_line(key: ServerKey, real: Real, weight: int) -> str:
    """Write the command that adds a real server, likewise; forwarding is masquerading, as always here."""
    return f"-a {_service(key)} -r {_endpoint(key.family, real.address, real.port)} -m -w {weight}"


def _service(key: ServerKey) -> str:
    if key.mark:
        return f"-f {key.mark}" + (" -6" if key.family == IPV6 else "")
    return f"{_SERVICE_OPTION[key.protocol]} {_endpoint(key.family, key.address, key.port)}"


def _endpoint(family: Family, address: str, port: int) -> str:
    return f"[{address}]:{port}" if family == IPV6 else f"{address}:{port}"


def _netmask(family: Family, bits: int) -> str:
    """Write a mask as ipvsadm does: dotted for IPv4, a number of bits for IPv6."""
    return str(bits) if family == IPV6 else str(ipaddress.IPv4Network((0, bits)).netmask)
