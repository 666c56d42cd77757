"""UDP: a port, and a socket for each of its clients."""

from __future__ import annotations

import contextlib
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.userspace import port as ports
from pointsman.dataplane.userspace.balancer import Balancer
from pointsman.dataplane.userspace.loop import READ
from pointsman.dataplane.userspace.room import NO_ROOM

if TYPE_CHECKING:
    from pointsman.dataplane.userspace.balancer import Attempts
    from pointsman.dataplane.userspace.loop import Timer
    from pointsman.dataplane.userspace.port import Context, Wish
    from pointsman.model.plan import Backend, Family

_AT_ONCE: Final = 64
"""So many datagrams are passed on before others have their turn."""

_Client = tuple[str, int]


class DatagramPort:
    """A UDP port. Each client has a socket of its own towards its backend, until it is idle.

    Args:
        context: of the proxy.
        family: address family.
        sock: where clients send to; answers come from here.
        wish: who answers.
        idle_timeout: seconds after which a client is forgotten that neither sends nor gets anything.
    """

    def __init__(
        self, context: Context, family: Family, sock: socket.socket, wish: Wish, idle_timeout: float
    ) -> None:  # fmt: skip
        self.context = context
        self.family: Family = family
        self.sock = sock
        self.balancer = Balancer(wish.backends, wish.affinity)
        self.statistics = ports.Statistics()
        self.idle_timeout = idle_timeout
        self._flows: OrderedDict[_Client, Flow] = OrderedDict()
        self._timer: Timer | None = None
        self._open = True
        context.room.take(1)
        context.loop.watch(sock.fileno(), READ, self)

    def __len__(self) -> int:
        """How many clients it has."""
        return len(self._flows)

    def update(self, wish: Wish) -> None:
        """Have others answer new clients; those of a backend that is gone begin anew."""
        ports.update(self.balancer, self.statistics, wish)
        there = {(backend.address, backend.port) for backend in wish.backends}
        for flow in list(self._flows.values()):
            if flow.backend is None or (flow.backend.address, flow.backend.port) not in there:
                self.forget(flow)

    def ready(self, events: int) -> None:
        """Pass on what clients have sent."""
        del events
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                count, (address, port, *_rest) = self.sock.recvfrom_into(self.context.buffer)
            except OSError:
                return  # none is left, or an answer of ours was refused
            self._receive((address, port), self.context.buffer[:count])

    def drain(self) -> None:
        """Pass on what is there."""
        self.ready(READ)

    def stop_listening(self) -> None:
        """Close the port, and with it the way of all answers."""
        self.abort()

    def abort(self) -> None:
        """Close everything."""
        if not self._open:
            return
        self._open = False
        for flow in list(self._flows.values()):
            self.forget(flow)
        self.context.loop.close_socket(self.sock)
        self.context.room.give(1)

    def forget(self, flow: Flow) -> None:
        """Close a client's socket."""
        if self._flows.get(flow.client) is flow:
            del self._flows[flow.client]
            flow.close()
            self.context.room.give(1)

    def touch(self, flow: Flow) -> None:
        """Remember that a client is not idle."""
        flow.last = self.context.loop.now
        self._flows.move_to_end(flow.client)

    def answer(self, client: _Client, data: memoryview) -> None:
        """Send a client its answer."""
        with contextlib.suppress(OSError):  # lost, as datagrams may be
            self.sock.sendto(data, client)

    def _receive(self, client: _Client, data: memoryview) -> None:
        flow = self._flows.get(client) or self._begin(client)
        if flow is not None:
            self.touch(flow)
            flow.send(data)

    def _begin(self, client: _Client) -> Flow | None:
        room = self.context.room
        if not room.has(1):
            room.wait(_nothing)
            return None
        try:
            sock = ports.backend_socket(self.context, self.family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno in NO_ROOM:
                room.wait(_nothing, error)
            return None
        room.take(1)
        self.statistics.total += 1
        flow = self._flows[client] = Flow(self, client, sock)
        flow.begin(self.balancer.attempts(client[0], self.context.loop.now))
        if self._timer is None:
            self._set_timer(self.idle_timeout)
        return self._flows.get(client)

    def _set_timer(self, seconds: float) -> None:
        self._timer = self.context.loop.later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        while self._flows:
            oldest = next(iter(self._flows.values()))
            left = oldest.last + self.idle_timeout - self.context.loop.now
            if left > 0:
                self._set_timer(left)
                return
            self.forget(oldest)


class Flow:
    """One client of a UDP port."""

    __slots__ = ("_attempts", "_port", "_sock", "_unanswered", "backend", "client", "last")

    def __init__(self, port: DatagramPort, client: _Client, sock: socket.socket) -> None:
        self._port = port
        self._sock = sock
        self._attempts: Attempts | None = None
        self._unanswered = b""
        self.client = client
        self.backend: Backend | None = None
        self.last = port.context.loop.now

    def begin(self, attempts: Attempts) -> None:
        """Choose a backend."""
        self._attempts = attempts
        if self._choose():
            self._port.context.loop.watch(self._sock.fileno(), READ, self)

    def send(self, data: memoryview) -> None:
        """Pass a client's datagram on. Until there is an answer the last one is kept, for the next backend."""
        if self._attempts is not None:
            self._unanswered = bytes(data)
        try:
            self._sock.send(data)
        except BlockingIOError:
            return  # lost, as datagrams may be
        except OSError:
            self._refused()

    def ready(self, events: int) -> None:
        """Pass answers on; a refusal (ICMP) leads to the next backend."""
        del events
        port, buffer = self._port, self._port.context.buffer
        for _ in range(_AT_ONCE):
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError:
                self._refused()
                return
            self._answered()
            port.touch(self)
            port.answer(self.client, buffer[:count])

    def abort(self) -> None:
        """Close it."""
        self._port.forget(self)

    def close(self) -> None:
        """Close the socket; the port has forgotten it."""
        self._end_backend()
        self._port.context.loop.close_socket(self._sock)

    def _answered(self) -> None:
        self._attempts, self._unanswered = None, b""

    def _refused(self) -> None:
        if self._attempts is None:
            # The backend that has answered so far is gone: the client's next datagram finds another one.
            self._port.forget(self)
        elif self._choose() and self._unanswered:
            self.send(memoryview(self._unanswered))

    def _choose(self) -> bool:
        """Turn to the next backend; without one the client is forgotten."""
        self._end_backend()
        while self._attempts is not None and (attempt := self._attempts.next()) is not None:
            backend, _ = attempt
            try:
                self._sock.connect((backend.address, backend.port))
            except OSError:
                continue
            self.backend = backend
            self._port.statistics.begun(backend)
            self._port.balancer.connected(self.client[0], backend, self._port.context.loop.now)
            return True
        self._port.forget(self)
        return False

    def _end_backend(self) -> None:
        if self.backend is not None:
            self._port.statistics.ended(self.backend)
            self.backend = None


def _nothing() -> None:
    """Datagrams that came while there was no room are lost, as datagrams may be."""
