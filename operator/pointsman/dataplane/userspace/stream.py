"""TCP: a listening port, and its connections from client to backend."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.userspace import port as ports
from pointsman.dataplane.userspace.balancer import Balancer
from pointsman.dataplane.userspace.loop import FAILED, HUNG_UP, READ, WRITE
from pointsman.dataplane.userspace.room import NO_ROOM, PAIR

if TYPE_CHECKING:
    from pointsman.dataplane.userspace.balancer import Attempts
    from pointsman.dataplane.userspace.loop import Timer
    from pointsman.dataplane.userspace.port import Context, Wish
    from pointsman.model.plan import Backend, Family

_LOG: Final = logging.getLogger(__name__)

_AT_ONCE: Final = 64
"""So many connections are accepted before others have their turn."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class StreamPort:
    """A listening TCP port; what is accepted is passed to a backend.

    Args:
        context: of the proxy.
        family: address family.
        listener: the socket.
        wish: who answers.
    """

    def __init__(self, context: Context, family: Family, listener: socket.socket, wish: Wish) -> None:
        self.context = context
        self.family: Family = family
        self.balancer = Balancer(wish.backends, wish.affinity)
        self.statistics = ports.Statistics()
        self.connections: set[Connection] = set()
        self._listener: socket.socket | None = listener
        self._spare: socket.socket | None = None
        context.room.take(1)
        context.loop.watch(listener.fileno(), READ, self)

    def __len__(self) -> int:
        """How many connections it has."""
        return len(self.connections)

    def update(self, wish: Wish) -> None:
        """Have others answer new connections."""
        ports.update(self.balancer, self.statistics, wish)

    def ready(self, events: int) -> None:
        """Accept."""
        del events
        if self._listener is None:
            return
        for number in range(_AT_ONCE):
            # Somebody waits when this is called; behind the first nobody knows, and so nobody complains.
            if (number and not self.context.room.has(PAIR)) or not self._accept(self._listener):
                return

    def drain(self) -> None:
        """Accept all that the kernel has let in."""
        for _ in range(2 * ports.BACKLOG):
            if self._listener is None or not self._accept(self._listener):
                return

    def stop_listening(self) -> None:
        """Close the port; connections go on."""
        for sock in filter(None, (self._listener, self._spare)):
            self.context.loop.close_socket(sock)
        if self._listener is not None:
            self.context.room.give(1)
        self._listener = self._spare = None

    def abort(self) -> None:
        """Close the port and end its connections."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.abort()

    def _accept(self, listener: socket.socket) -> bool:
        """Accept one connection, once there is a socket for its backend, too."""
        context = self.context
        if not context.room.has(PAIR):
            self._pause(None)
            return False
        try:
            if self._spare is None:
                self._spare = ports.backend_socket(context, self.family, socket.SOCK_STREAM)
            accepted, peer = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_ROOM:
                return True  # that client is gone again, accept(2)
            self._pause(error)
            return False
        client, spare, self._spare = ports.aside(accepted), self._spare, None
        self.connections.add(connection := Connection(self, client, peer[0], spare))
        self.statistics.total += 1
        try:
            connection.begin()
        except Exception:  # noqa: BLE001 - whatever it is, the others go on
            _LOG.exception("a connection is ended, as its proxy failed")
            connection.abort()
        return True

    def _pause(self, error: OSError | None) -> None:
        listener = self._listener
        if listener is not None:
            self.context.loop.change(listener.fileno(), 0)
            self.context.room.wait(self._resume, error)

    def _resume(self) -> None:
        if self._listener is not None:
            self.context.loop.change(self._listener.fileno(), READ)


class Connection:
    """A client's connection, and the one to its backend."""

    __slots__ = (
        "_attempts", "_backend", "_client_address", "_counted", "_port", "_spare", "_timer", "buffer", "client", "ends",
        "loop", "server",
    )  # fmt: skip

    def __init__(self, port: StreamPort, client: socket.socket, client_address: str, spare: socket.socket) -> None:
        self._port = port
        self.loop, self.buffer = port.context.loop, port.context.buffer
        self._client_address = client_address
        self._spare: socket.socket | None = spare
        self._attempts: Attempts | None = None
        self._backend: Backend | None = None
        self._counted = False
        self._timer: Timer | None = None
        self.client = client
        self.server: socket.socket | None = None
        self.ends: tuple[_End, _End] | None = None
        port.context.room.take(PAIR)

    def begin(self) -> None:
        """Connect to the first backend that answers."""
        self.client.settimeout(0)
        self._attempts = self._port.balancer.attempts(self._client_address, self.loop.now)
        self._try_next()

    def ready(self, events: int) -> None:
        """Hear what became of the attempt to connect."""
        if self.server is None or not events & (WRITE | FAILED | HUNG_UP):
            return
        if self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._drop_server()
            self._try_next()
        else:
            self._connected(self.server)

    def finish_if_done(self) -> None:
        """Close both when both have said all."""
        if self.ends is not None and self.ends[0].ended and self.ends[1].ended:
            self._close()

    def abort(self) -> None:
        """End both connections by a reset."""
        for sock in (self.client, self.server):
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    def _try_next(self) -> None:
        loop = self.loop
        while self._attempts is not None and (attempt := self._attempts.next()) is not None:
            backend, seconds = attempt
            try:
                server = self._spare or ports.backend_socket(
                    self._port.context, self._port.family, socket.SOCK_STREAM
                )  # fmt: skip
            except OSError:
                break  # no file for another try
            self._spare = None
            if server.connect_ex((backend.address, backend.port)) not in {0, errno.EINPROGRESS}:
                loop.close_socket(server)
                continue
            self._backend, self.server = backend, server
            self._timer = loop.later(seconds, self._timed_out)
            loop.watch(server.fileno(), WRITE, self)
            return
        self.abort()

    def _timed_out(self) -> None:
        if self._attempts is not None:
            self._attempts.timed_out()
        self._drop_server()
        self._try_next()

    def _drop_server(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.server is not None:
            self.loop.close_socket(self.server)
            self.server = None

    def _connected(self, server: socket.socket) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._attempts = None
        loop, backend = self.loop, self._backend
        if backend is not None:
            self._port.balancer.connected(self._client_address, backend, loop.now)
            self._port.statistics.begun(backend)
            self._counted = True
        here, there = _End(self, self.client), _End(self, server)
        here.other, there.other = there, here
        self.ends = here, there
        loop.hand_over(server.fileno(), READ, there)
        loop.watch(self.client.fileno(), READ, here)

    def _close(self) -> None:
        port = self._port
        if self not in port.connections:
            return
        port.connections.discard(self)
        self._drop_server()
        for sock in filter(None, (self.client, self._spare)):
            port.context.loop.close_socket(sock)
        if self._counted and self._backend is not None:
            port.statistics.ended(self._backend)
        if self.ends is not None:
            self.ends[0].other = self.ends[1].other = None
        port.context.room.give(PAIR)


class _End:
    """One of a connection's two sockets: what is read from it is written to the other one.

    Whatever the other one does not take at once is kept, and nothing more is read meanwhile.
    """

    __slots__ = ("_connection", "_events", "_is_parked", "_sock", "ended", "other", "unsent")

    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self._connection = connection
        self._sock = sock
        self._events = READ
        self.unsent: memoryview | None = None
        self._is_parked = False
        self.ended = False
        self.other: _End | None = None

    def ready(self, events: int) -> None:
        """Pass on what there is."""
        other = self.other
        if other is None:
            return
        try:
            if events & FAILED:
                self._connection.abort()
            elif events & READ:
                if not self.ended and other.unsent is None:
                    self._pass_on(other)
            elif events & HUNG_UP:
                # The other one does not take what this one has said before it went; it is told so again and again.
                self._is_parked = True
                self._connection.loop.park(self._sock.fileno())
            elif self.unsent is not None:
                self._send_rest(other)
        except BlockingIOError:
            return
        except OSError:
            self._connection.abort()

    def abort(self) -> None:
        """End the connection."""
        self._connection.abort()

    def _pass_on(self, other: _End) -> None:
        buffer = self._connection.buffer
        count = self._sock.recv_into(buffer)
        if not count:
            self.ended = True
            self._wait_for(self._events & ~READ)
            other._sock.shutdown(socket.SHUT_WR)
            self._connection.finish_if_done()
            return
        sent = other._send(buffer[:count])
        if sent < count:
            other.unsent = memoryview(bytes(buffer[sent:count]))
            other._wait_for(other._events | WRITE)
            self._wait_for(self._events & ~READ)

    def _send_rest(self, other: _End) -> None:
        unsent = self.unsent
        if unsent is None:
            return
        left = unsent[self._send(unsent) :]
        self.unsent = left if len(left) else None
        if self.unsent is None:
            self._wait_for(self._events & ~WRITE)
            other._wait_for(other._events | READ)

    def _send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def _wait_for(self, events: int) -> None:
        if events == self._events:
            return
        self._events = events
        loop, descriptor = self._connection.loop, self._sock.fileno()
        if self._is_parked:
            self._is_parked = False
            loop.watch(descriptor, events, self)
        else:
            loop.change(descriptor, events)
