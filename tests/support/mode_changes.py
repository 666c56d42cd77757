"""A node whose mode changes under load: who notices.

A syncer brings the plan into the node's kernel, in the test's own process; clients connect in loops, and hold TCP
connections and UDP flows meanwhile.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.agent.kernel import real_kernel
from pointsman.agent.syncer import Syncer
from pointsman.api.nodeproxy import NodeProxy
from pointsman.dataplane.conntrack import Conntrack
from pointsman.lab.connections import greet
from pointsman.lab.servers import Greeting
from pointsman.lab.traffic import Answered, Load, open_socket
from pointsman.lab.waiting import wait_until
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from pointsman.model.parse import key_of
from pointsman.policy.planner import Planner
from support.proxied import be_patient

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    import pytest

    from kernel.conftest import Ground
    from pointsman.agent.outcome import Outcome
    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.lab.network import Host
    from pointsman.model.parse import Object

PAGE: Final = Path(__file__).parents[2] / "docs" / "changing-modes.md"
VIP: Final = {4: "10.96.0.1", 6: "fd00:10:96::1"}
NODE_PORT: Final = 30080
SPEC: Final = {
    "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"],
    "nodePortAddresses": ["172.16.0.0/16", "fd00:172:16::/48"],
    "syncPeriod": "1h",
}
PORTS: Final = (ServicePort(80, "web", "tcp", NODE_PORT), ServicePort(80, "talk", "udp"))
SERVICE: Final = Service("shop", "web", "NodePort", cluster_ips=tuple(VIP.values()), ports=PORTS)


class Seen(msgspec.Struct, frozen=True):
    """What clients saw of one change of the mode.

    Attributes:
        failed: new connections and datagrams that were not answered.
        tcp, flows: held TCP connections and UDP flows that live after it, ...
        tcp_before, flows_before: of so many.
        how: when those that failed began, as seconds after the change did, and what became of them; for people.
    """

    failed: int
    tcp: int
    tcp_before: int
    flows: int
    flows_before: int
    how: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it as the cells of the page's table."""
        return f"{self.failed} | {self.tcp} of {self.tcp_before} | {self.flows} of {self.flows_before}"


def documented() -> dict[tuple[str, str], str]:
    """Return the page's table: mode before and after, and what is said of the change."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) +\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {(before, after): cells for before, after, cells in rows}


def expect(seen: Seen, before: Mode, after: Mode, capsys: pytest.CaptureFixture[str] | None = None) -> None:
    """Compare what clients saw with what the page says; with `capsys`, print it as a row of the page's table."""
    if capsys is not None:
        with capsys.disabled():
            print(f"\n| {before} | {after} | {seen} |")  # noqa: T201 (a measurement)
    assert str(seen) == documented()[before, after], seen.how


class Lines:
    """TCP connections that are held open; a context manager that ends them by a reset.

    Args:
        ports: their source ports, of which no other client has any: IPVS takes two connections to two of its virtual
            servers for one when they come from one port and lead to one real server.
    """

    def __init__(self, origin: Host, address: str, port: int, ports: Iterable[int]) -> None:
        self._sockets: list[socket.socket] = []
        for source_port in ports:
            sock = open_socket(origin, address, source_port=source_port)
            self._sockets.append(sock)
            sock.settimeout(_PATIENCE)
            sock.connect((address, port))
        self.servers = [greet(sock).server for sock in self._sockets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def alive(self) -> int:
        """Count those over which the server still answers."""
        return sum(map(_lives, self._sockets))


class Flows:
    """UDP clients that keep their source ports, and ask all the time; a context manager that ends them.

    Attributes:
        unanswered: datagrams of theirs that got no answer in time.
    """

    def __init__(self, origin: Host, address: str, port: int, ports: Iterable[int]) -> None:
        self.unanswered = 0
        self._sockets = [open_socket(origin, address, "udp", source_port=each) for each in ports]
        for sock in self._sockets:
            sock.settimeout(_PATIENCE)
            sock.connect((address, port))
        self.servers = [_ask(sock) for sock in self._sockets]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="flows", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        for sock in self._sockets:
            sock.close()

    def rest(self) -> None:
        """Ask no more by themselves."""
        self._stop.set()
        self._thread.join()

    def ask(self, patience: float = 5.0) -> list[str]:
        """Return who answers each of them, "" where nobody does within some seconds."""
        for sock in self._sockets:
            sock.settimeout(patience)
        return [_ask(sock) for sock in self._sockets]

    def alive(self) -> int:
        """Count those that the server still answers that answered first."""
        return sum(now == first for now, first in zip(self.ask(), self.servers, strict=True))

    def _talk(self) -> None:
        while not self._stop.wait(0.02):
            self.unanswered += sum(not _ask(sock) for sock in self._sockets)


_FIRST_PORT: Final = 10_000
"""Of those that are held; the kernel gives others from 32,768 on."""
_PATIENCE: Final = 5.0
"""Seconds until a datagram counts as lost; longer than any pause of a machine that has much to do."""


def _lives(sock: socket.socket) -> bool:
    try:
        return bool(greet(sock).server)
    except OSError:
        return False


def _ask(sock: socket.socket) -> str:
    """Return who answers, or "" when nobody does."""
    try:
        sock.send(b"?\n")
        return msgspec.json.decode(sock.recv(4096), type=Greeting).server
    except OSError:
        return ""


class ChangingNode:
    """The ground, with a syncer on its node.

    Args:
        ground: where the node is.
        instead: dataplanes in place of the real ones, by mode.
        tcp, flows: how many connections and flows are held.

    Attributes:
        syncer: to be called within the node's namespace.
    """

    def __init__(
        self,
        ground: Ground,
        instead: Mapping[Mode, Callable[[], Dataplane]] = MappingProxyType({}),
        *,
        tcp: int = 200,
        flows: int = 20,
    ) -> None:
        self.ground = ground
        self._tcp, self._flows = tcp, flows
        self._generation = 0
        self._free_ports = itertools.count(_FIRST_PORT)
        self._conntrack: list[Conntrack] = []
        real = real_kernel()
        kernel = dataclasses.replace(
            real,
            dataplanes={**real.dataplanes, **instead},
            conntrack=self._open_conntrack,
            sysctls=lambda *_: (),
        )
        self.syncer = Syncer(Planner(ground.node.name), kernel)
        self._known: list[Object] = [SERVICE, *slices_at(ground.pods)]

    def configure(self, mode: Mode) -> NodeProxy:
        """Write the node's configuration."""
        self._generation += 1
        metadata = {"name": self.ground.node.name, "generation": self._generation}
        return NodeProxy.read({"metadata": metadata, "spec": {**SPEC, "mode": mode}})

    def sync(self, *objects: Object) -> Outcome:
        """Bring objects into the kernel."""
        with self.ground.node.namespace.entered():
            return self.syncer.sync({key_of(obj): obj for obj in objects}, full=False)

    def remove(self, *objects: Object) -> Outcome:
        """Take objects out of the kernel."""
        with self.ground.node.namespace.entered():
            return self.syncer.sync(dict.fromkeys(map(key_of, objects)), full=False)

    def tend(self) -> Outcome:
        """Do what the agent does several times a second."""
        with self.ground.node.namespace.entered():
            self.syncer.disturbed()
        return self.sync()

    def ask_for(self, mode: Mode) -> Outcome:
        """Write another mode into the configuration."""
        new, self._known = self._known, []
        return self.sync(self.configure(mode), *new)

    def put_in_force(self, mode: Mode) -> None:
        """Change the mode, if it is another one."""
        outcome = self.ask_for(mode)
        assert (outcome.error, outcome.facts.mode) == ("", mode), (outcome.error, outcome.facts.why)

    def draining(self) -> dict[Mode, int]:
        """Return the modes that drain."""
        return dict(self.tend().facts.draining)

    def change(self, mode: Mode, *, connections: int = 20) -> Seen:
        """Change the mode while clients connect and talk.

        Args:
            mode: the new one.
            connections: how many each client makes before the change, and after it.
        """
        return self.watch(lambda: self.put_in_force(mode), connections=connections)

    def watch(self, act: Callable[[], object], *, connections: int = 20) -> Seen:
        """Do something to the node while clients connect and talk."""
        client, node = self.ground.client, self.ground.node
        # By family and to the node port: all ways in.
        per_way = self._tcp // 4
        ways = ((VIP[4], 80, 2 * per_way), (VIP[6], 80, per_way), (node.address(4), NODE_PORT, per_way))
        with ExitStack() as stack:
            held = [stack.enter_context(Lines(client, at, port, self.free_ports(count))) for at, port, count in ways]
            per_family = self._flows // 2
            flows = [stack.enter_context(Flows(client, VIP[each], 80, self.free_ports(per_family))) for each in (4, 6)]
            loads = [stack.enter_context(Load(client, at, port, timeout=_PATIENCE)) for at, port, _ in ways]
            loads.append(stack.enter_context(Load(client, VIP[4], 80, "udp", timeout=_PATIENCE)))
            _wait(loads, connections)
            began = time.monotonic()
            act()
            done = time.monotonic()
            _wait(loads, connections)
            for _ in range(3):
                self.tend()
            _wait(loads, connections)
            for each in flows:
                each.rest()
            names = (*(f"{at} port {port}" for at, port, _ in ways), f"{VIP[4]} port 80/udp")
            failures = [
                (name, sample)
                for name, load in zip(names, loads, strict=True)
                for sample in load.samples
                if not isinstance(sample.outcome, Answered)
            ]
            return Seen(
                failed=len(failures) + sum(each.unanswered for each in flows),
                tcp=sum(each.alive() for each in held),
                tcp_before=4 * per_way,
                flows=sum(each.alive() for each in flows),
                flows_before=2 * per_family,
                how=tuple(
                    f"{name}, {each.begun - began:.4f} s (of {done - began:.4f}): {each.outcome}"
                    for name, each in failures[:5]
                ),
            )

    def free_ports(self, count: int) -> list[int]:
        """Return source ports that no client has had."""
        return list(itertools.islice(self._free_ports, count))

    def close(self) -> None:
        """Take everything away again."""
        with self.ground.node.namespace.entered():
            self.syncer.clean_up()
            self.syncer.close()
        for each in self._conntrack:
            each.close()

    def _open_conntrack(self) -> Conntrack:
        made = Conntrack()
        self._conntrack.append(made)
        return made


@contextmanager
def changing_node(
    ground: Ground, instead: Mapping[Mode, Callable[[], Dataplane]] = MappingProxyType({})
) -> Iterator[ChangingNode]:
    """Put a syncer on a ground's node, which has one Service; at the end nothing of it is left."""
    be_patient(ground.node)
    made = ChangingNode(ground, instead)
    try:
        yield made
    finally:
        made.close()


def _wait(loads: Iterable[Load], count: int) -> None:
    goals = [(load, len(load.samples) + count) for load in loads]

    def is_done() -> bool:
        return all(len(load.samples) >= goal for load, goal in goals)

    wait_until(is_done, "connections", patience=240.0, pause=0.02)


def _node_of(pod: Host) -> str:
    assert pod.hub is not None
    return pod.hub.name


def slices_at(pods: Iterable[Host]) -> list[EndpointSlice]:
    """Let pods be the backends of the Service."""
    made = list(pods)
    ports = (EndpointPort(80, "web", "tcp"), EndpointPort(80, "talk", "udp"))
    return [
        EndpointSlice(
            "shop", f"web-{family}", "web", family, ports,
            tuple(Endpoint(pod.address(family), node=_node_of(pod)) for pod in made),
        )
        for family in (4, 6)
    ]  # fmt: skip
