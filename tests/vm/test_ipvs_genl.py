"""IPVS over generic netlink in a kernel that has it, compared with what ipvsadm(8) says and does."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pointsman.dataplane.ipvs import genl, listing
from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.ipvs.objects import (
    SCHED1,
    SCHED2,
    SCHED3,
    Real,
    Server,
    ServerKey,
    real_line,
    server_line,
)
from pointsman.dataplane.local_routes import LocalRoutes
from pointsman.lab.namespaces import Namespace, create, new_prefix, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pointsman.lab.network import Network
    from pointsman.model.plan import Family

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf")
TCP = ServerKey(4, "10.0.0.1", "tcp", 80)
SIX = ServerKey(6, "fd00::1", "udp", 53)
RR = Server(scheduler="rr", netmask=32)
RR_SIX = Server(scheduler="rr", netmask=128)
REALS = {Real("10.1.0.1", 80): 1, Real("10.1.0.2", 8080): 0, Real("10.1.0.3", 65535): 256}
REALS_SIX = {Real("fd00:1::1", 80): 1, Real("fd00:1::2", 8080): 65535}
PLAN: dict[ServerKey, tuple[Server, dict[Real, int]]] = {
    TCP: (Server(scheduler="sh", flags=SCHED1 | SCHED2, timeout=10800, netmask=32), REALS),
    ServerKey(4, "10.0.0.1", "udp", 80): (Server(scheduler="wrr", flags=SCHED3, timeout=1, netmask=24), REALS),
    ServerKey(4, "10.0.0.1", "sctp", 9): (Server(scheduler="nq", netmask=32), REALS),
    ServerKey(4, "10.0.0.2", "tcp", 80): (RR, {}),
    SIX: (Server(scheduler="mh", flags=SCHED1, timeout=300, netmask=128), REALS_SIX),
    ServerKey(6, "fd00::1", "tcp", 65535): (Server(scheduler="lblcr", timeout=300, netmask=64), REALS_SIX),
    ServerKey(4, "", "tcp", 0, 7): (Server(scheduler="wlc", timeout=60, netmask=16), REALS),
    ServerKey(6, "", "tcp", 0, 7): (Server(scheduler="sed", timeout=60, netmask=127), REALS_SIX),
    ServerKey(4, "", "tcp", 0, 0x7FFFFFFF): (RR, REALS),
}


class Node:
    """A network namespace with nothing but loopback in it, and IPVS there."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        # Before the first address of a namespace the kernel takes every real server's for a broadcast address.
        namespace.run("ip", "link", "set", "lo", "up")
        with namespace.entered():
            self.ipvs = IpvsSocket()

    def saved(self) -> list[str]:
        return sorted(self.namespace.run("ipvsadm", "-Sn").splitlines())

    def listed(self) -> dict[ServerKey, listing.Listed]:
        with self.namespace.entered():
            return listing.read()


@pytest.fixture
def node() -> Iterator[Node]:
    (namespace,) = create([new_prefix() + "ipvs"])
    try:
        made = Node(namespace)
        yield made
        made.ipvs.close()
    finally:
        remove([namespace.name])


def messages(plan: dict[ServerKey, tuple[Server, dict[Real, int]]]) -> list[bytes]:
    made = []
    for key, (server, reals) in plan.items():
        made.append(genl.new_service(key, server))
        made += [genl.new_dest(key, real, weight) for real, weight in reals.items()]
    return made


def lines(plan: dict[ServerKey, tuple[Server, dict[Real, int]]]) -> list[str]:
    made = []
    for key, (server, reals) in plan.items():
        made.append(server_line(key, server))
        made += [real_line(key, real, weight) for real, weight in reals.items()]
    return made


def many(services: int, reals: int) -> dict[ServerKey, tuple[Server, dict[Real, int]]]:
    keys = [ServerKey(4, f"10.{n >> 8}.{n & 255}.1", "tcp", 80) for n in range(services)]
    return {key: (RR, {Real(f"10.200.{n & 255}.{r + 1}", 80): 1 for r in range(reals)}) for n, key in enumerate(keys)}


def test_every_kind_of_server_is_what_ipvsadm_calls_it(node: Node) -> None:
    assert node.ipvs.run(messages(PLAN)) == []
    assert node.saved() == sorted(lines(PLAN))


def test_what_ipvsadm_restores_is_read_as_it_was_meant(node: Node) -> None:
    node.namespace.run("ipvsadm", "--restore", stdin="\n".join(lines(PLAN)) + "\n")
    assert node.ipvs.services() == {key: server for key, (server, _) in PLAN.items()}
    assert node.ipvs.stats() == dict.fromkeys(PLAN, genl.Counters(0, 0, 0, 0, 0))
    for key, (_, reals) in PLAN.items():
        assert {real: seen.weight for real, seen in node.ipvs.dests(key).items()} == reals
    assert node.saved() == sorted(lines(PLAN))


def test_the_listing_says_the_same_as_netlink(node: Node) -> None:
    assert node.listed() == {}
    node.ipvs.run(messages(PLAN))
    assert node.listed() == {
        key: listing.Listed(
            server.scheduler,
            server.timeout,
            server.netmask if server.timeout else None,
            {real: listing.Counts(weight, 0, 0) for real, weight in reals.items()},
        )
        for key, (server, reals) in PLAN.items()
    }


def test_a_virtual_server_is_changed_in_place(node: Node) -> None:
    node.namespace.run("ipvsadm", "-A", "-u", "10.0.0.1:53", "-s", "rr", "--ops", "-p", "9", "-M", "255.255.0.0")
    key = ServerKey(4, "10.0.0.1", "udp", 53)
    assert node.ipvs.services()[key].flags
    node.ipvs.run([genl.new_dest(key, real, weight) for real, weight in REALS.items()])
    for server in (
        Server(scheduler="mh", flags=SCHED1, netmask=32),
        Server(scheduler="mh", flags=SCHED2, timeout=30, netmask=24),
        Server(scheduler="lblc", netmask=32),
    ):
        assert node.ipvs.run([genl.set_service(key, server)]) == []
        assert node.ipvs.services() == {key: server}
        assert {real: seen.weight for real, seen in node.ipvs.dests(key).items()} == REALS
    real = Real("10.1.0.1", 80)
    assert node.ipvs.run([genl.set_dest(key, real, 0), genl.del_dest(key, Real("10.1.0.2", 8080))]) == []
    assert {real: seen.weight for real, seen in node.ipvs.dests(key).items()} == {real: 0, Real("10.1.0.3", 65535): 256}
    assert node.ipvs.run([genl.del_service(key)]) == []
    assert node.saved() == []
    assert node.ipvs.dests(key) == {}


def test_refusals_are_told_by_place_and_the_rest_is_in_force(node: Node) -> None:
    real, other = Real("10.1.0.1", 80), Real("10.1.0.9", 80)
    unknown = Server(scheduler="unknown", netmask=32)
    refused = node.ipvs.run(
        [
            genl.new_service(TCP, RR),
            genl.new_service(TCP, RR),
            genl.new_dest(TCP, real, 1),
            genl.new_dest(TCP, real, 1),
            genl.set_dest(TCP, other, 1),
            genl.del_dest(TCP, other),
            genl.set_service(TCP, unknown),
            genl.new_service(SIX, unknown),
            genl.new_dest(SIX, Real("fd00:1::1", 53), 1),
            genl.set_service(SIX, RR),
            genl.del_service(SIX),
            genl.new_service(SIX, Server(scheduler="rr", netmask=129)),
            genl.new_service(SIX, Server(scheduler="rr", netmask=128)),
        ]
    )
    assert [(refusal.index, errno.errorcode[refusal.error]) for refusal in refused] == [
        (1, "EEXIST"),
        (3, "EEXIST"),
        (4, "ENOENT"),
        (5, "ENOENT"),
        (6, "ENOENT"),
        (7, "ENOENT"),
        (8, "ESRCH"),
        (9, "ESRCH"),
        (10, "ESRCH"),
        (11, "EINVAL"),
    ]
    assert node.saved() == sorted([server_line(TCP, RR), real_line(TCP, real, 1), "-A -u [fd00::1]:53 -s rr"])


def test_thousands_of_messages_and_as_many_refusals(node: Node) -> None:
    plan = many(1000, 10)
    made = messages(plan)
    assert node.ipvs.run(made) == []
    assert node.saved() == sorted(lines(plan))
    assert [(r.index, r.error) for r in node.ipvs.run(made)] == [(n, errno.EEXIST) for n in range(len(made))]
    assert node.ipvs.services() == dict.fromkeys(plan, RR)
    assert {key: set(listed.reals) for key, listed in node.listed().items()} == {
        k: set(r) for k, (_, r) in plan.items()
    }
    assert node.ipvs.run([genl.del_service(key) for key in plan]) == []
    assert node.listed() == {}


def test_the_kernel_is_asked_for_its_schedulers(node: Node) -> None:
    taken = ServerKey(4, "", "tcp", 0, 0x706D0000)
    node.ipvs.run([genl.new_service(taken, RR)])
    assert node.ipvs.schedulers([*SCHEDULERS, "unknown", "rr"]) == (*SCHEDULERS, "rr")
    assert node.ipvs.services() == {taken: RR}


def test_timeouts_are_set_and_zero_leaves_one_alone(node: Node) -> None:
    before = node.ipvs.timeouts()
    node.ipvs.set_timeouts(tcp=7200)
    assert node.ipvs.timeouts() == before._replace(tcp=7200)
    node.ipvs.set_timeouts(tcp_fin=30, udp=60)
    assert node.ipvs.timeouts() == (7200, 30, 60)
    assert "7200 30 60" in node.namespace.run("ipvsadm", "-L", "--timeout")
    with pytest.raises(OSError, match="Invalid argument"):
        node.ipvs.set_timeouts(udp=0x7FFFFFFF)


def test_the_namespace_is_that_of_the_thread_that_made_the_socket(node: Node) -> None:
    node.ipvs.run(messages(PLAN))
    with contextlib.closing(IpvsSocket()) as elsewhere:
        assert not PLAN.keys() & elsewhere.services().keys()
    assert node.ipvs.version().startswith("1.")


class Site(NamedTuple):
    """A node with one virtual server for a network of its own, a client, and a pod that listens."""

    vip: str
    network: str
    key: ServerKey
    server: Server


SITES = {
    4: Site("10.96.0.1", "10.96.0.0/12", ServerKey(4, "10.96.0.1", "tcp", 80), RR),
    6: Site("fd00:96::1", "fd00:96::/112", ServerKey(6, "fd00:96::1", "tcp", 80), RR_SIX),
}


@pytest.mark.parametrize("family", [4, 6])
def test_connections_are_counted(network: Network, family: Family) -> None:
    site = SITES[family]
    node = network.node("node", "172.16.0.1", "fd00:172:16::1")
    pod = network.pod("pod", "192.168.1.1", "fd00:192:168::1", node=node)
    client = network.client("client", "203.0.113.1", "2001:db8:203::1")
    network.build()
    network.route(site.network, via=node)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        with node.namespace.entered():
            ipvs = stack.enter_context(contextlib.closing(IpvsSocket()))
            routes = stack.enter_context(contextlib.closing(LocalRoutes()))
        routes.change(family, [site.network], [], node.address(family))
        listener = stack.enter_context(pod.namespace.socket(kind, socket.SOCK_STREAM))
        listener.bind((pod.address(family), 8080))
        listener.listen()
        real = Real(pod.address(family), 8080)
        assert ipvs.run(messages({site.key: (site.server, {real: 3})})) == []
        for _ in range(5):
            made = stack.enter_context(client.namespace.socket(kind, socket.SOCK_STREAM))
            made.settimeout(10)
            made.connect((site.vip, 80))
            accepted, peer = listener.accept()
            stack.enter_context(accepted)
            assert peer[0] == client.address(family)
            accepted.sendall(b"x")
            assert made.recv(1) == b"x"
        with node.namespace.entered():
            assert listing.read()[site.key].reals == {real: listing.Counts(3, 5, 0)}
        until(lambda: ipvs.stats()[site.key].connections == 5)
        assert ipvs.dests(site.key) == {real: genl.RealCounters(3, active=5, inactive=0, persistent=0, connections=5)}
        counters = ipvs.stats()[site.key]
        assert counters.packets_in > 5
        assert counters.bytes_out > counters.packets_out > 0


def until(done: Callable[[], bool], *, limit: float = 30.0) -> None:
    """Wait until the kernel has added up what it counts, which it does every two seconds."""
    deadline = time.monotonic() + limit
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
