"""Servers that say who they are and whom they see: TCP, UDP and SCTP, any number of them in one thread.

A server answers each line (TCP) or datagram (UDP) with one line of JSON, an HTTP GET with the same as a page (so that
curl is a client too), and an SCTP INIT with an INIT ACK that carries it.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import sctp
from pointsman.lab.network import Host, family_of
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

Address = tuple[str, int]
"""IP address and port."""

_BUFFER: Final = 65536
_BACKLOG: Final = 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Greeting(msgspec.Struct, frozen=True):
    """What a server answers.

    Attributes:
        server: its name.
        at: where it was reached, after all translation.
        seen: whom it sees: the client's address and port, after all translation.
    """

    server: str
    at: Address
    seen: Address


class Server(msgspec.Struct, frozen=True):
    """One listening server."""

    name: str
    protocol: Transport
    address: str
    port: int
    host: Host


class Servers:
    """Runs servers in a thread of its own; a context manager that ends them all."""

    def __init__(self) -> None:
        raise_file_limit()
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._running: dict[Server, socket.socket] = {}
        self._connections: dict[socket.socket, Server] = {}
        self._bell, bell_end = socket.socketpair()
        self._selector.register(bell_end, selectors.EVENT_READ, partial(bell_end.recv, 1))
        self._bell_end = bell_end
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="lab servers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, host: Host, port: int, protocol: Transport = "tcp", *, address: str = "", name: str = "") -> Server:
        """Start a server on a host.

        Args:
            host: where it lives.
            port: where it listens; for SCTP, all INITs to this port are answered.
            protocol: tcp, udp or sctp.
            address: one of the host's addresses; "" means the first one.
            name: what it calls itself; "" means the host's name.

        Raises:
            OSError: the address is not the host's, or the port is taken.
        """
        server = Server(name or host.name, protocol, address or host.addresses[0], port, host)
        listener = _listen(server)
        on_event = {"tcp": self._accept, "udp": _answer_datagram, "sctp": _answer_init}[protocol]
        with self._lock:
            self._running[server] = listener
            self._selector.register(listener, selectors.EVENT_READ, partial(on_event, server, listener))
        return server

    def start_everywhere(self, host: Host, port: int, protocol: Transport = "tcp") -> list[Server]:
        """Start a server at each address of a host."""
        return [self.start(host, port, protocol, address=address) for address in host.addresses]

    def stop(self, server: Server) -> None:
        """End a server and its connections, as when its process is killed."""
        with self._lock:
            self._drop(self._running.pop(server))
            for connection in [c for c, owner in self._connections.items() if owner == server]:
                self._drop(connection)

    def running(self) -> Iterator[Server]:
        """Yield the servers that listen."""
        return iter(tuple(self._running))

    def close(self) -> None:
        """End all servers and the thread; safe to call twice."""
        if self._stopping:
            return
        self._stopping = True
        self._bell.send(b"!")
        self._thread.join()
        for sock in (*self._running.values(), *self._connections, self._bell, self._bell_end):
            sock.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select():
                with self._lock, contextlib.suppress(OSError, ValueError):
                    # What was ready may have been ended meanwhile; its socket is closed then (fileno -1).
                    if key.fd == -1 or key.fileobj.fileno() == -1:  # type: ignore[union-attr]  # always a socket
                        continue
                    handler: Callable[[], object] = key.data
                    handler()

    def _accept(self, server: Server, listener: socket.socket) -> None:
        connection, peer = listener.accept()
        connection.settimeout(0)
        self._connections[connection] = server
        answer = partial(self._answer_line, server, connection, (str(peer[0]), int(peer[1])))
        self._selector.register(connection, selectors.EVENT_READ, answer)

    def _answer_line(self, server: Server, connection: socket.socket, peer: Address) -> None:
        try:
            data = connection.recv(_BUFFER)
        except ConnectionError:
            data = b""
        if not data:
            self._drop(connection)
            return
        at = connection.getsockname()
        line = msgspec.json.encode(Greeting(server.name, (at[0], at[1]), peer)) + b"\n"
        if not data.startswith(b"GET "):
            connection.send(line * data.count(b"\n"))
            return
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(line)}\r\n"
        connection.send(f"{head}Connection: close\r\n\r\n".encode() + line)
        self._drop(connection, reset=False)

    def _drop(self, sock: socket.socket, *, reset: bool = True) -> None:
        self._selector.unregister(sock)
        self._connections.pop(sock, None)
        if reset and sock.type == socket.SOCK_STREAM:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.close()


def raise_file_limit() -> None:
    """Let this process have as many open sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(server: Server) -> socket.socket:
    family = socket.AF_INET6 if family_of(server.address) == 6 else socket.AF_INET  # noqa: PLR2004 - IP version 6
    kind, protocol = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_RAW, sctp.PROTOCOL),
    }[server.protocol]
    listener = server.host.namespace.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and kind != socket.SOCK_RAW:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((server.address, 0 if kind == socket.SOCK_RAW else server.port))
        if kind == socket.SOCK_STREAM:
            listener.listen(_BACKLOG)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        where = f"{server.protocol} {server.address}:{server.port} on {server.host.name}"
        raise OSError(error.errno, f"cannot listen at {where}: {error.strerror}") from None
    return listener


def _answer_datagram(server: Server, listener: socket.socket) -> None:
    _, peer = listener.recvfrom(_BUFFER)
    greeting = Greeting(server.name, (server.address, server.port), (peer[0], peer[1]))
    listener.sendto(msgspec.json.encode(greeting), peer)


def _answer_init(server: Server, listener: socket.socket) -> None:
    data, peer = listener.recvfrom(_BUFFER)
    packet = sctp.decode(without_header(data, listener))
    if packet is None or packet.answers or packet.port != server.port:
        return
    greeting = Greeting(server.name, (server.address, server.port), (peer[0], packet.source_port))
    answer = sctp.Packet(packet.port, packet.source_port, packet.tag ^ 1, packet.tag, msgspec.json.encode(greeting))
    listener.sendto(sctp.encode(answer), (peer[0], 0))


def without_header(data: bytes, sock: socket.socket) -> bytes:
    """Cut the IP header that a raw IPv4 socket hands over (a raw IPv6 socket hands over none)."""
    return data[(data[0] & 15) * 4 :] if sock.family == socket.AF_INET else data
