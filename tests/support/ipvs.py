"""A node in the mode `ipvs`, for tests that look into the kernel while real packets pass."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from kernel.conftest import Ground, lay_ground
from pointsman.api.proxyconfig import Ipvs as IpvsConfig
from pointsman.dataplane.ipvs import listing
from pointsman.dataplane.ipvs.entries import key_of
from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.local_routes import PROTOCOL
from pointsman.dataplane.protocol import Dataplane
from pointsman.dataplane.sysctl import SYSCTL_ROOT, apply_ipvs
from pointsman.lab.connections import TIMEOUT, greet, open_socket
from pointsman.lab.network import Network
from pointsman.lab.servers import Server, Servers
from pointsman.lab.waiting import wait_until
from pointsman.model.plan import NODE_PORT, Delta, Family, Frontend, Plan, Transport
from support.dataplanes import open_dataplane
from support.proxied import OnGround, be_patient, client_address, give_addresses, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.dataplane.ipvs.listing import Counts
    from pointsman.dataplane.ipvs.objects import Real, ServerKey
    from pointsman.dataplane.protocol import Written
    from pointsman.lab.network import Host
    from pointsman.model.plan import NodeSettings

MOST = 10
"""Servers of each protocol and family that are there for the asking."""

EXTERNAL = ("198.51.100.0/22", "2001:db8:100::/64")
"""Networks of external IPs, which lead to the node."""


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shared(msgspec.Struct):
    """A ground that many tests use one after the other.

    IPVS and connection tracking remember connections for longer than a test takes, so each test gets frontends that
    nobody connected to before.

    Attributes:
        ground: the ground.
        numbers: of the frontends that are given out.
        ports: source ports for connections that are held, below those that the kernel gives out. No two may have the
            same one: IPVS tells the answers of two virtual servers apart by it alone where one real server sends them.
        endpoints: servers that are there already.
    """

    ground: Ground
    numbers: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(1))
    ports: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(10_000))
    endpoints: dict[tuple[Transport, Family], list[Server]] = msgspec.field(default_factory=dict)


class Line:
    """A TCP connection that is held open.

    Attributes:
        server: the name of the server that it leads to.
    """

    def __init__(self, origin: Host, address: str, port: int, *, source: str = "", source_port: int = 0) -> None:
        """Connect.

        Raises:
            OSError: nobody answered.
        """
        self._socket = open_socket(origin, address, source=source, source_port=source_port)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect((address, port))
            self.server = greet(self._socket).server
        except OSError:
            self.close()
            raise

    def lives(self) -> bool:
        """Ask once more who is there."""
        try:
            return greet(self._socket).server == self.server
        except OSError:
            return False

    def close(self) -> None:
        """End it by a reset."""
        self._socket.close()


class IpvsNode(OnGround[Dataplane]):
    """The ground with IPVS on its node, and a clock that the dataplane goes by."""

    def __init__(self, shared: Shared) -> None:
        self.clock = Clock()
        self._shared = shared
        self._lines = ExitStack()
        self._ports = itertools.count(4000)
        node = shared.ground.node
        super().__init__(shared.ground, lambda: open_dataplane(node, "ipvs", clock=self.clock))

    def vip(self, protocol: Transport = "tcp", family: Family = 4) -> Frontend:
        """Name a cluster IP's frontend, at port 80, that no test has used."""
        number = next(self._shared.numbers)
        address = f"10.96.{number >> 8}.{number & 255}" if family == 4 else f"fd00:10:96::{number:x}"
        return Frontend(family, address, protocol, 80)

    def node_port(self, protocol: Transport = "tcp", family: Family = 4) -> Frontend:
        """Name a node port's frontend that no test has used."""
        return Frontend(family, NODE_PORT, protocol, 30000 + next(self._shared.numbers))

    def external_ip(self, protocol: Transport = "tcp", family: Family = 4) -> Frontend:
        """Name an external IP's frontend, at port 80, that no test has used."""
        number = next(self._shared.numbers)
        address = f"198.51.{100 + (number >> 8)}.{number & 255}" if family == 4 else f"2001:db8:100::{number:x}"
        return Frontend(family, address, protocol, 80)

    def endpoints(self, count: int, protocol: Transport = "tcp", family: Family = 4) -> list[Server]:
        """Return the first ones of servers a, b, c, ... on the pods of this node."""
        started = self._shared.endpoints
        if (protocol, family) not in started:
            started[protocol, family] = super().endpoints(MOST, protocol, family)
        return started[protocol, family][:count]

    def line(self, frontend: Frontend, *, source: str = "", source_port: int = 0) -> Line:
        """Connect from the client, and hold the connection until the test's end."""
        at = self.ground.node.address(frontend.family) if frontend.address == NODE_PORT else frontend.address
        source_port = source_port or next(self._shared.ports)
        made = Line(self.ground.client, at, frontend.port, source=source, source_port=source_port)
        self._lines.callback(made.close)
        return made

    def reach(
        self, frontend: Frontend, *, origin: Host | None = None, source: str = "", source_port: int = 0
    ) -> str:  # fmt: skip
        """Connect once, from the client unless another origin is given, and return the server's name."""
        at = self.ground.node.address(frontend.family)
        return reach(origin or self.ground.client, frontend, at=at, source=source, source_port=source_port)

    def by_client(self, frontend: Frontend, count: int = 16) -> dict[int, str]:
        """Connect once from each of many client addresses, from a port that was not used before."""
        port, family = next(self._ports), frontend.family
        return {
            number: self.reach(frontend, source=client_address(number, family), source_port=port)
            for number in range(count)
        }

    def tend(self, seconds: float = 1.0) -> None:
        """Let time pass, and the dataplane do what is due."""
        self.clock.now += seconds
        self.dataplane.tend()

    def ipvsadm(self, *words: str, stdin: str = "") -> str:
        """Run ipvsadm on the node, as another program would."""
        return self.ground.node.namespace.run("ipvsadm", *words, stdin=stdin)

    def saved(self) -> list[str]:
        """Return what ``ipvsadm -Sn`` prints, sorted."""
        return sorted(self.ipvsadm("-Sn").splitlines())

    def servers(self) -> dict[ServerKey, dict[str, Counts]]:
        """Read what IPVS holds: real servers by name, or by address and port where we know none."""
        names = {(each.address, each.port): each.name for found in self._shared.endpoints.values() for each in found}

        def name_of(real: Real) -> str:
            return names.get((real.address, real.port), f"{real.address}:{real.port}")

        with self.ground.node.namespace.entered():
            listed = listing.read()
        return {key: {name_of(real): counts for real, counts in server.reals.items()} for key, server in listed.items()}

    def weights(self, frontend: Frontend) -> dict[str, int]:
        """Read the weights of a frontend's real servers, by name; none when there is no such virtual server."""
        return {name: counts.weight for name, counts in self.servers().get(key_of(frontend), {}).items()}

    def seen(self, frontend: Frontend) -> dict[str, Counts]:
        """Read what IPVS says of a frontend's real servers, by name."""
        return self.servers()[key_of(frontend)]

    def wait_for(self, done: Callable[[], bool], what: str | Callable[[], str], *, patience: float = 20.0) -> None:
        """Wait until packets or the kernel's timers have done something.

        Raises:
            LabError: they have not in time.
        """
        wait_until(done, what, patience=patience, pause=0.05)

    def set(self, settings: NodeSettings) -> Written:
        """Change the settings."""
        self.plan = Plan(self.plan.answers, settings)
        return self.dataplane.apply(Delta({}, settings=settings))

    def local_routes(self, family: Family = 4) -> str:
        """List the local routes that are ours."""
        return self.ground.node.namespace.run(
            "ip", f"-{family}", "route", "show", "table", "local", "proto", str(PROTOCOL)
        )

    def close(self) -> None:
        """Take everything away again."""
        self._lines.close()
        self.dataplane.cleanup()
        self.dataplane.close()


@contextmanager
def shared_ground() -> Iterator[Shared]:
    """Build a ground, and give its client many addresses."""
    with Network() as network, Servers() as servers:
        ground = lay_ground(network, servers)
        give_addresses(ground)
        for destination in EXTERNAL:
            network.route(destination, via=ground.node)
        with ground.node.namespace.entered():
            IpvsSocket().close()  # loads the module, and with it come the parameters
            problems = apply_ipvs(IpvsConfig(), SYSCTL_ROOT, os.uname().release)
        assert not problems, problems
        be_patient(ground.node)
        yield Shared(ground)


@contextmanager
def ipvs_node(shared: Shared) -> Iterator[IpvsNode]:
    """Put a dataplane on the ground's node, with an empty plan; at the end nothing of it is left."""
    made = IpvsNode(shared)
    try:
        made.adopt()
        yield made
    finally:
        made.close()
