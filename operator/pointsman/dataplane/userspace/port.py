"""What the listening ports of both protocols have in common."""

from __future__ import annotations

import errno
import fcntl
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.userspace.loop import Loop
from pointsman.dataplane.userspace.room import Room
from pointsman.model.plan import IPV4, Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.dataplane.userspace.balancer import Balancer, Key
    from pointsman.model.plan import Family

OWN_PRIORITY: Final = 0x504D_0000
"""SO_PRIORITY of the proxy's own connections, by which the rules leave them alone: a backend may well be at an address
that is a frontend, too. Queueing disciplines look at the last four bits, or at a class of their own number."""

_FD_SETSIZE: Final = 1024
_IPV6_FREEBIND: Final = 78  # linux/in6.h
BACKLOG: Final = 4096
"""So many connections wait to be accepted, as far as the sysctl net.core.somaxconn lets them."""
_STREAM_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
)
"""A peer that vanished without a word is found after five minutes. What is accepted has its listener's options."""


class Wish(msgspec.Struct, frozen=True):
    """What a port is for.

    Attributes:
        backends: who answers; those of weight 0 get nothing new.
        affinity: seconds for which a client stays with its backend, or None.
    """

    backends: tuple[Backend, ...] = ()
    affinity: int | None = None


class Counted(msgspec.Struct):
    """What one backend of a port has got.

    Attributes:
        connections: since the port is open.
        active: now.
    """

    connections: int = 0
    active: int = 0


class Context(msgspec.Struct, frozen=True):
    """What all ports of a proxy share.

    Attributes:
        loop, room: of the proxy.
        buffer: what is read goes in here.
        priority: SO_PRIORITY of connections to backends; 0 leaves it alone.
    """

    loop: Loop
    room: Room
    buffer: memoryview
    priority: int = 0


class Statistics:
    """Counts connections by backend; those of backends that are gone are forgotten when their last one ends.

    Attributes:
        total: connections of clients, those for which no backend was found included.
    """

    __slots__ = ("_by_backend", "total")

    def __init__(self) -> None:
        self._by_backend: dict[Key, Counted] = {}
        self.total = 0

    def begun(self, backend: Backend) -> None:
        """Count a new connection to a backend."""
        counted = self._by_backend.setdefault((backend.address, backend.port), Counted())
        counted.connections += 1
        counted.active += 1

    def ended(self, backend: Backend) -> None:
        """Count one that has ended."""
        if counted := self._by_backend.get((backend.address, backend.port)):
            counted.active -= 1

    def keep(self, backends: Iterable[Backend]) -> None:
        """Forget what is neither one of these nor has connections."""
        keys = {(backend.address, backend.port) for backend in backends}
        self._by_backend = {key: c for key, c in self._by_backend.items() if c.active > 0 or key in keys}

    def snapshot(self) -> dict[Key, tuple[int, int]]:
        """Return connections so far, and now, by backend."""
        return {key: (counted.connections, counted.active) for key, counted in self._by_backend.items()}


def bound_socket(family: Family, kind: int, address: str, ports: Iterable[int]) -> socket.socket:
    """Open a socket that clients come to.

    Args:
        family: address family.
        kind: SOCK_STREAM (it listens) or SOCK_DGRAM.
        address: where; it need not be on a device, but the kernel has to take it for its own.
        ports: those to try, in order; 0 stands for any.

    Raises:
        OSError: all are taken, or there is no file or address for it.
    """
    sock = aside(socket.socket(socket.AF_INET if family == IPV4 else socket.AF_INET6, kind | socket.SOCK_NONBLOCK))
    try:
        if kind == socket.SOCK_STREAM:
            # Connections of a former agent may still be in TIME_WAIT at this port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _set_options(sock)
        if family != IPV4:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        _bind(sock, address, list(ports))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def backend_socket(context: Context, family: Family, kind: int) -> socket.socket:
    """Open a socket for a connection to a backend.

    Raises:
        OSError: there is no file for it.
    """
    sock = aside(socket.socket(socket.AF_INET if family == IPV4 else socket.AF_INET6, kind | socket.SOCK_NONBLOCK))
    if kind == socket.SOCK_STREAM:
        _set_options(sock)
    if context.priority:
        with suppress(PermissionError):  # nobody translates what it opens, where it may not write rules
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, context.priority)
    return sock


def aside(sock: socket.socket) -> socket.socket:
    """Give a socket a file number above those that programs need that wait by select(2), as libnftables does.

    glibc ends the whole process when such a program gets a number above 1023.
    """
    try:
        number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _FD_SETSIZE)
    except OSError:
        return sock  # the limit of open files is lower than that, or there are no more
    moved = socket.socket(sock.family, sock.type, sock.proto, fileno=number)
    sock.close()
    return moved


def update(balancer: Balancer, statistics: Statistics, wish: Wish) -> None:
    """Give a port's balancer other backends."""
    balancer.update(wish.backends, wish.affinity)
    statistics.keep(wish.backends)


def _set_options(sock: socket.socket) -> None:
    for option in _STREAM_OPTIONS:
        sock.setsockopt(*option)


def _bind(sock: socket.socket, address: str, ports: list[int]) -> None:
    for port in ports[:-1]:
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
        else:
            return
    sock.bind((address, ports[-1]))
