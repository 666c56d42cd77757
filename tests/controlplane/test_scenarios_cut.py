"""Nodes that are cut off from the API server, and nodes that go and come again."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from pointsman.api import crds
from pointsman.lab.controlplane.commands import ADDRESS
from pointsman.lab.traffic import Answered, Held, Load, Refused, TimedOut, connect
from support.scenes import (
    PATIENCE,
    configuration,
    endpoint_slice,
    full_syncs,
    health,
    is_connected,
    kernel,
    made,
    metrics,
    path,
    server_of,
    service,
)
from support.web import BACK_OFF, PORT, Web, web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster, LiveNode

NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"


@pytest.fixture
def running(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "far", replicas=3) as up:
        yield up


@contextmanager
def cut_off(cluster: LiveCluster, node: LiveNode) -> Iterator[None]:
    """Cut a node off from the API server: what is connected breaks, and nothing new comes about."""
    way = ("route", "add", "unreachable", f"{ADDRESS}/32", "metric", "1")
    node.host.namespace.run("ip", *way)
    try:
        cluster.plane.kill_api_server()
        cluster.plane.start_api_server()
        yield
    finally:
        node.host.namespace.run("ip", "route", "del", "unreachable", f"{ADDRESS}/32", "metric", "1")
        if not cluster.plane.api_server.running:
            cluster.plane.start_api_server()


def is_forgotten(cluster: LiveCluster, version: str) -> bool:
    """Tell whether the API server answers a watch from a version with 410."""
    first = next(iter(cluster.plane.api.watch("/api/v1/services", {"resourceVersion": version}, timeout=5)), None)
    return first is not None and first["type"] == "ERROR" and first["object"]["code"] == 410


def notice(cluster: LiveCluster, node: LiveNode, cut_at: float) -> str:
    """Wait until a node's agent says that the API server is away; return since when, as its health page has it."""
    cluster.wait_until(lambda: not is_connected(node.agent), "the outage to be noticed", patience=PATIENCE)
    assert node.agent.healthz()[0] == 200
    assert metrics(node)["pointsman_api_server_up"] == 0
    since: str = health(node.agent)["apiServer"]["since"]
    assert cut_at - 1 < datetime.fromisoformat(since).timestamp() < cut_at + PATIENCE
    return since


def restart_compacted(cluster: LiveCluster, version: str) -> None:
    """Have etcd and the API server forget what was before, a version of Services among it."""
    cluster.plane.kill_api_server()
    cluster.plane.compact()
    cluster.plane.start_api_server()
    assert is_forgotten(cluster, version), "the test is about 410"


def test_what_a_node_missed_arrives_after_410_and_nothing_is_flushed(cluster: LiveCluster, running: Web) -> None:
    """The node's watches are cut, the cluster changes, etcd is compacted: it lists anew, and compares."""
    api, node = cluster.plane.api, cluster.nodes["node01"]
    origin, living = node.client, running.pods()
    piece = endpoint_slice("steady", cluster.pods.host(min(living)).address())
    with made(cluster, service("doomed"), service("steady"), piece) as (doomed, steady, _):
        doomed_at, steady_at = doomed["spec"]["clusterIP"], steady["spec"]["clusterIP"]
        wait_for_outcome(cluster, node, doomed_at, Refused)
        wait_for_outcome(cluster, node, steady_at, Answered)
        with Held(origin, running.address, PORT, count=20) as held, Load(origin, steady_at, 80) as load:
            before, syncs = kernel(node, steady_at, 80), full_syncs(node)
            load.wait(50)
            version, cut_at = api.get("/api/v1/services")["metadata"]["resourceVersion"], time.time()
            with cut_off(cluster, node):
                since = notice(cluster, node, cut_at)
                api.delete(path(doomed))
                running.scale(4)
                cluster.wait_for_pods(f"app={running.name}", 4, patience=BACK_OFF)
                restart_compacted(cluster, version)
                assert server_of(origin, running.address, PORT) in living
                assert isinstance(connect(origin, doomed_at, 80), Refused), "the node cannot know yet"
                assert health(node.agent)["apiServer"]["since"] == since
            took = wait_for_outcome(cluster, node, doomed_at, TimedOut)
            running.until_all(running.pods(), patience=BACK_OFF)
            load.wait(50)
            assert held.broken() == []
        assert load.spread().failures == []
        after = kernel(node, steady_at, 80)
    assert took < 40, "seconds until what it missed is in its kernel"
    assert after.table == before.table
    assert after.connections >= load.spread().answered - 5, "no counter began anew"
    assert full_syncs(node) == syncs
    cluster.wait_until(lambda: is_connected(node.agent), "the node to be connected", patience=PATIENCE)


def wait_for_outcome(cluster: LiveCluster, node: LiveNode, address: str, outcome: type) -> float:
    return cluster.wait_until(
        lambda: isinstance(connect(node.client, address, 80), outcome),
        f"{address} to be {outcome.__name__} on {node.host.name}",
        patience=PATIENCE,
    )


def test_custom_resources_that_are_deleted_and_installed_again(cluster: LiveCluster, running: Web) -> None:
    """With their definitions all ProxyConfigs and NodeProxies go: nodes go on as they were last told to."""
    plane = cluster.plane
    with Load(cluster.nodes["node02"].client, running.address, PORT) as load:
        load.wait(50)
        try:
            plane.kubectl("delete", "crd", "--all", f"--timeout={PATIENCE:g}s")
            running.scale(4)
            cluster.wait_for_pods(f"app={running.name}", 4)
            running.until_all(running.pods(), patience=PATIENCE)
        finally:
            plane.apply(crds.documents())
            plane.wait_for_definitions()
            plane.apply([configuration(cluster)])
        cluster.wait_until(lambda: _ready(cluster) == set(cluster.nodes), "all nodes to report", patience=2 * PATIENCE)
        plane.kubectl("wait", "--for=condition=Ready", "pxc/default", f"--timeout={PATIENCE:g}s")
    assert load.spread().failures == []
    assert all(node.agent.daemon.running for node in cluster.nodes.values())


def _ready(cluster: LiveCluster) -> set[str]:
    """Return the nodes whose agents report that everything is in their kernels."""
    return {
        proxy["metadata"]["name"]
        for proxy in cluster.plane.api.get(NODE_PROXIES)["items"]
        for condition in proxy.get("status", {}).get("conditions", ())
        if (condition["type"], condition["status"]) == ("Ready", "True")
    }


def test_a_node_that_is_replaced_under_its_name(cluster: LiveCluster, running: Web) -> None:
    """Its NodeProxy belongs to the Node of that time, goes with it, and comes again with the new one."""
    api, name = cluster.plane.api, "node09"
    owners = []
    for _ in range(2):
        node = cluster.add_node(name)
        try:
            owner = api.get(f"/api/v1/nodes/{name}")["metadata"]["uid"]
            cluster.wait_until(lambda: owner in _owners(cluster, name), "its NodeProxy", patience=PATIENCE)  # noqa: B023 - called at once
            cluster.plane.kubectl("wait", "--for=condition=Ready", f"npx/{name}", f"--timeout={PATIENCE:g}s")
            owners.append(owner)
            assert running.seen_from(node.client, 3) == running.pods()
        finally:
            cluster.remove_node(name)
        cluster.wait_until(lambda: not _owners(cluster, name), "its NodeProxy to go", patience=PATIENCE)
    assert len(set(owners)) == 2
    assert running.seen_from(cluster.nodes["node01"].client, 3) == running.pods()


def _owners(cluster: LiveCluster, node: str) -> set[str]:
    found = cluster.plane.api.find(f"{NODE_PROXIES}/{node}")
    return {owner["uid"] for owner in found["metadata"].get("ownerReferences", ())} if found else set()
