"""One connection, and what became of it: answered, refused, dropped or broken."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import sctp
from pointsman.lab.network import family_of
from pointsman.lab.servers import Address, Greeting, without_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.network import Host
    from pointsman.model.plan import Transport

TIMEOUT: Final = 2.9
"""Seconds until a TCP connection that nobody takes counts as dropped.

Between TCP's first retransmission (after 1 s) and its second (after 3 s). The first one is waited for because between
namespaces of one machine an ICMP error is back before connect(2) lets go of the socket, and the kernel then ignores it
(netstat calls it LockDroppedIcmps). The error that answers the second SYN is heard. A reset, as of ``reject with tcp
reset``, is heard at once.
"""
PATIENCE: Final = 10.0
"""Seconds until a program counts as silent: its answer may have to wait for a processor, other than the kernel's."""

_REFUSALS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EACCES: "administratively prohibited",
    errno.EPROTO: "protocol error",
    errno.ENOPROTOOPT: "protocol unreachable",
}
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_IP_RECVERR: Final = 11  # linux/in.h; ICMP errors of any kind become errors of the socket
_IPV6_RECVERR: Final = 25  # linux/in6.h
_BUFFER: Final = 65536


class Answered(Greeting, frozen=True, tag=True):
    """A server answered; see `Greeting`."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The connection was refused at once: a TCP reset, or an ICMP error."""

    how: str


class TimedOut(msgspec.Struct, frozen=True, tag=True):
    """Nobody answered: dropped."""


class Broken(msgspec.Struct, frozen=True, tag=True):
    """The connection came about, and was lost before the server's answer."""

    how: str


Outcome = Answered | Refused | TimedOut | Broken


def connect(
    origin: Host,
    address: str,
    port: int,
    protocol: Transport = "tcp",
    *,
    timeout: float | None = None,
    source: str = "",
    source_port: int = 0,
) -> Outcome:
    """Connect once, ask who answers, and close.

    Args:
        origin: the host to connect from.
        address: IP address to connect to.
        port: 1..65535.
        protocol: tcp, udp or sctp.
        timeout: seconds until a silent connection counts as dropped; None for `TIMEOUT` until TCP is connected, and
            `PATIENCE` for an answer.
        source: which of the origin's addresses to come from; "" leaves it to the kernel.
        source_port: fixed source port; 0 means any.
    """
    ask = {"tcp": _ask_tcp, "udp": _ask_udp, "sctp": _ask_sctp}[protocol]
    with open_socket(origin, address, protocol, source=source, source_port=source_port) as sock:
        sock.settimeout(timeout or (TIMEOUT if protocol == "tcp" else PATIENCE))
        try:
            return ask(sock, (address, port), source_port, timeout or PATIENCE)
        except OSError as error:
            return _outcome(error)


def open_socket(
    origin: Host, address: str, protocol: Transport = "tcp", *, source: str = "", source_port: int = 0
) -> socket.socket:
    """Make a client's socket on a host, of the family of `address`, bound as asked, not yet connected."""
    family = socket.AF_INET6 if family_of(address) == 6 else socket.AF_INET  # noqa: PLR2004 - IP version 6
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "sctp": socket.SOCK_RAW}[protocol]
    sock = origin.namespace.socket(family, kind, sctp.PROTOCOL if protocol == "sctp" else 0)
    try:
        if protocol == "tcp":
            # Closing by a reset leaves no TIME_WAIT behind, so that thousands of connections find a free port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        elif family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        if source or source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            blank = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - a client's source, not a listener
            sock.bind((source or blank, 0 if protocol == "sctp" else source_port))
    except OSError:
        sock.close()
        raise
    return sock


def fetch(origin: Host, address: str, port: int, path: str = "/", *, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Get a page over HTTP from a host.

    Returns:
        Status and body.

    Raises:
        OSError: it did not answer.
    """
    with open_socket(origin, address) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        host = f"[{address}]" if ":" in address else address
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(_chunks(sock))
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2:  # noqa: PLR2004 - version and status
        raise ConnectionError(f"{host}:{port} answered with something that is not HTTP")
    return int(words[1]), body


def _chunks(sock: socket.socket) -> Iterator[bytes]:
    while chunk := sock.recv(_BUFFER):
        yield chunk


def _ask_tcp(sock: socket.socket, to: Address, _source_port: int, patience: float) -> Outcome:
    sock.connect(to)
    try:
        greeting = greet(sock, patience)
    except OSError as error:
        return Broken(error.strerror or str(error))
    return Answered(greeting.server, greeting.at, greeting.seen)


def greet(sock: socket.socket, patience: float = PATIENCE) -> Greeting:
    """Ask a server over a connected TCP socket who it is, and wait so many seconds for the answer.

    Raises:
        OSError: it did not answer.
    """
    sock.settimeout(patience)
    sock.sendall(b"?\n")
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(_BUFFER)
        if not chunk:
            raise ConnectionResetError(errno.ECONNRESET, "closed before the answer")
        data += chunk
    return msgspec.json.decode(data, type=Greeting)


def _ask_udp(sock: socket.socket, to: Address, _source_port: int, _patience: float) -> Outcome:
    sock.connect(to)
    _send(sock, b"?\n")
    return msgspec.convert(msgspec.json.decode(sock.recv(_BUFFER)) | {"type": "Answered"}, Answered)


def _send(sock: socket.socket, data: bytes) -> None:
    """Send one packet.

    A packet that a filter rejects on its way out of this very host fails with EPERM, as one that is dropped does;
    which of the two it was is told by the ICMP error that follows, or does not.
    """
    with contextlib.suppress(PermissionError):
        sock.send(data)


def _ask_sctp(sock: socket.socket, to: Address, source_port: int, patience: float) -> Outcome:
    sock.connect((to[0], 0))
    tag = random.getrandbits(32) | 1
    source_port = source_port or random.randrange(32768, 61000)  # noqa: S311 - any free port
    _send(sock, sctp.encode(sctp.Packet(source_port, to[1], tag)))
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        packet = sctp.decode(without_header(sock.recv(_BUFFER), sock))
        if packet and packet.answers == tag:
            greeting = msgspec.json.decode(packet.cookie, type=Greeting)
            return Answered(greeting.server, greeting.at, greeting.seen)
    return TimedOut()


def _outcome(error: OSError) -> Outcome:
    """Say what an error of a client's socket means.

    Raises:
        OSError: it means that the lab itself is at fault (no such source address, no more ports).
    """
    if isinstance(error, TimeoutError):
        return TimedOut()
    if error.errno in _REFUSALS:
        return Refused(_REFUSALS[error.errno])
    if isinstance(error, ConnectionResetError):
        return Refused("connection reset")
    raise OSError(error.errno, f"the lab cannot connect: {os.strerror(error.errno or 0)}") from error
