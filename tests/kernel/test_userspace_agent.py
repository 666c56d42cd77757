"""An agent in mode `userspace`: many connections held through it, and no file left for another one."""

from __future__ import annotations

import resource
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.dataplane.channel import NETLINK_NETFILTER, Channel
from pointsman.dataplane.ctnetlink import pack_endpoint, read_entries
from pointsman.lab.agent import HEALTHZ_PORT
from pointsman.lab.traffic import Answered, Held, connect, open_socket
from support.agents import Supervised, seconds_until, server_at, server_now, supervised
from support.manifests import service, slices
from support.promptness import kept, seconds_until_mended

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pointsman.lab.network import Host

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}
DELETED = "kubeproxy_conntrack_reconciler_deleted_entries_total"
CONFIG: dict[str, Any] = {
    "apiVersion": "pointsman.dev/v1alpha1",
    "kind": "ProxyConfig",
    "metadata": {"name": "wanted"},
    "spec": {
        "mode": "userspace",
        "priority": 1,
        "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"],
        "syncPeriod": "500ms",
    },
}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        made.write("web.json", service("web", *VIP.values()), *slices("web", *ground.pods))
        made.write("config.json", CONFIG)
        made.start()
        yield made


def log_of(node: Supervised) -> str:
    return node.log.read_text("utf-8")


def test_a_thousand_connections_go_on_whatever_becomes_of_the_service(node: Supervised) -> None:
    assert node.agent.mode() == "userspace"
    # Less than a second: what is lost and sent again, or refused, counts as failed; a busy machine does not.
    outcomes = [connect(node.ground.client, address, 80, timeout=0.9) for address in VIP.values()]
    assert all(isinstance(outcome, Answered) for outcome in outcomes), outcomes
    with Held(node.ground.client, VIP[4], 80, count=1000) as held:
        assert set(held.servers) == {"web-1", "web-2", "web-3"}
        node.put("web.json", service("web", *VIP.values()), *slices("web", node.ground.pods[0]))
        assert {server_at(node.ground.client, VIP[4]) for _ in range(4)} == {"web-1"}
        assert not held.broken()
        node.put("web.json", {"apiVersion": "v1", "kind": "List", "items": []})
        assert not server_at(node.ground.client, VIP[4])
        assert not held.broken()


def test_udp_clients_are_not_taken_for_stale(node: Supervised) -> None:
    """Each full sync cleans connection tracking up; a client's entry leads to the proxy, which is no backend."""
    node.put(
        "dns.json",
        service("dns", "10.96.0.53", protocols=["udp"]),
        *slices("dns", *node.ground.pods, protocols=["udp"]),
    )
    first = server_at(node.ground.client, "10.96.0.53", protocol="udp", source_port=5353)
    assert first
    syncs = len(node.syncs())
    node.ground.node.namespace.run("nft", "flush set ip pointsman-userspace pod-cidrs")
    seconds_until(lambda: len(node.syncs()) > syncs)
    assert server_at(node.ground.client, "10.96.0.53", protocol="udp", source_port=5353) == first
    deleted = {name: number for name, number in node.metrics().items() if name.startswith(DELETED)}
    assert deleted
    assert not any(deleted.values())


def test_a_client_of_a_service_that_went_while_no_agent_ran_reaches_no_other(node: Supervised) -> None:
    """Its entry of connection tracking leads to a port that the proxy may have opened for somebody else since."""
    client, dns, web = node.ground.client, "10.96.0.53", "10.96.0.54"
    node.put("dns.json", service("dns", dns, protocols=["udp"]), *slices("dns", *node.ground.pods, protocols=["udp"]))
    assert server_at(client, dns, protocol="udp", source_port=5353)
    assert entries_of(node, dns)
    node.agent.kill()
    node.write("dns.json", service("new", web, protocols=["udp"]), *slices("new", *node.ground.pods, protocols=["udp"]))
    node.start()
    assert server_at(client, web, protocol="udp", source_port=5353)
    seconds_until(lambda: not entries_of(node, dns))


def entries_of(node: Supervised, address: str) -> list[bytes]:
    """Return who answers those that send datagrams to an address, as connection tracking has it."""
    with node.ground.node.namespace.entered():
        netlink = Channel(NETLINK_NETFILTER)
    try:
        entries = read_entries(netlink, 4, 80)
        return [entry.answering for entry in entries if entry.destination == pack_endpoint(4, address, 80)]
    finally:
        netlink.close()


def test_after_a_restart_it_serves_with_the_same_rules(node: Supervised) -> None:
    node.agent.kill()
    assert not isinstance(connect(node.ground.client, VIP[4], 80, timeout=0.3), Answered)
    node.start()
    assert node.syncs()[-1] == (0, 0)
    assert all(server_at(node.ground.client, address) for address in VIP.values())


REPAIRS = {
    "all tables are flushed": ["nft flush ruleset"],
    "a map is flushed": ["nft flush map ip pointsman-userspace ports", "nft flush map ip6 pointsman-userspace ports"],
    "a chain's rules are deleted": ["nft flush chain ip pointsman-userspace dispatch"],
}
ROUTES = [f"ip {family} route flush table local proto 113" for family in ("-4", "-6")]


def test_what_others_flush_is_mended_within_a_second_and_a_route_within_the_sync_period(
    node: Supervised, capsys: pytest.CaptureFixture[str]
) -> None:
    took, run = {}, node.ground.node.namespace.run
    node.put("config.json", {**CONFIG, "spec": {**CONFIG["spec"], "syncPeriod": "5m"}})

    def disturb(commands: Iterable[str]) -> None:
        for command in commands:
            run(*command.split())

    def is_mended() -> bool:
        return all(server_now(node.ground.client, address) for address in VIP.values())

    with Held(node.ground.client, VIP[4], 80, count=20) as held:
        for name, commands in REPAIRS.items():
            took[name] = kept(1, partial(seconds_until_mended, partial(disturb, commands), is_mended))
        node.put("config.json", {**CONFIG, "spec": {**CONFIG["spec"], "syncPeriod": "1s"}})
        # The sync period is what is promised; a busy machine gets more.
        took["the routes are deleted"] = kept(4, partial(seconds_until_mended, partial(disturb, ROUTES), is_mended))
        assert not held.broken()
    with capsys.disabled():
        print("\nuserspace: mended after " + ", ".join(f"{what} {s * 1000:.0f} ms" for what, s in took.items()))  # noqa: T201 (a measurement)


def is_answered(origin: Host, address: str, port: int) -> bool:
    """Tell whether anything is said at once over a connection, which the kernel takes also when no program does."""
    with open_socket(origin, address) as sock:
        sock.settimeout(0.3)
        try:
            sock.connect((address, port))
            sock.sendall(b"?\n")
            return bool(sock.recv(1))
        except OSError:
            return False


def test_without_files_new_clients_wait_the_others_lose_nothing_and_it_is_told(node: Supervised) -> None:
    process = node.agent.daemon.pid
    with Held(node.ground.client, VIP[4], 80, count=50) as held:
        limits = resource.prlimit(process, resource.RLIMIT_NOFILE, (64, 4096))
        try:
            assert not is_answered(node.ground.client, VIP[4], 80)
            seconds_until(lambda: "no more connections can be opened: Too many open files" in log_of(node))
            for _ in range(5):
                assert not is_answered(node.ground.node, "127.0.0.1", HEALTHZ_PORT)
            seconds_until(lambda: "out of system resource: Too many open files" in log_of(node))
            assert not held.broken()
        finally:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (min(limits[0], 4096), 4096))
        seconds_until(lambda: bool(server_now(node.ground.client, VIP[4])))
        seconds_until(lambda: "there is room for new connections again" in log_of(node))
        assert not held.broken()
    assert log_of(node).count("out of system resource") == 1, "not once for each try"
    assert "Traceback" not in log_of(node)


def test_the_log_counts_the_connections_that_are_ended_with_a_mode_that_drains(node: Supervised) -> None:
    def leave(drain_timeout: str) -> None:
        spec = {**CONFIG["spec"], "mode": "nftables", "drainTimeout": drain_timeout}
        node.put("config.json", {**CONFIG, "spec": spec})

    with Held(node.ground.client, VIP[4], 80, count=50) as held:
        leave("1h")
        assert not held.broken()
        node.put("config.json", CONFIG)
        assert not held.broken()
        leave("1s")
        seconds_until(lambda: "mode userspace is through; 50 of its connections were ended" in log_of(node))
        assert len(held.broken()) == 50


def test_in_mode_nftables_node_ports_answer_on_loopback_when_they_are_asked_to(node: Supervised) -> None:
    """The mode changes without a restart, and a port that is taken is told of."""
    node.put(
        "port.json", service("port", "10.96.0.7", "fd00:10:96::7", node_port=30080), *slices("port", *node.ground.pods)
    )
    node.put("config.json", {**CONFIG, "spec": {**CONFIG["spec"], "mode": "nftables"}})
    assert node.agent.mode() == "nftables"
    assert not server_at(node.ground.node, "127.0.0.1", 30080)
    spec = {**CONFIG["spec"], "mode": "nftables", "nodePortAddresses": ["primary", "localhost"]}
    node.put("config.json", {**CONFIG, "spec": spec})
    assert server_at(node.ground.node, "127.0.0.1", 30080)
    assert server_at(node.ground.node, "::1", 30080)
    assert server_at(node.ground.client, node.ground.node.address(4), 30080)
    node.ground.servers.start(node.ground.node, 30081, address="127.0.0.1", name="another program")
    node.put("more.json", service("more", "10.96.0.8", node_port=30081), *slices("more", *node.ground.pods))
    seconds_until(lambda: "the proxy can't listen at tcp port 30081 at 127.0.0.1" in log_of(node))
    assert server_at(node.ground.client, node.ground.node.address(4), 30081)
