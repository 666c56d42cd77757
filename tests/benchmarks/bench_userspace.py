"""Measure the mode `userspace` beside `nftables`; run this file as root.

Client, node and pod are network namespaces; the dataplane, the server and the client are a process each. What is
measured is measured directly, through mode `nftables` and through mode `userspace`, in turn, and medians are told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.userspace import UserspaceDataplane
from pointsman.lab.network import Network
from pointsman.model.plan import Answer, Backend, Frontend, Plan, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.network import Host

Numbers = dict[str, float]
Address = tuple[str, int]

_PORT: Final = 8080
_VIP: Final = ("10.96.0.1", 80)
_RESET: Final = struct.pack("ii", 1, 0)
_BUFFER: Final = 1 << 18
_HELD: Final = 1000
_WAYS: Final = ("direct", "nftables", "userspace")
_ROWS: Final = {
    "MB/s, 1 connection": "throughput of 1 connection, MB/s",
    "MB/s, 100 connections": "throughput of 100 connections, MB/s",
    "connects/s": "connections one after another, a second",
    "p50 ms": "connect and first answer, median, ms",
    "p99 ms": "connect and first answer, 99 in 100, ms",
    "KiB each": f"memory of the dataplane's process for each of {_HELD} held connections, KiB",
}


def main() -> int:
    """Measure, or be one of the processes that are needed for it."""
    options = _options()
    if options.serve:
        _serve()
    if options.dataplane:
        _be_dataplane(options.dataplane, options.backend)
    results: dict[str, list[Numbers]] = {way: [] for way in _WAYS}
    with Network() as network:
        node = network.node("node", "172.16.0.1")
        pod = network.pod("pod", "192.168.1.1", node=node)
        client = network.client("client", "203.0.113.1")
        network.build()
        network.route("10.96.0.0/12", via=node)
        with _process(pod, "--serve"):
            for _ in range(options.repeats):
                for way in _WAYS:
                    results[way].append(_measure(way, client, node, pod, options.seconds))
    medians = {
        way: {key: statistics.median(each[key] for each in found) for key in found[0]} for way, found in results.items()
    }
    if options.output:
        options.output.write_text(json.dumps(medians, indent=1) + "\n", "utf-8")
    Console(width=110).print(_table(medians))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the mode userspace beside nftables.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the median of each number counts (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers as JSON, too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dataplane", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(way: str, client: Host, node: Host, pod: Host, seconds: float) -> Numbers:
    with ExitStack() as stack:
        address = (pod.address(), _PORT)
        process = 0
        if way != "direct":
            process = stack.enter_context(_process(node, "--dataplane", way, "--backend", pod.address())).pid
            address = _VIP
        stack.enter_context(client.namespace.entered())
        return {
            "MB/s, 1 connection": _throughput(address, 1, seconds),
            "MB/s, 100 connections": _throughput(address, 100, seconds),
            **_connects(address, seconds),
            "KiB each": _memory(address, process) if process else 0.0,
        }


def _throughput(address: Address, count: int, seconds: float) -> float:
    """Read what a server sends as fast as it can over some connections."""
    buffer = bytearray(_BUFFER)
    with ExitStack() as stack, select.epoll() as poll:
        sockets = {}
        for _ in range(count):
            sock = stack.enter_context(_connected(address))
            sock.sendall(b"S")
            sock.settimeout(0)
            sockets[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        total, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            for descriptor, _ in poll.poll(1):
                total += sockets[descriptor].recv_into(buffer)
        return total / passed / 1e6


def _connects(address: Address, seconds: float) -> Numbers:
    times: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        with _connected(address) as sock:
            sock.sendall(b"?")
            sock.recv(1)
            times.append(time.perf_counter() - start)
    times.sort()
    return {
        "connects/s": len(times) / seconds,
        "p50 ms": times[len(times) // 2] * 1e3,
        "p99 ms": times[len(times) * 99 // 100] * 1e3,
    }


def _memory(address: Address, process: int) -> float:
    before = _resident(process)
    with ExitStack() as stack:
        for _ in range(_HELD):
            sock = stack.enter_context(_connected(address))
            sock.sendall(b"?")
            sock.recv(1)
        return (_resident(process) - before) / _HELD


def _resident(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _connected(address: Address) -> socket.socket:
    """Connect; closing by a reset leaves no TIME_WAIT behind, so that thousands of connections find a free port."""
    sock = socket.create_connection(address, timeout=5)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return sock


@contextmanager
def _process(host: Host, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run this file as another process in a host's namespace, from when it says that it is ready."""
    with host.namespace.entered():
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        # It cleans up when its input ends; the server has nothing to clean up.
        assert process.stdin is not None
        process.stdin.close()
        if "--serve" in arguments:
            process.kill()
        process.wait()


def _be_dataplane(mode: str, backend: str) -> None:
    dataplane = NftablesDataplane() if mode == "nftables" else UserspaceDataplane()
    frontend = Frontend(4, _VIP[0], "tcp", _VIP[1])
    scheduler = "random" if mode == "nftables" else "rr"
    dataplane.adopt(Plan({frontend: Answer("default/bench", scheduler, Pool((Backend(backend, _PORT),)))}))
    _say_ready()
    sys.stdin.read()
    dataplane.cleanup()
    sys.exit()


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def _serve() -> None:
    """Answer each octet with one; an S with as much as goes through."""
    block = os.urandom(1 << 20)
    listener = socket.create_server(("", _PORT), backlog=4096)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    _say_ready()
    while True:
        for descriptor, events in poll.poll():
            try:
                if descriptor == listener.fileno():
                    client, _ = listener.accept()
                    client.settimeout(0)
                    clients[client.fileno()] = client
                    poll.register(client, select.EPOLLIN)
                elif events & select.EPOLLOUT:
                    clients[descriptor].send(block)
                elif clients[descriptor].recv(1) == b"S":
                    poll.modify(descriptor, select.EPOLLOUT)
                else:
                    clients[descriptor].send(b"!")
            except BlockingIOError:
                continue
            except OSError:
                if descriptor in clients:
                    clients.pop(descriptor).close()


def _table(medians: dict[str, Numbers]) -> Table:
    table = Table(title=f"mode userspace beside nftables, kernel {platform.release()}, {os.cpu_count()} CPUs")
    table.add_column("")
    for way in _WAYS:
        table.add_column(way, justify="right")
    table.add_column("userspace / nftables", justify="right")
    for key, words in _ROWS.items():
        numbers = [medians[way][key] for way in _WAYS]
        ratio = f"{numbers[2] / numbers[1]:.2f}" if numbers[1] > 0 and key != "KiB each" else ""
        table.add_row(words, *(f"{number:,.{0 if number >= 10 else 2}f}" for number in numbers), ratio)
    return table


if __name__ == "__main__":
    sys.exit(main())
