"""Many connections: their spread, held ones, and one after another under load."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.connections import (
    PATIENCE,
    TIMEOUT,
    Answered,
    Broken,
    Outcome,
    Refused,
    TimedOut,
    connect,
    fetch,
    greet,
    open_socket,
)
from pointsman.lab.servers import raise_file_limit

if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import Self

    from pointsman.lab.network import Host
    from pointsman.model.plan import Transport

__all__ = (
    "TIMEOUT", "Answered", "Broken", "Held", "Load", "Outcome", "Refused", "Sample", "Spread", "TimedOut", "connect",
    "fetch", "open_socket", "spread",
)  # fmt: skip

_BUFFER = 65536


class Spread(msgspec.Struct):
    """What became of many connections.

    Attributes:
        servers: answers by server name.
        sources: answers by the client address that the server saw.
        failures: the outcomes that were no answers.
    """

    servers: Counter[str] = msgspec.field(default_factory=Counter)
    sources: Counter[str] = msgspec.field(default_factory=Counter)
    failures: list[Outcome] = msgspec.field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome, Answered):
            self.servers[outcome.server] += 1
            self.sources[outcome.seen[0]] += 1
        else:
            self.failures.append(outcome)

    @property
    def answered(self) -> int:
        """How many connections were answered."""
        return self.servers.total()


def spread(
    origin: Host,
    address: str,
    port: int,
    protocol: Transport = "tcp",
    *,
    count: int,
    timeout: float | None = None,
    patience: int | None = None,
) -> Spread:
    """Connect many times, one after another.

    Args:
        origin: the host to connect from.
        address: IP address to connect to.
        port: 1..65535.
        protocol: tcp, udp or sctp.
        count: how many times.
        timeout: seconds until one counts as dropped; see `connect`.
        patience: stop early after so many failures; None for never.
    """
    result = Spread()
    for _ in range(count):
        result.add(connect(origin, address, port, protocol, timeout=timeout))
        if patience is not None and len(result.failures) >= patience:
            break
    return result


class Held:
    """TCP connections that stay open, to see which of them live; a context manager that closes them."""

    def __init__(self, origin: Host, address: str, port: int, *, count: int, timeout: float = TIMEOUT) -> None:
        """Open them.

        Raises:
            OSError: one could not be opened, or was not answered.
        """
        raise_file_limit()
        self._sockets: list[socket.socket] = []
        self.servers: list[str] = []
        try:
            for _ in range(count):
                sock = open_socket(origin, address)
                self._sockets.append(sock)
                sock.settimeout(timeout)
                sock.connect((address, port))
                self.servers.append(greet(sock).server)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def broken(self, *, timeout: float = PATIENCE) -> list[str]:
        """Send a line on each, wait for the answers, and return the servers of those that gave none."""
        deadline = time.monotonic() + timeout
        lost = set()
        for index, sock in enumerate(self._sockets):
            try:
                sock.sendall(b"?\n")
            except OSError:
                lost.add(index)
        for index, sock in enumerate(self._sockets):
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                if index not in lost and not sock.recv(_BUFFER):
                    lost.add(index)
            except OSError:
                lost.add(index)
        return [self.servers[index] for index in sorted(lost)]

    def close(self) -> None:
        """Close them all."""
        for sock in self._sockets:
            sock.close()


class Sample(msgspec.Struct, frozen=True):
    """One connection of a `Load`: when it was begun (time.monotonic) and what became of it."""

    begun: float
    outcome: Outcome


class Load:
    """A client that connects in a loop, in a thread of its own, until the end of its ``with`` block."""

    def __init__(
        self,
        origin: Host,
        address: str,
        port: int,
        protocol: Transport = "tcp",
        *,
        pause: float = 0.001,
        timeout: float | None = None,
    ) -> None:
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._pause = pause
        self._thread = threading.Thread(
            target=self._run, args=(origin, address, port, protocol, timeout), name="lab load", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def spread(self, *, since: float = 0.0, until: float = float("inf")) -> Spread:
        """Sum up the connections that were begun in a span of time (time.monotonic)."""
        result = Spread()
        for sample in tuple(self.samples):
            if since <= sample.begun < until:
                result.add(sample.outcome)
        return result

    def wait(self, count: int, *, timeout: float = 30.0) -> None:
        """Wait until `count` more connections are done.

        Raises:
            TimeoutError: they are not done in time.
        """
        goal = len(self.samples) + count
        deadline = time.monotonic() + timeout
        while len(self.samples) < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the load made {len(self.samples)} connections of {goal} in {timeout:g} s")
            time.sleep(0.005)

    def _run(self, origin: Host, address: str, port: int, protocol: Transport, timeout: float | None) -> None:
        while not self._stop.wait(self._pause):
            begun = time.monotonic()
            self.samples.append(Sample(begun, connect(origin, address, port, protocol, timeout=timeout)))
