"""Reads ``/proc/net/ip_vs``: all virtual and real servers at once; netlink has one request for each virtual server.

What it does not tell: the schedulers' flags (netlink does); the family of a firewall-mark service (its real servers
do; without any it passes for IPv4); some of the virtual servers, where another network namespace has any, too
(`IpvsKernel.reals`). It gives a persistence timeout in ticks of the kernel's clock, and the netmask of IPv6 in the
wrong byte order.

Format: ``ip_vs_info_seq_show`` in the kernel's ``net/netfilter/ipvs/ip_vs_ctl.c``.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.ipvs.objects import Real, ServerKey
from pointsman.model.plan import IPV4, IPV6, Family, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH: Final = Path("/proc/thread-self/net/ip_vs")
"""Of the calling thread's network namespace; ``/proc/net`` is that of the process's first thread."""

_TRANSPORT: Final[Mapping[str, Transport]] = MappingProxyType({"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"})
_MARK: Final = "FWM"
_REAL: Final = "  -> "
_TITLE_LINES: Final = 3
_CLOCK_MONOTONIC_COARSE: Final = 6  # linux/time.h; its resolution is one tick
_CONNECTIONS: Final = re.compile(rb" \d+ +\d+ *$", re.MULTILINE)


class Counts(msgspec.Struct, frozen=True, gc=False):
    """What the listing says of a real server.

    Attributes:
        weight: its share of new connections.
        active: connections that are established now.
        inactive: connections in any other state.
        forwarding: ``Masq``, or what another program wants instead: ``Local``, ``Tunnel``, ``Route``.
    """

    weight: int
    active: int
    inactive: int
    forwarding: str = "Masq"


class Listed(msgspec.Struct, frozen=True, gc=False):
    """What the listing says of a virtual server.

    Attributes:
        scheduler: as in ipvsadm(8); "none" while it is being changed.
        timeout: seconds for which a client stays with its real server (persistence), or 0.
        netmask: leading bits of the address by which clients are told apart; None without persistence.
        reals: its real servers.
    """

    scheduler: str
    timeout: int
    netmask: int | None
    reals: dict[Real, Counts]


def read(path: Path = PATH) -> dict[ServerKey, Listed]:
    """Read all virtual servers of TCP, UDP and SCTP and of firewall marks, whoever made them.

    Raises:
        FileNotFoundError: IPVS is not loaded.
    """
    return parse(path.read_bytes(), time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def shape(listing: bytes) -> bytes:
    """Digest everything in a listing but the numbers of connections: it changes when servers or weights do."""
    return hashlib.blake2b(_CONNECTIONS.sub(b"", listing), digest_size=16).digest()


def parse(listing: bytes, tick: float) -> dict[ServerKey, Listed]:
    """Parse a listing.

    Args:
        listing: what the file holds.
        tick: seconds of one tick of the kernel's clock (1/CONFIG_HZ).
    """
    found = {}
    for words, reals in _servers(listing.decode("ascii")):
        key = _key(words, reals)
        found[key] = _listed(words, key.family, reals, tick)
    return found


def _servers(text: str) -> list[tuple[list[str], dict[Real, Counts]]]:
    """Split into virtual servers: the words of its line, and its real servers."""
    found = []
    reals: dict[Real, Counts] = {}
    known: dict[str, Counts] = {}  # most real servers have the same numbers
    for line in text.split("\n")[_TITLE_LINES:-1]:
        if line.startswith(_REAL):
            endpoint, _, rest = line[len(_REAL) :].partition(" ")
            counts = known.get(rest)
            if counts is None:
                counts = known[rest] = _counts(rest)
            reals[Real(*_endpoint(endpoint))] = counts
            continue
        words = line.split()
        reals = {}
        if words[0] in _TRANSPORT or words[0] == _MARK:
            found.append((words, reals))
    return found


def _counts(text: str) -> Counts:
    forwarding, weight, active, inactive = text.split()
    return Counts(int(weight), int(active), int(inactive), forwarding)


def _endpoint(text: str) -> tuple[str, int]:
    """Read ``0A000001:0050`` or ``[fd00:…:0001]:0050``."""
    address, port = text[:-5], int(text[-4:], 16)
    if address[0] == "[":
        return inet_ntop(AF_INET6, bytes.fromhex(address[1:-1].replace(":", ""))), port
    return inet_ntop(AF_INET, bytes.fromhex(address)), port


def _key(words: list[str], reals: Mapping[Real, Counts]) -> ServerKey:
    kind, endpoint = words[:2]
    if kind == _MARK:
        return ServerKey(_family(next((real.address for real in reals), "")), "", "tcp", 0, int(endpoint, 16))
    address, port = _endpoint(endpoint)
    return ServerKey(_family(address), address, _TRANSPORT[kind], port)


def _listed(words: list[str], family: Family, reals: dict[Real, Counts], tick: float) -> Listed:
    """Read the words behind the endpoint: ``rr``, ``rr ops``, ``rr persistent 75000 FFFFFFFF``."""
    scheduler = words[2]
    if "persistent" not in words:
        return Listed(scheduler, 0, None, reals)
    ticks, mask = words[-2:]
    return Listed(scheduler, round(int(ticks) * tick), _netmask(family, bytes.fromhex(mask)), reals)


def _netmask(family: Family, mask: bytes) -> int:
    """Read the bits of a netmask; IPv6 has their number, which the kernel prints as if it were in network order."""
    return int.from_bytes(mask, sys.byteorder) if family == IPV6 else int.from_bytes(mask).bit_count()


def _family(address: str) -> Family:
    return IPV6 if ":" in address else IPV4
