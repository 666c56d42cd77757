"""Local routes with real packets: a node whose networks they are, and a host beside it on the same link."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pointsman.dataplane.local_routes import PROTOCOL, LocalRoutes, RouteError
from pointsman.lab.namespaces import Namespace, create, new_prefix, remove
from pointsman.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family

PORT = 8080


class Addresses(NamedTuple):
    family: Family
    node: str
    second: str
    outside: str
    bits: int
    network: str
    inside: str
    other: str


FAMILIES = [
    Addresses(4, "192.0.2.1", "192.0.2.2", "192.0.2.9", 24, "10.96.0.0/12", "10.99.1.2", "203.0.113.5/32"),
    Addresses(6, "2001:db8::1", "2001:db8::2", "2001:db8::9", 64, "fd00:96::/112", "fd00:96::12", "fd00:aa::5/128"),
]


class Ground:
    """The two namespaces, and a server on the node at the wildcard address."""

    def __init__(self, at: Addresses, node: Namespace, outside: Namespace) -> None:
        self.at, self.node, self.outside = at, node, outside
        self.kind = socket.AF_INET if at.family == 4 else socket.AF_INET6
        self.listener = node.socket(self.kind, socket.SOCK_STREAM)
        self.listener.bind(("", PORT))
        self.listener.listen()
        with node.entered():
            self.routes = LocalRoutes()

    def connect(self, client: Namespace, address: str) -> str:
        """Connect and return the source address; ConnectionError or OSError when nobody answers."""
        with client.socket(self.kind, socket.SOCK_STREAM) as made:
            made.settimeout(10)
            made.connect((address, PORT))
            source: str = made.getsockname()[0]
        self.listener.accept()[0].close()
        return source

    def ip(self, *arguments: str) -> str:
        return self.node.run("ip", f"-{self.at.family}", *arguments)

    def table(self, *selector: str) -> str:
        return self.ip("route", "show", "table", "local", *selector)

    def change(self, add: tuple[str, ...] = (), remove: tuple[str, ...] = (), source: str | None = None) -> None:
        self.routes.change(self.at.family, add, remove, source)

    def read(self) -> dict[str, str]:
        found = self.routes.sources(self.at.family)
        assert self.routes.read(self.at.family) == found.keys()
        return found

    def close(self) -> None:
        self.routes.close()
        self.listener.close()


def are_routed(namespace: Namespace, family: Family, count: int) -> bool:
    """Tell whether all addresses of the wire are in force: `ip` has ended before the kernel does that for IPv6."""
    routes = namespace.run("ip", f"-{family}", "route", "show", "table", "local", "type", "local", "dev", "wire")
    # Those of IPv6 have the link's own among them.
    return len(routes.splitlines()) == count + (family == 6)


@pytest.fixture(params=[FAMILIES[0], pytest.param(FAMILIES[1], marks=pytest.mark.needs("IPv6"))], ids=["IPv4", "IPv6"])
def ground(request: pytest.FixtureRequest, _needs: None) -> Iterator[Ground]:
    at: Addresses = request.param
    prefix = new_prefix()
    node, outside = create([prefix + "node", prefix + "out"])
    try:
        for namespace in (node, outside):
            namespace.sysctl({"net/ipv6/conf/default/accept_dad": "0"})
        node.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", outside.name)
        for namespace, addresses in ((node, (at.node, at.second)), (outside, (at.outside,))):
            namespace.run("ip", "link", "set", "lo", "up")
            for address in addresses:
                nodad = ("nodad",) if at.family == 6 else ()
                namespace.run("ip", "address", "add", f"{address}/{at.bits}", "dev", "wire", *nodad)
            namespace.run("ip", "link", "set", "wire", "up")
        for namespace, count in ((node, 2), (outside, 1)):
            wait_until(partial(are_routed, namespace, at.family, count), "addresses", patience=30, pause=0.005)
        made = Ground(at, node, outside)
        yield made
        made.close()
    finally:
        remove([node.name, outside.name])


def test_every_address_of_the_network_is_the_nodes_own(ground: Ground) -> None:
    at = ground.at
    with pytest.raises(OSError, match="unreachable"):
        ground.connect(ground.node, at.inside)
    ground.change((at.network,), source=at.node)
    assert ground.read() == {at.network: at.node}
    assert f"local {at.network} dev lo proto {PROTOCOL}" in ground.table()
    assert ground.connect(ground.node, at.inside) == at.node
    ground.outside.run("ip", "route", "add", at.network, "via", at.node)
    assert ground.connect(ground.outside, at.inside) == at.outside
    ground.change(remove=(at.network,))
    assert ground.read() == {}
    with pytest.raises(OSError, match="unreachable"):
        ground.connect(ground.node, at.inside)


def test_the_source_is_the_kernels_choice_unless_the_route_names_one(ground: Ground) -> None:
    at = ground.at
    ground.change((at.network,))
    assert ground.read() == {at.network: ""}
    assert ground.connect(ground.node, at.inside) in ({at.inside} if at.family == 4 else {at.node, at.second})
    ground.change((at.network,), (at.network,), at.second)
    assert ground.read() == {at.network: at.second}
    assert ground.connect(ground.node, at.inside) == at.second
    assert f"src {at.second}" in ground.ip("route", "get", at.inside)


def test_what_is_there_or_gone_already_is_fine(ground: Ground) -> None:
    at = ground.at
    for _ in range(2):
        ground.change((at.network, at.other), source=at.node)
    assert ground.read() == {at.network: at.node, at.other: at.node}
    assert len(ground.table("proto", str(PROTOCOL)).splitlines()) == 2
    for _ in range(2):
        ground.change(remove=(at.network,))
    assert ground.read() == {at.other: at.node}


def test_routes_of_others_are_left_alone(ground: Ground) -> None:
    at = ground.at
    ground.ip("route", "add", "local", at.network, "dev", "lo", "proto", "static")
    before = ground.table()
    ground.change(remove=(at.network, f"{at.node}/{128 if at.family == 6 else 32}"))
    assert ground.table() == before
    assert ground.read() == {}


def test_an_address_that_the_node_has_itself_stays_its_own(ground: Ground) -> None:
    at = ground.at
    host = f"{at.second}/{128 if at.family == 6 else 32}"
    ground.change((host,), source=at.node)
    assert ground.read() == {host: at.node}
    assert "dev wire" in ground.table(at.second).splitlines()[0]
    assert ground.connect(ground.outside, at.second) == at.outside
    ground.ip("address", "delete", f"{at.second}/{at.bits}", "dev", "wire")
    assert ground.connect(ground.node, at.second) == at.node
    ground.change(remove=(host,))
    assert ground.table(at.second) == ""


def test_a_source_that_leaves_the_node(ground: Ground) -> None:
    at = ground.at
    ground.change((at.network,), source=at.second)
    ground.ip("address", "delete", f"{at.second}/{at.bits}", "dev", "wire")
    (source,) = ground.read().values()
    assert source in ({at.second} if at.family == 4 else {at.second, ""})  # Linux 6.1 keeps it, 6.18 does not
    ground.change((at.network,), (at.network,), at.node)
    assert ground.read() == {at.network: at.node}
    assert ground.connect(ground.node, at.inside) == at.node


def test_a_refused_route_is_named_and_the_others_are_there(ground: Ground) -> None:
    at = ground.at
    with pytest.raises(RouteError, match=rf"add the local route to {at.network}.*is the source .* an address of this"):
        ground.change((at.network,), source=at.outside)
    bad = f"{at.other.partition('/')[0]}/{33 if at.family == 4 else 129}"
    with pytest.raises(RouteError, match=f"local route to {bad}") as caught:
        ground.change((at.network, bad, at.other), source=at.node)
    assert caught.value.errno == 22
    assert ground.read() == {at.network: at.node, at.other: at.node}


def test_more_routes_than_one_send_holds(ground: Ground) -> None:
    at = ground.at
    start = "198.18.{}.{}/32" if at.family == 4 else "fd00:bb::1:{:x}:{:x}/128"
    many = tuple(start.format(number // 250, number % 250 + 1) for number in range(1000))
    ground.change(many, source=at.node)
    assert ground.read() == dict.fromkeys(many, at.node)
    with pytest.raises(RouteError, match=r"and 999 more"):
        ground.change(
            tuple(network.replace("198.18", "198.19").replace("bb", "cc") for network in many), (), at.outside
        )
    ground.change(remove=many)
    assert ground.read() == {}


def test_who_answers_on_the_link_for_the_network(ground: Ground) -> None:
    """IPv4 answers ARP for all of it unless arp_ignore says otherwise; IPv6 answers for no network."""
    at = ground.at
    ground.change((at.network,), source=at.node)
    ground.outside.run("ip", "route", "add", at.network, "dev", "wire")
    ground.outside.sysctl({"net/ipv4/neigh/wire/retrans_time_ms": "100", "net/ipv6/neigh/wire/retrans_time_ms": "100"})
    if at.family == 4:
        assert ground.connect(ground.outside, at.inside) == at.outside
    ground.node.sysctl({"net/ipv4/conf/all/arp_ignore": "1"})
    ground.outside.run("ip", "neighbour", "flush", "dev", "wire")
    with pytest.raises(OSError, match=r"No route to host|timed out"):
        ground.connect(ground.outside, at.inside)


def test_the_namespace_is_that_of_the_thread_that_made_it(ground: Ground) -> None:
    ground.change((ground.at.network,))
    with ground.outside.entered(), contextlib.closing(LocalRoutes()) as elsewhere:
        assert elsewhere.read(ground.at.family) == set()
