"""The proxy with real sockets on loopback; where time matters its loop is turned by hand, with a clock of its own."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.userspace.datagram import DatagramPort
from pointsman.dataplane.userspace.loop import Loop
from pointsman.dataplane.userspace.port import Context, Wish, bound_socket
from pointsman.dataplane.userspace.proxy import Place, Proxy, Target
from pointsman.dataplane.userspace.room import RESERVE, Room
from pointsman.dataplane.userspace.stream import StreamPort
from pointsman.model.plan import Backend, Frontend
from support.no_files import no_more_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pointsman.model.plan import Family

LOCAL = "127.0.0.1"
TCP = Target(Frontend(4, "10.96.0.1", "tcp", 80))
UDP = Target(Frontend(4, "10.96.0.1", "udp", 53))
RESET = struct.pack("ii", 1, 0)
PATIENCE = 5.0


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Hand:
    """A loop that a test turns, and what ports need besides."""

    def __init__(self, limit: int = 4096) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.context = Context(self.loop, Room(self.loop, limit), memoryview(bytearray(1 << 16)))

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until something holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def later(self, seconds: float) -> None:
        """Let time pass, and turn."""
        self.clock.now += seconds
        self.loop.turn(0)
        self.loop.turn(0)


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    yield made
    made.loop.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(limit=4096)
    yield made
    made.stop()


@contextlib.contextmanager
def listening(backlog: int = 64) -> Iterator[socket.socket]:
    with socket.create_server((LOCAL, 0), backlog=backlog) as sock:
        sock.settimeout(PATIENCE)
        yield sock


@contextlib.contextmanager
def datagrams() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        sock.settimeout(PATIENCE)
        yield sock


def backend(sock: socket.socket) -> Backend:
    return Backend(*sock.getsockname())


@pytest.fixture
def closed_port() -> Iterator[Callable[[], Backend]]:
    """Return where nobody listens: the ports stay taken, as the proxy's own listener might get one that is free."""
    with contextlib.ExitStack() as stack:

        def taken() -> Backend:
            sock = stack.enter_context(socket.socket())
            sock.bind((LOCAL, 0))
            return backend(sock)

        yield taken


def opened(proxy: Proxy, target: Target, *backends: Backend, affinity: int | None = None) -> tuple[str, int]:
    result = proxy.change({target: Wish(backends, affinity)}, {target: Place(LOCAL)}, 120.0)
    assert not result.refused
    return LOCAL, result.ports[target]


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def answered(port: StreamPort) -> int:
    """Count the connections that have got to a backend."""
    return sum(connections for connections, _ in port.statistics.snapshot().values())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.005)


def test_both_directions_and_both_ends(proxy: Proxy) -> None:
    """Half-close: the client says that it has said all, and gets its answer after that."""
    with listening() as server, connected(opened(proxy, TCP, backend(server))) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        side, _ = server.accept()
        with side:
            assert side.makefile("rb").read() == b"question"
            side.sendall(b"answer")
            side.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"answer"
        until(lambda: proxy.carried() == 0)
    assert proxy.tallies()[TCP].total == 1
    assert list(proxy.tallies()[TCP].backends.values()) == [(1, 0)]


def test_the_server_closes_first(proxy: Proxy) -> None:
    with listening() as server, connected(opened(proxy, TCP, backend(server))) as client:
        side, _ = server.accept()
        side.sendall(b"bye")
        side.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b"bye"
        client.sendall(b"more")
        client.shutdown(socket.SHUT_WR)
        assert side.makefile("rb").read() == b"more"
        side.close()
    until(lambda: proxy.carried() == 0)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(proxy: Proxy, who: str) -> None:
    with listening() as server:
        client = connected(opened(proxy, TCP, backend(server)))
        side, _ = server.accept()
        side.settimeout(PATIENCE)
        first, second = (client, side) if who == "client" else (side, client)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        first.close()
        with pytest.raises(ConnectionResetError):
            second.recv(1)
        second.close()
    until(lambda: proxy.carried() == 0)


def test_a_slow_reader_stops_the_sender_and_gets_every_octet(proxy: Proxy) -> None:
    """The sender gets rid of no more than what the kernel and one buffer hold; all of it comes, in order."""
    with listening() as server, connected(opened(proxy, TCP, backend(server))) as client:
        side, _ = server.accept()
        side.settimeout(0)
        block = os.urandom(1 << 16)
        sent = 0
        # No progress for a while: full.
        poll = select.poll()
        poll.register(side, select.POLLOUT)
        while poll.poll(300):
            with contextlib.suppress(BlockingIOError):
                sent += side.send(block[sent % len(block) :])
        assert sent < 64 << 20
        side.shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)  # both have said all, and most of it has not arrived
        got = client.makefile("rb").read()
        assert len(got) == sent
        assert got == (block * (sent // len(block) + 1))[:sent]
        side.close()
    until(lambda: proxy.carried() == 0)


def test_who_refuses_is_followed_by_the_next(proxy: Proxy, closed_port: Callable[[], Backend]) -> None:
    with listening() as server:
        address = opened(proxy, TCP, closed_port(), closed_port(), backend(server))
        for _ in range(3):
            with connected(address) as client:
                side, _ = server.accept()
                side.sendall(b"x")
                assert client.recv(1) == b"x"
                side.close()


def test_when_all_refuse_the_client_is_refused(proxy: Proxy, closed_port: Callable[[], Backend]) -> None:
    with pytest.raises(ConnectionResetError), connected(opened(proxy, TCP, closed_port())) as client:
        client.recv(1)
    until(lambda: proxy.carried() == 0)
    assert (proxy.tallies()[TCP].total, dict(proxy.tallies()[TCP].backends)) == (1, {}), "it has come, and got nowhere"


def test_who_is_silent_is_followed_by_the_next(hand: Hand) -> None:
    """A full queue of connections that nobody accepts is as good as a dead host."""
    with listening(backlog=0) as dead, listening() as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(dead.getsockname())
        port = StreamPort(hand.context, 4, bound_socket(4, socket.SOCK_STREAM, LOCAL, [0]),
                          Wish((backend(dead), backend(server))))  # fmt: skip
        client = stack.enter_context(connected(port._listener.getsockname()))  # type: ignore[union-attr]
        hand.until(lambda: len(port))
        server.settimeout(0)
        hand.later(0.2)
        with pytest.raises(BlockingIOError):
            server.accept()
        hand.later(0.06)
        hand.until(lambda: answered(port))
        side, _ = server.accept()
        client.sendall(b"x")
        port.abort()
        side.close()


def test_when_all_are_silent_the_client_hears_it_after_all_tries(hand: Hand) -> None:
    with listening(backlog=0) as dead, contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(dead.getsockname())
        port = StreamPort(hand.context, 4, bound_socket(4, socket.SOCK_STREAM, LOCAL, [0]), Wish((backend(dead),)))
        stack.enter_context(connected(port._listener.getsockname()))  # type: ignore[union-attr]
        hand.until(lambda: len(port))
        moment = 1 / 64
        for seconds in (0.25, 0.5, 1.0, 2.0):
            assert len(port), "the next try"
            hand.later(seconds - moment)
            assert len(port), "there is time left"
            hand.later(moment)
        assert not len(port)
        assert (port.statistics.total, answered(port)) == (1, 0)
        port.abort()


def test_affinity_by_the_clients_address(proxy: Proxy) -> None:
    with listening() as one, listening() as two:
        address = opened(proxy, TCP, backend(one), backend(two), affinity=60)
        clients = [connected(address) for _ in range(4)]
        until(lambda: sorted(proxy.tallies()[TCP].backends.values()) == [(4, 4)])
        for client in clients:
            client.close()


def test_a_client_stays_with_the_one_that_answered_when_its_first_one_refused(proxy: Proxy) -> None:
    with socket.socket() as back, listening() as server:
        back.bind((LOCAL, 0))
        address = opened(proxy, TCP, backend(back), backend(server), affinity=60)
        with connected(address):
            server.accept()[0].close()
            until(lambda: any(proxy.tallies()[TCP].backends.values()))
        back.listen()
        with connected(address):
            server.accept()[0].close()


def test_connections_outlive_their_port_and_their_backends_place(
    proxy: Proxy, closed_port: Callable[[], Backend]
) -> None:
    with listening() as server:
        address = opened(proxy, TCP, backend(server))
        with connected(address) as client:
            side, _ = server.accept()
            opened(proxy, TCP, closed_port())
            proxy.close_ports([TCP])
            assert proxy.carried() == 1
            with pytest.raises(ConnectionRefusedError):
                connected(address)
            client.sendall(b"still here")
            assert side.recv(100) == b"still here"
            side.close()
        until(lambda: proxy.carried() == 0)
    assert not proxy.targets()


def test_a_thousand_connections_are_held_at_once() -> None:
    proxy = Proxy()
    with listening(backlog=1024) as server, contextlib.ExitStack() as stack:
        address = opened(proxy, TCP, backend(server))
        pairs = []
        for _ in range(1000):
            client = stack.enter_context(connected(address))
            pairs.append((client, stack.enter_context(server.accept()[0])))
        assert proxy.carried() == 1000
        for client, side in pairs:
            side.sendall(b"x")
            assert client.recv(1) == b"x"
    until(lambda: proxy.carried() == 0)
    proxy.stop()


def test_without_files_new_connections_wait_and_those_that_are_there_lose_nothing() -> None:
    """There is room for four connections; the others come in when these end."""
    proxy = Proxy(limit=RESERVE + 1 + 8 + 1)
    proxy._limit = 2 * (1 + 8)
    with listening() as server, contextlib.ExitStack() as stack:
        address = opened(proxy, TCP, backend(server))
        clients = [stack.enter_context(connected(address)) for _ in range(6)]
        until(lambda: proxy.carried() == 4 and proxy.problem)
        assert "no more connections can be opened" in proxy.problem
        assert "LimitNOFILE" in proxy.problem
        sides = [stack.enter_context(server.accept()[0]) for _ in range(4)]
        for client, side in zip(clients, sides, strict=False):
            client.sendall(b"?")
            assert side.recv(1) == b"?"
            side.sendall(b"!")
            assert client.recv(1) == b"!"
        clients[0].close()
        sides[0].close()
        clients[1].close()
        sides[1].close()
        late = [stack.enter_context(server.accept()[0]) for _ in range(2)]
        for side in late:
            side.sendall(b"!")
        assert [client.recv(1) for client in clients[4:]] == [b"!", b"!"]
        until(lambda: not proxy.problem)
    proxy.stop()


def test_the_kernels_own_refusal_of_a_file_is_met_in_the_same_way(hand: Hand) -> None:
    with listening() as server, contextlib.ExitStack() as stack:
        port = StreamPort(hand.context, 4, bound_socket(4, socket.SOCK_STREAM, LOCAL, [0]), Wish((backend(server),)))
        stack.callback(port.abort)
        address = port._listener.getsockname()  # type: ignore[union-attr]
        first = stack.enter_context(connected(address))
        hand.until(lambda: answered(port) == 1)
        side = stack.enter_context(server.accept()[0])
        side.settimeout(0)
        second = stack.enter_context(socket.socket())
        with no_more_files():
            second.connect(address)
            hand.until(lambda: hand.context.room.problem)
            first.sendall(b"x")
            hand.until(lambda: _received(side) == b"x")
        assert "Too many open files; raise the limit of open files" in hand.context.room.problem
        hand.clock.now += 1
        hand.until(lambda: answered(port) == 2)
        hand.clock.now += 1
        hand.until(lambda: not hand.context.room.problem)


def test_a_fault_in_one_connection_harms_no_other(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as server:
        address = opened(proxy, TCP, backend(server))
        with connected(address) as good:
            side, _ = server.accept()
            until(lambda: any(proxy.tallies()[TCP].backends.values()))
            with monkeypatch.context() as patch:
                patch.setattr("pointsman.dataplane.userspace.stream.Connection._connected", _fail)
                with pytest.raises(ConnectionResetError), connected(address) as bad:
                    bad.recv(1)
            good.sendall(b"x")
            assert side.recv(1) == b"x"
            side.close()


def test_a_port_that_is_taken_is_told_and_the_former_one_is_taken_again(proxy: Proxy) -> None:
    with listening() as server:
        taken = server.getsockname()[1]
        refused = proxy.change({TCP: Wish()}, {TCP: Place(LOCAL, (taken,))}, 120.0).refused[TCP]
        assert f"tcp port {taken} at {LOCAL}: Address already in use; another program has it" in refused
        assert proxy.change({TCP: Wish()}, {TCP: Place(LOCAL, (taken, 0))}, 120.0).ports[TCP] != taken
    proxy.close_ports([TCP])
    assert proxy.change({TCP: Wish()}, {TCP: Place(LOCAL, (taken, 0))}, 120.0).ports[TCP] == taken


def test_who_comes_back_to_a_port_goes_before_who_takes_any(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that the kernel gives to the one could be that of the other."""
    with listening() as sock:
        former = sock.getsockname()[1]
    asked = []

    def open_one(family: Family, kind: int, address: str, ports: tuple[int, ...]) -> socket.socket:
        asked.append(ports)
        return bound_socket(family, kind, address, ports)

    monkeypatch.setattr("pointsman.dataplane.userspace.proxy.bound_socket", open_one)
    places = {TCP: Place(LOCAL), UDP: Place(LOCAL, (former, 0))}
    assert proxy.change({TCP: Wish(), UDP: Wish()}, places, 120.0).ports[UDP] == former
    assert asked == [(former, 0), (0,)]


def test_datagrams_go_there_and_back_from_a_socket_for_each_client(proxy: Proxy) -> None:
    with datagrams() as server, datagrams() as one, datagrams() as two:
        address = opened(proxy, UDP, backend(server))
        seen = set()
        for client in (one, two, one):
            client.sendto(b"?", address)
            data, peer = server.recvfrom(100)
            seen.add(peer)
            server.sendto(data + b"!", peer)
            assert client.recvfrom(100) == (b"?!", address)
        assert len(seen) == 2
        assert proxy.carried() == 2


def test_icmp_refusals_lead_to_the_next_backend_with_the_same_datagram(proxy: Proxy) -> None:
    with datagrams() as gone:
        dead = backend(gone)
    with datagrams() as server, datagrams() as client:
        client.sendto(b"first", opened(proxy, UDP, dead, backend(server)))
        assert server.recvfrom(100)[0] == b"first"


def test_when_all_refuse_datagrams_the_client_is_forgotten(proxy: Proxy) -> None:
    with datagrams() as one, datagrams() as two:
        dead = backend(one), backend(two)
    with datagrams() as client:
        address = opened(proxy, UDP, *dead)
        client.sendto(b"?", address)
        until(lambda: len(proxy.tallies()[UDP].backends) == 2 and proxy.carried() == 0)
        assert proxy.tallies()[UDP].total == 1, "one client, whomever it was passed to"


def test_a_client_of_datagrams_stays_with_the_one_that_answered_when_its_first_one_refused(proxy: Proxy) -> None:
    """Each socket of the client is a flow of its own; affinity goes by its address."""
    with datagrams() as gone:
        dead = backend(gone)
    with datagrams() as server, datagrams() as first, datagrams() as second:
        address = opened(proxy, UDP, dead, backend(server), affinity=60)
        first.sendto(b"1", address)
        assert server.recvfrom(100)[0] == b"1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind((dead.address, dead.port))
            second.sendto(b"2", address)
            assert server.recvfrom(100)[0] == b"2"


def test_clients_of_a_backend_that_left_get_another_one_and_those_of_one_that_drains_stay(proxy: Proxy) -> None:
    with datagrams() as old, datagrams() as new, datagrams() as client:
        address = opened(proxy, UDP, backend(old))
        client.sendto(b"1", address)
        assert old.recvfrom(100)[0] == b"1"
        opened(proxy, UDP, Backend(*old.getsockname(), 0), backend(new))
        client.sendto(b"2", address)
        assert old.recvfrom(100)[0] == b"2"
        opened(proxy, UDP, backend(new))
        client.sendto(b"3", address)
        assert new.recvfrom(100)[0] == b"3"


def test_idle_clients_expire_and_busy_ones_do_not(hand: Hand) -> None:
    with datagrams() as server, datagrams() as idle, datagrams() as busy:
        port = DatagramPort(
            hand.context, 4, bound_socket(4, socket.SOCK_DGRAM, LOCAL, [0]), Wish((backend(server),)), 60
        )
        address = port.sock.getsockname()
        idle.sendto(b"?", address)
        busy.sendto(b"?", address)
        hand.until(lambda: len(port) == 2)
        hand.later(40)
        busy.sendto(b"?", address)
        got: list[bytes] = []
        server.settimeout(0)
        hand.until(lambda: got.append(_received(server)) or got.count(b"?") == 3)  # type: ignore[func-returns-value]
        hand.later(21)
        assert len(port) == 1
        hand.later(40)
        assert len(port) == 0
        port.abort()


def test_answers_keep_a_client(hand: Hand) -> None:
    with datagrams() as server, datagrams() as client:
        port = DatagramPort(
            hand.context, 4, bound_socket(4, socket.SOCK_DGRAM, LOCAL, [0]), Wish((backend(server),)), 60
        )
        client.sendto(b"?", port.sock.getsockname())
        hand.until(lambda: len(port))
        _, peer = server.recvfrom(100)
        hand.later(50)
        server.sendto(b"!", peer)
        client.settimeout(0)
        hand.until(lambda: _received(client) == b"!")
        hand.later(50)
        assert len(port) == 1
        hand.later(11)
        assert len(port) == 0
        port.abort()


def test_stop_ends_everything_and_the_proxy_can_begin_anew(proxy: Proxy) -> None:
    with listening() as server:
        client = connected(opened(proxy, TCP, backend(server)))
        server.accept()[0].close()
        proxy.stop()
        assert proxy.carried() == 0
        client.close()
        with connected(opened(proxy, TCP, backend(server))):
            server.accept()[0].close()


def _fail(*_: object) -> None:
    raise RuntimeError("a fault")


def _received(sock: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return sock.recv(100)
    return b""
