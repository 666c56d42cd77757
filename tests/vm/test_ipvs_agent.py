"""A whole agent in mode `ipvs`: the example that the project starts from, and connections that outlive agents."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Answered, Load, Refused, connect
from support.agents import Supervised, seconds_until, server_at, supervised
from support.manifests import service, slices
from support.mode_changes import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernel.conftest import Ground
    from support.manifests import Document

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(600)]

CLUSTER_IP = {4: "10.96.200.75", 6: "fd00:10:96::75"}
OTHER = "10.96.200.76"
PORT = 30000
PATIENCE = 120.0
"""Seconds; the guest is emulated."""
HELD = 50


def config(**spec: object) -> Document:
    wanted = {"mode": "ipvs", "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"], "syncPeriod": "2s", **spec}
    metadata = {"name": "wanted"}
    return {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": metadata,
        "spec": wanted | {"priority": 1},
    }


def nginx(ground: Ground, *numbers: int) -> list[Document]:
    """Make the example's Service, on some of the pods."""
    pods = [ground.pods[number - 1] for number in numbers]
    return [service("nginx", *CLUSTER_IP.values(), port=8080, node_port=PORT), *slices("nginx", *pods)]


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        made.write("config.json", config())
        made.write("nginx.json", *nginx(ground, 1, 3))
        made.write("other.json", service("other", OTHER), *slices("other", ground.pods[0]))
        yield made


def start(node: Supervised) -> None:
    node.agent.start()
    node.agent.daemon.wait_until(lambda: node.agent.healthz()[0] == 200, "is not ready", patience=PATIENCE)


def saved(node: Supervised) -> list[str]:
    return sorted(node.ground.node.namespace.run("ipvsadm", "-Sn").splitlines())


def seen(node: Supervised, count: int = 6) -> dict[tuple[str, int], set[tuple[str, str]]]:
    """Connect from everybody to every address; return who answered, and whom that one saw."""
    found: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for family, address in CLUSTER_IP.items():
        for origin in (node.ground.pods[1], node.ground.node, node.ground.client):
            at = node.ground.node.address(family)
            for target, port in ((address, 8080), (at, PORT)):
                outcomes = [connect(origin, target, port) for _ in range(count)]
                assert all(isinstance(outcome, Answered) for outcome in outcomes), (origin.name, target, outcomes)
                found[f"{origin.name} to {'node port' if port == PORT else 'cluster IP'}", family] = {
                    (outcome.server, outcome.seen[0]) for outcome in outcomes if isinstance(outcome, Answered)
                }
    return found


def test_the_example_answers_and_connections_outlive_a_killed_agent(node: Supervised) -> None:
    ground = node.ground
    start(node)
    assert node.agent.mode() == "ipvs"
    for (way, family), answers in seen(node).items():
        own, pod = ground.node.address(family), ground.pods[1].address(family)
        whom = pod if way == "web-2 to cluster IP" else own
        assert answers == {("web-1", whom), ("web-3", whom)}, (way, family)
    before = saved(node)
    with (
        Lines(ground.client, CLUSTER_IP[4], 8080, range(20_000, 20_000 + HELD)) as held,
        Lines(ground.client, ground.node.address(6), PORT, range(20_000, 20_000 + HELD)) as held6,
        Lines(ground.client, OTHER, 80, range(21_000, 21_004)) as held_other,
        Load(ground.client, CLUSTER_IP[4], 8080, pause=0.05) as load,
    ):
        assert set(held.servers) == set(held6.servers) == {"web-1", "web-3"}
        node.agent.kill()
        assert server_at(ground.client, ground.node.address(), PORT), "nobody needs an agent to be served"
        # Nothing happened meanwhile: nothing is written.
        start(node)
        assert node.syncs()[-1] == (0, 0)
        assert saved(node) == before
        # An endpoint comes, another one and a whole Service go, while no agent is there to see it.
        node.agent.kill()
        node.write("nginx.json", *nginx(ground, 2, 3))
        node.write("other.json", service("third", "10.96.200.77"), *slices("third", ground.pods[1]))
        start(node)
        assert {server_at(ground.client, CLUSTER_IP[4], 8080) for _ in range(6)} == {"web-2", "web-3"}
        assert isinstance(connect(ground.client, OTHER, 80), Refused)
        assert server_at(ground.client, "10.96.200.77") == "web-2"
        assert (held.alive(), held6.alive(), held_other.alive()) == (HELD, HELD, 4)
        load.wait(10, timeout=PATIENCE)
        listed = "\n".join(saved(node))
        assert f"-a -t {CLUSTER_IP[4]}:8080 -r 192.168.1.1:80 -m -w 0" in listed, "it drains"
        assert f"-t {OTHER}:80" in listed
    assert load.spread().failures == []
    # Their connections have ended, so what drained goes.
    gone = (f"-t {OTHER}:80", "-r 192.168.1.1:80", "-r [fd00:192:168:1::1]:80")
    seconds_until(lambda: not any(word in line for line in saved(node) for word in gone), limit=PATIENCE)
    assert node.agent.mode() == "ipvs"
    assert not re.findall("ERROR|WARNING|Traceback", node.log.read_text("utf-8"))


def is_whole(node: Supervised, servers: list[str]) -> bool:
    """Tell whether servers, routes and sets are there, and serve."""
    run = node.ground.node.namespace.run
    return (
        saved(node) == servers
        and run("ip", "route", "show", "table", "local", "proto", "112") != ""
        and CLUSTER_IP[4] in run("nft", "list", "ruleset")
        and bool(server_at(node.ground.client, CLUSTER_IP[4], 8080))
    )


def test_what_another_program_took_away_comes_back_within_the_sync_period(node: Supervised) -> None:
    start(node)
    before = saved(node)
    namespace = node.ground.node.namespace
    for command in ("ipvsadm -C", "ip route flush table local proto 112", "nft flush ruleset"):
        namespace.run(*command.split())
        seconds_until(lambda: is_whole(node, before), limit=PATIENCE)
    node.agent.stop()
    assert saved(node) == before, "the kernel goes on without the agent"
    namespace.run(sys.executable, "-m", "pointsman", "cleanup")
    assert saved(node) == []
    assert namespace.run("nft", "list", "tables") == ""
    assert namespace.run("ip", "route", "show", "table", "local", "proto", "112") == ""
