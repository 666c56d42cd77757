"""Stale UDP entries with real packets: one namespace that is client, node and backends at once.

Its addresses are on loopback; a rule on the output hook translates, as a Service proxy's would.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from pointsman.dataplane.conntrack import Conntrack
from pointsman.dataplane.ctnetlink import delete_entries, read_entries
from pointsman.lab.namespaces import Namespace, create, new_prefix, remove
from pointsman.model.plan import NODE_PORT, Answer, Backend, Family, Frontend, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("nftables", "connection tracking")

PORT = 30053


class Addresses(NamedTuple):
    family: Family
    client: str
    vip: str
    far: str
    one: str
    two: str


FAMILIES = [
    Addresses(4, "192.0.2.1", "203.0.113.10", "203.0.113.99", "192.0.2.11", "192.0.2.12"),
    Addresses(6, "2001:db8::1", "2001:db8:f::10", "2001:db8:f::99", "2001:db8::11", "2001:db8::12"),
]


class Ground:
    """The namespace, its rules, its client sockets, and what the kernel tracks there."""

    def __init__(self, namespace: Namespace, addresses: Addresses) -> None:
        self.namespace = namespace
        self.at = addresses
        self.sockets: list[socket.socket] = []
        with namespace.entered():
            self.conntrack = Conntrack()
        self.servers = {a: self._socket(a, PORT) for a in (addresses.one, addresses.two)}

    def _socket(self, address: str, port: int) -> socket.socket:
        made = self.namespace.socket(socket.AF_INET if self.at.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(2)
        self.sockets.append(made)
        return made

    def client(self, port: int) -> socket.socket:
        return self._socket(self.at.client, port)

    def translate(self, destination: str, backend: str, port: int = PORT) -> None:
        """Send what is new to `destination` to `backend` from now on."""
        ip = "ip" if self.at.family == 4 else "ip6"
        to = backend if self.at.family == 4 else f"[{backend}]"
        match = f"{ip} daddr {destination} udp dport {port}"
        self.namespace.run("nft", f"insert rule inet test output {match} dnat {ip} to {to}:{PORT}")

    def frontend(self, address: str, port: int = PORT) -> Frontend:
        return Frontend(self.at.family, address, "udp", port)

    def answer(self, *addresses: str, weight: int = 1) -> Answer:
        return Answer("default/dns", "random", Pool(tuple(Backend(a, PORT, weight) for a in addresses)))

    def entries(self) -> set[tuple[str, int, str]]:
        """Read destination, port and answering address of all UDP entries with a library of its own."""
        found = set()
        with self.namespace.entered(), NFCTSocket(nfgen_family=self.servers[self.at.one].family) as netlink:
            for entry in netlink.dump():
                sent, back = (entry.get(name) for name in ("CTA_TUPLE_ORIG", "CTA_TUPLE_REPLY"))
                version = "V4" if self.at.family == 4 else "V6"
                found.add((
                    sent.get_nested("CTA_TUPLE_IP", f"CTA_IP_{version}_DST"),
                    sent.get_nested("CTA_TUPLE_PROTO", "CTA_PROTO_DST_PORT"),
                    back.get_nested("CTA_TUPLE_IP", f"CTA_IP_{version}_SRC"),
                ))  # fmt: skip
        return found

    def close(self) -> None:
        self.conntrack.close()
        for made in self.sockets:
            made.close()


@pytest.fixture(params=[FAMILIES[0], pytest.param(FAMILIES[1], marks=pytest.mark.needs("IPv6"))], ids=["IPv4", "IPv6"])
def ground(request: pytest.FixtureRequest, _needs: None) -> Iterator[Ground]:
    at: Addresses = request.param
    (namespace,) = create([new_prefix() + "ct"])
    try:
        namespace.run("ip", "link", "set", "lo", "up")
        for address in (at.client, at.one, at.two):
            # Until duplicates were looked for, it would be no source address.
            namespace.run("ip", "address", "add", address, "dev", "lo", *(["nodad"] if at.family == 6 else []))
        # What nobody translates leaves through a link whose other end drops it.
        namespace.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "void")
        for link in ("out", "void"):
            namespace.run("ip", "link", "set", link, "up")
        for address in (at.vip, at.far):
            namespace.run("ip", "route", "add", address, "dev", "out", "src", at.client)
            namespace.run("ip", "neighbour", "add", address, "lladdr", "02:00:00:00:00:01", "dev", "out")
        namespace.run("nft", "add table inet test; add chain inet test output { type nat hook output priority -100; }")
        namespace.run("nft", "add rule inet test output ct state new counter")  # tracking is on from now on
        made = Ground(namespace, at)
        yield made
        made.close()
    finally:
        remove([namespace.name])


def test_a_client_goes_on_with_the_new_backend_when_its_own_has_gone(ground: Ground) -> None:
    at, client = ground.at, ground.client(4000)
    ground.translate(at.vip, at.one)
    client.sendto(b"first", (at.vip, PORT))
    assert ground.servers[at.one].recv(9) == b"first"
    ground.translate(at.vip, at.two)
    client.sendto(b"stuck", (at.vip, PORT))
    assert ground.servers[at.one].recv(9) == b"stuck"
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer(at.two)}) == 1
    client.sendto(b"free", (at.vip, PORT))
    assert ground.servers[at.two].recv(9) == b"free"
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer(at.two)}) == 0


def test_a_client_that_came_before_the_first_backend_goes_on_with_it(ground: Ground) -> None:
    at, client = ground.at, ground.client(4000)
    client.sendto(b"lost", (at.vip, PORT))
    assert ground.entries() == {(at.vip, PORT, at.vip)}
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer()}) == 0
    ground.translate(at.vip, at.one)
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer(at.one)}) == 1
    client.sendto(b"found", (at.vip, PORT))
    assert ground.servers[at.one].recv(9) == b"found"


@pytest.mark.parametrize("gone", [True, False], ids=["frontend gone", "scaled to zero"])
def test_translated_entries_go_with_the_last_backend(ground: Ground, *, gone: bool) -> None:
    at = ground.at
    ground.client(4000).sendto(b"x", (at.far, PORT))
    ground.translate(at.vip, at.one)
    ground.client(4001).sendto(b"x", (at.vip, PORT))
    now = None if gone else ground.answer()
    assert ground.conntrack.clean({ground.frontend(at.vip): now, ground.frontend(at.far): now}) == 1
    assert ground.entries() == {(at.far, PORT, at.far)}


def test_entries_of_a_draining_backend_stay(ground: Ground) -> None:
    at = ground.at
    ground.translate(at.vip, at.one)
    ground.client(4000).sendto(b"x", (at.vip, PORT))
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer(at.one, weight=0)}) == 0


def test_a_node_port_is_cleaned_at_the_nodes_own_addresses_alone(ground: Ground) -> None:
    at = ground.at
    for number, destination in enumerate((at.vip, at.client)):
        ground.translate(destination, at.one)
        ground.client(4000 + number).sendto(b"x", (destination, PORT))
    ground.client(4002).sendto(b"x", (at.far, PORT))
    assert ground.conntrack.clean({ground.frontend(NODE_PORT): ground.answer(at.two)}) == 1
    assert ground.entries() == {(at.vip, PORT, at.one), (at.far, PORT, at.far)}


def test_many_frontends_at_once(ground: Ground) -> None:
    at = ground.at
    ground.translate(at.vip, at.one)
    for port in range(300):
        ground.client(4000 + port).sendto(b"x", (at.vip, PORT))
    ground.client(5000).sendto(b"x", (at.far, PORT))
    changed = {ground.frontend(at.vip, port): ground.answer(at.two) for port in range(PORT - 50, PORT + 50)}
    assert ground.conntrack.clean(changed) == 300
    assert ground.entries() == {(at.far, PORT, at.far)}


@pytest.mark.parametrize("direction", ["", "original "], ids=["both directions", "original direction"])
def test_entries_in_another_zone(ground: Ground, direction: str) -> None:
    at = ground.at
    ground.namespace.run("nft", "add chain inet test raw { type filter hook output priority -300; }")
    ground.namespace.run("nft", f"add rule inet test raw ct {direction}zone set 7")
    ground.client(4000).sendto(b"x", (at.vip, PORT))
    assert ground.conntrack.clean({ground.frontend(at.vip): ground.answer(at.one)}) == 1
    assert not ground.entries()


def test_other_protocols_and_no_frontends_ask_the_kernel_nothing(ground: Ground) -> None:
    ground.conntrack.close()
    tcp = Frontend(ground.at.family, ground.at.vip, "tcp", PORT)
    assert ground.conntrack.clean({}) == 0
    assert ground.conntrack.clean({tcp: None}) == 0


def test_entries_that_vanished_meanwhile_are_passed_over(ground: Ground) -> None:
    at = ground.at
    ground.client(4000).sendto(b"x", (at.vip, PORT))
    found = list(read_entries(ground.conntrack._netfilter, at.family))
    assert delete_entries(ground.conntrack._netfilter, at.family, found) == 1
    assert delete_entries(ground.conntrack._netfilter, at.family, found * 500) == 0
