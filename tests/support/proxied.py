"""A node with its dataplane, and short words for plans, for tests that send packets over time."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from pointsman.dataplane.netlink import NftSocket, attributes
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.nftables.wire import GETGEN
from pointsman.lab.traffic import Answered, connect
from pointsman.model.plan import NODE_PORT, Answer, Backend, Delta, Frontend, NodeSettings, Plan, Pool
from support.steady import steady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from kernel.conftest import Ground
    from pointsman.dataplane.protocol import Dataplane, Written
    from pointsman.lab.network import Host
    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Transport

SETTINGS = NodeSettings(
    pod_cidrs=("192.168.0.0/16", "fd00:192:168::/48"),
    service_cidrs=("10.96.0.0/12", "fd00:10:96::/112"),
    node_port_cidrs=("0.0.0.0/0", "::/0"),
)
CLIENTS = {4: "198.18.0.0/15", 6: "2001:db8:198::/64"}
"""Networks of which the client has every address."""

Plane = TypeVar("Plane", bound="Dataplane")


class OnGround(Generic[Plane]):
    """The ground, with a dataplane on its node, and what that dataplane shall hold: nothing at first.

    Args:
        ground: where the node is.
        opened: opens a dataplane on the node.
    """

    def __init__(self, ground: Ground, opened: Callable[[], Plane]) -> None:
        self.ground = ground
        self.dataplane = opened()
        self.plan = Plan({}, SETTINGS)
        self._opened = opened

    def put(self, changed: Mapping[Frontend, Answer], *, gone: Iterable[Frontend] = ()) -> Written:
        """Apply a delta."""
        delta = Delta(changed, frozenset(gone))
        written = self.dataplane.apply(delta)
        answers = {frontend: answer for frontend, answer in self.plan.answers.items() if frontend not in delta.removed}
        self.plan = Plan({**answers, **changed}, self.plan.settings)
        return written

    def adopt(self) -> Written:
        """Compare the whole plan with what the kernel holds."""
        return self.dataplane.adopt(self.plan)

    def reopen(self) -> None:
        """Put a new dataplane in place of this one, as a new agent does."""
        self.dataplane.close()
        self.dataplane = self._opened()

    def restart(self) -> Written:
        """Let a new dataplane compare the whole plan with what the kernel holds."""
        self.reopen()
        return self.adopt()

    def nft(self, *words: str, stdin: str = "") -> str:
        """Run nft on the node, as another program would."""
        return self.ground.node.namespace.run("nft", *words, stdin=stdin)

    def endpoints(self, count: int, protocol: Transport = "tcp", family: Family = 4) -> list[Server]:
        """Start servers a, b, c, ... on the pods of this node, in the order of their addresses."""
        start, names = self.ground.servers.start, "abcdefghijklmnopqrstuvwxyz"[:count]
        pods = [self.ground.pods[number * 2 // count] for number in range(count)]
        return [
            start(pod, 9000 + number, protocol, address=pod.address(family), name=name)
            for number, (name, pod) in enumerate(zip(names, pods, strict=True))
        ]


class Proxied(OnGround[NftablesDataplane]):
    """The ground with nftables on its node."""

    def tables(self) -> dict[str, list[str]]:
        """Return what both tables hold, but for counters and what packets fill, in an order of its own."""
        return {family: table_held(self.nft, family, "pointsman") for family in ("ip", "ip6")}


@contextmanager
def proxied(ground: Ground) -> Iterator[Proxied]:
    """Put a dataplane on the ground's node, with an empty plan, and give the client many addresses."""
    give_addresses(ground)
    made = Proxied(ground, lambda: open_dataplane(ground.node))
    try:
        made.adopt()
        yield made
    finally:
        made.dataplane.close()


def give_addresses(ground: Ground) -> None:
    """Give the client every address of `CLIENTS`, without a list of them."""
    for family, network in CLIENTS.items():
        ground.network.route(network, via=ground.client)
        ground.client.namespace.run("ip", f"-{family}", "route", "add", "local", network, "dev", "lo")
        ground.client.namespace.sysctl({"net/ipv4/ip_nonlocal_bind": "1", "net/ipv6/ip_nonlocal_bind": "1"})


def be_patient(node: Host) -> None:
    """Have connection tracking keep UDP flows that are silent for minutes, as a slow machine makes such pauses."""
    node.namespace.sysctl({"net/netfilter/nf_conntrack_udp_timeout": "300"})


def open_dataplane(node: Host) -> NftablesDataplane:
    """Open a dataplane in a node's namespace; it can be used from anywhere."""
    with node.namespace.entered():
        return NftablesDataplane()


def generation(node: Host) -> int:
    """Return the kernel's count of nf_tables transactions on a node."""
    with node.namespace.entered():
        wire = NftSocket()
    try:
        return int.from_bytes(dict(attributes(wire.get(GETGEN, 0)))[1], "big")
    finally:
        wire.close()


def table_held(nft: Callable[..., str], family: str, table: str) -> list[str]:
    """List a table with nft, as `table_words` cuts it; see `steady`."""
    return steady(lambda: table_words(nft("-s", "list", "table", family, table)))


def table_words(listing: str) -> list[str]:
    """Cut a listing of a table into elements and rules, sorted: a hash's order changes with its history.

    Slots are left without their numbers, as which endpoint has which one means nothing.
    """
    without_clients = re.sub(r"(map affinity \{[^{}]*)elements = \{[^{}]*\}\n", r"\1", listing, flags=re.DOTALL)
    without_numbers = re.sub(r" \. (none|\w+:\w+) counter :", " counter :", without_clients)
    return sorted(word.strip() for word in re.split(r"[,\n]|elements = \{|\}", without_numbers) if word.strip())


def vip(number: int = 1, protocol: Transport = "tcp", family: Family = 4) -> Frontend:
    """Name a cluster IP's frontend, at port 80."""
    address = f"10.96.{number >> 8}.{number & 255}" if family == 4 else f"fd00:10:96::{number:x}"
    return Frontend(family, address, protocol, 80)


def node_port(protocol: Transport = "tcp", family: Family = 4, port: int = 30080) -> Frontend:
    """Name a node port's frontend."""
    return Frontend(family, NODE_PORT, protocol, port)


def pool(servers: Iterable[Server], weights: Iterable[int] | None = None) -> Pool:
    """Make a pool of servers, with weights or without."""
    listed = list(servers)
    given = [1] * len(listed) if weights is None else list(weights)
    pairs = zip(listed, given, strict=True)
    return Pool(tuple(sorted(Backend(server.address, server.port, weight, local=True) for server, weight in pairs)))


def answer(
    servers: Iterable[Server],
    weights: Iterable[int] | None = None,
    *,
    scheduler: str = "random",
    affinity: int | None = None,
) -> Answer:
    """Answer with servers."""
    return Answer("default/test", scheduler, pool(servers, weights), affinity=affinity)


def client_address(number: int, family: Family = 4) -> str:
    """Return one of the client's many addresses."""
    return f"198.18.{number >> 8}.{number & 255}" if family == 4 else f"2001:db8:198::{number:x}"


def reach(origin: Host, frontend: Frontend, *, at: str = "", source: str = "", source_port: int = 0) -> str:
    """Connect once and return the server's name.

    Args:
        origin: from where.
        frontend: where to.
        at: the address to connect to when the frontend is a node port.
        source: the client's address; "" for the usual one.
        source_port: the client's port; 0 for any.
    """
    address = at if frontend.address == NODE_PORT else frontend.address
    outcome = connect(origin, address, frontend.port, frontend.protocol, source=source, source_port=source_port)
    assert isinstance(outcome, Answered), f"{frontend} from {source or origin.name}: {outcome}"
    return outcome.server


class Clients:
    """Many client addresses, each with a new source port for each connection."""

    def __init__(self, ground: Ground, frontend: Frontend, count: int) -> None:
        self._ground = ground
        self._frontend = frontend
        self._sources = [client_address(number, frontend.family) for number in range(count)]
        self._port = 4000

    def connect(self) -> list[str]:
        """Connect once from each and return the servers' names."""
        self._port += 1
        return [self._visit(source) for source in self._sources]

    def _visit(self, source: str) -> str:
        ground, frontend = self._ground, self._frontend
        at = ground.node.address(frontend.family)
        return reach(ground.client, frontend, at=at, source=source, source_port=self._port)


def unlikely(observed: Mapping[str, int], expected: Mapping[str, float]) -> str:
    """Compare counts with what they should be about (chi-square).

    Returns:
        What is wrong, or "" when a difference like this comes by chance more often than once in 10^7.
    """
    assert observed.keys() <= expected.keys(), f"{observed.keys() - expected.keys()} should get nothing"
    total = sum(observed.values())
    scale = total / sum(expected.values())
    chi = sum((observed.get(name, 0) - share * scale) ** 2 / (share * scale) for name, share in expected.items())
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the quantile; 5.2 is the normal one at 10^-7.
    bound = freedom * (1 - 2 / (9 * freedom) + 5.2 * math.sqrt(2 / (9 * freedom))) ** 3
    return "" if chi < bound else f"chi-square {chi:.1f} over {bound:.1f}: {dict(observed)}, expected {dict(expected)}"
