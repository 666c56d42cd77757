"""IPVS's own table of connections, of one client and one destination.

Format: ``ip_vs_conn_seq_show`` in the kernel's ``net/netfilter/ipvs/ip_vs_conn.c``.
"""

from __future__ import annotations

from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pointsman.model.plan import Transport

PATH: Final = Path("/proc/thread-self/net/ip_vs_conn")
_TITLE_LINES: Final = 1
_WORDS: Final = 9
"""Protocol, client, its port, virtual address, its port, real server, its port, state, seconds."""


class IpvsConnection(msgspec.Struct, frozen=True, rename="camel"):
    """One connection.

    Attributes:
        client_port: from which the client sent; 0 for the template by which persistence keeps a client at its server.
        answering: the real server.
        state: as IPVS calls it.
        seconds: after which it is forgotten, if no packet comes.
    """

    client_port: int
    answering: tuple[str, int]
    state: str
    seconds: int


def read_connections(
    source: str, destination: str, port: int, protocol: Transport, path: Path = PATH
) -> list[IpvsConnection]:
    """Read the connections from one client to one destination; none where IPVS is not loaded.

    Args:
        source: canonical address of the client.
        destination: canonical address to which it connects.
        port: likewise.
        protocol: of the connections.
        path: the listing.

    Raises:
        PermissionError: this needs root.
    """
    try:
        listing = path.read_text("ascii")
    except FileNotFoundError:
        return []
    return parse(listing, source, destination, port, protocol)


def parse(listing: str, source: str, destination: str, port: int, protocol: Transport) -> list[IpvsConnection]:
    """Choose from a listing; see `read_connections`."""
    found = []
    for line in listing.splitlines()[_TITLE_LINES:]:
        words = line.split()
        if len(words) < _WORDS or words[0] != protocol.upper():
            continue
        client, virtual, real = (_address(words[at]) for at in (1, 3, 5))
        client_port, virtual_port, real_port = (int(words[at], 16) for at in (2, 4, 6))
        if (client, virtual, virtual_port) == (source, destination, port):
            found.append(IpvsConnection(client_port, (real, real_port), words[7], int(words[8])))
    return sorted(found, key=lambda each: each.client_port)


def _address(text: str) -> str:
    """Read ``C0A80001`` or ``fd00:0000:…:0001``, in brackets or not."""
    bare = text.strip("[]").replace(":", "")
    return inet_ntop(AF_INET6 if ":" in text else AF_INET, bytes.fromhex(bare))
