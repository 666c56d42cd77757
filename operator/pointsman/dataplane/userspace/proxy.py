"""The proxy: its ports, in a thread of its own. Everything here may be called from another thread."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.userspace.balancer import Key
from pointsman.dataplane.userspace.datagram import DatagramPort
from pointsman.dataplane.userspace.loop import Loop
from pointsman.dataplane.userspace.port import Context, bound_socket
from pointsman.dataplane.userspace.room import NO_ROOM, REMEDY, Room, raise_limit
from pointsman.dataplane.userspace.stream import StreamPort
from pointsman.model.plan import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pointsman.dataplane.userspace.port import Wish

_BUFFER: Final = 1 << 18
"""Octets that one read takes. One buffer serves all connections; what cannot be written at once is copied out of it."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """What a port is opened for.

    Attributes:
        frontend: whose connections come there.
        inside: only those of pods and of the node itself; the frontend has another target for all others.
    """

    frontend: Frontend
    inside: bool = False


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a port shall be.

    Attributes:
        address: to listen at.
        ports: those to try, in order; 0 stands for any.
    """

    address: str
    ports: tuple[int, ...] = (0,)


_ANYWHERE: Final = Place("")


class Opened(msgspec.Struct, frozen=True):
    """What became of a change.

    Attributes:
        ports: where each target is now.
        refused: why a target has none, with the remedy.
    """

    ports: Mapping[Target, int]
    refused: Mapping[Target, str]


class Tally(msgspec.Struct, frozen=True):
    """What one target has got: connections so far, refused ones included, and by backend so far and now."""

    total: int
    backends: Mapping[Key, tuple[int, int]]


class Proxy:
    """Listens for connections and datagrams, and passes them to backends.

    It begins, with its first port, as a thread in the network namespace of the thread that opens that.

    Args:
        name: of the thread.
        priority: SO_PRIORITY of connections to backends; 0 leaves it alone.
        clock: monotonic seconds.
        limit: files that this process may have open; None raises that to what the system allows.
    """

    def __init__(
        self,
        name: str = "proxy",
        *,
        priority: int = 0,
        clock: Callable[[], float] = time.monotonic,
        limit: int | None = None,
    ) -> None:
        self._name = name
        self._priority = priority
        self._clock = clock
        self._limit = limit
        self._loop: Loop | None = None
        self._context: Context | None = None
        self._ports: dict[Target, tuple[str, int, StreamPort | DatagramPort]] = {}
        self._ending: list[StreamPort] = []

    @property
    def problem(self) -> str:
        """Why new connections wait, with the remedy; "" when they don't."""
        return self._context.room.problem if self._context else ""

    def endpoints(self) -> dict[Target, Key]:
        """Return address and port of each target."""
        return {target: (address, number) for target, (address, number, _) in tuple(self._ports.items())}

    def carried(self) -> int:
        """Return how many connections and clients (of UDP) there are."""
        ports = [port for _, _, port in tuple(self._ports.values())]
        return sum(map(len, (*ports, *tuple(self._ending))))

    def change(
        self, wishes: Mapping[Target, Wish], places: Mapping[Target, Place], idle_timeout: float
    ) -> Opened:  # fmt: skip
        """Open ports, or give those that are open other backends.

        Args:
            wishes: what is wanted.
            places: where a port shall be that is not open yet.
            idle_timeout: seconds after which a UDP client is forgotten.
        """
        if not wishes:
            return Opened({}, {})
        loop, context = self._start()
        return loop.call(lambda: self._change(context, wishes, places, idle_timeout))

    def close_ports(self, targets: Collection[Target]) -> None:
        """Close ports. Connections go on; clients of UDP are forgotten."""
        if self._loop is not None and targets:
            self._loop.call(lambda: self._close_ports(targets))

    def targets(self) -> frozenset[Target]:
        """Return what there are ports for."""
        return frozenset(tuple(self._ports))

    def accept_all(self) -> None:
        """Accept every connection that the kernel has let in, and read every datagram."""
        if self._loop is not None:
            self._loop.call(lambda: [port.drain() for _, _, port in self._ports.values()])

    def set_idle_timeout(self, seconds: float) -> None:
        """Forget clients of UDP after another time; it holds from their next datagram on."""
        for _, _, port in tuple(self._ports.values()):
            if isinstance(port, DatagramPort):
                port.idle_timeout = seconds

    def tallies(self) -> Mapping[Target, Tally]:
        """Return what each target has got."""
        return self._loop.call(self._tallies) if self._loop is not None else {}

    def stop(self) -> None:
        """Close all ports and end all connections; it can begin anew."""
        if self._loop is None:
            return
        self._loop.call(self._end_all)
        self._loop.stop()
        self._loop = self._context = None

    def _start(self) -> tuple[Loop, Context]:
        if self._loop is None or self._context is None:
            limit = raise_limit() if self._limit is None else self._limit
            self._loop = Loop(self._clock)
            room = Room(self._loop, limit)
            self._context = Context(self._loop, room, memoryview(bytearray(_BUFFER)), self._priority)
            self._loop.start(self._name)
        return self._loop, self._context

    def _change(
        self, context: Context, wishes: Mapping[Target, Wish], places: Mapping[Target, Place], idle_timeout: float
    ) -> Opened:
        ports: dict[Target, int] = {}
        refused: dict[Target, str] = {}
        # Who comes back to a port goes before who takes any: that may be the same one.
        for target, wish in sorted(wishes.items(), key=lambda each: not any(places.get(each[0], _ANYWHERE).ports)):
            if target in self._ports:
                self._ports[target][2].update(wish)
            else:
                try:
                    self._open(context, target, wish, places[target], idle_timeout)
                except OSError as error:
                    refused[target] = _why_not(target, places[target], error)
                    continue
            ports[target] = self._ports[target][1]
        self._ending = [port for port in self._ending if len(port)]
        return Opened(ports, refused)

    def _open(self, context: Context, target: Target, wish: Wish, place: Place, idle_timeout: float) -> None:
        frontend = target.frontend
        if not context.room.has(1):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        kind = socket.SOCK_STREAM if frontend.protocol == "tcp" else socket.SOCK_DGRAM
        sock = bound_socket(frontend.family, kind, place.address, place.ports)
        port: StreamPort | DatagramPort
        if kind == socket.SOCK_STREAM:
            port = StreamPort(context, frontend.family, sock, wish)
        else:
            port = DatagramPort(context, frontend.family, sock, wish, idle_timeout)
        self._ports[target] = place.address, sock.getsockname()[1], port

    def _close_ports(self, targets: Collection[Target]) -> None:
        for target in targets:
            if found := self._ports.pop(target, None):
                port = found[2]
                port.drain()
                port.stop_listening()
                if isinstance(port, StreamPort) and len(port):
                    self._ending.append(port)

    def _tallies(self) -> Mapping[Target, Tally]:
        return {
            target: Tally(port.statistics.total, port.statistics.snapshot())
            for target, (_, _, port) in self._ports.items()
        }

    def _end_all(self) -> None:
        for port in (*(port for _, _, port in self._ports.values()), *self._ending):
            port.abort()
        self._ports.clear()
        self._ending.clear()


def _why_not(target: Target, place: Place, error: OSError) -> str:
    where = f"{target.frontend.protocol} port {place.ports[-1] or 'any'} at {place.address}"
    if error.errno in NO_ROOM:
        remedy = REMEDY
    elif place.ports[-1]:
        remedy = "another program has it; end that, or give the Service another node port"
    else:
        remedy = "see the sysctl net.ipv4.ip_local_port_range for how many there are"
    return f"the proxy can't listen at {where}: {error.strerror}; {remedy}"
