"""A cluster whose parts go away and come back, while real connections go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Answered, Held, Load, connect
from support.scenes import PATIENCE, is_connected
from support.web import BACK_OFF, PORT, web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from support.web import Web

OUTAGE = 60.0
"""Seconds that the API server is away."""


@pytest.fixture
def outage(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "outage", replicas=3) as made:
        yield made
        if not cluster.plane.api_server.running:
            cluster.plane.start_api_server()


def full_syncs(cluster: LiveCluster) -> dict[str, int]:
    return {
        name: node.agent.daemon.log.read_text("utf-8").count("full sync in ") for name, node in cluster.nodes.items()
    }


def test_backends_die_while_the_api_server_is_away(cluster: LiveCluster, outage: Web) -> None:
    origin = cluster.nodes["node02"].client
    dying, *living = sorted(outage.pods())
    with Held(origin, outage.address, PORT, count=20) as held, Load(origin, outage.address, PORT) as load:
        load.wait(50)
        cluster.plane.kill_api_server()
        away = time.monotonic()
        load.wait(200)
        assert load.spread().failures == []
        for server in cluster.pods.servers_of(dying):
            cluster.servers.stop(server)
        died = time.monotonic()
        while time.monotonic() < away + OUTAGE:
            time.sleep(0.5)
            assert all(node.agent.healthz()[0] == 200 for node in cluster.nodes.values())
        assert not any(is_connected(node.agent) for node in cluster.nodes.values())
        assert set(load.spread(since=died).servers) == set(living), "the rules stay, and the living answer"
        cluster.plane.start_api_server()
        cluster.plane.restart_controllers()
        cluster.pods.set_ready(dying, ready=False)  # as its kubelet would have found long ago
        outage.until_all(set(living), patience=40)
        healed = time.monotonic()
        load.wait(200)
        assert load.spread(since=healed).failures == []
        assert set(held.broken()) <= {dying}
    cluster.wait_until(
        lambda: all(is_connected(node.agent) for node in cluster.nodes.values()),
        "all agents to be connected",
        patience=PATIENCE,
    )


def test_a_compacted_etcd_leads_to_a_new_list_and_to_no_flush(cluster: LiveCluster, outage: Web) -> None:
    plane = cluster.plane
    origin = cluster.nodes["node02"].client
    before = full_syncs(cluster)
    with Held(origin, outage.address, PORT, count=20) as held, Load(origin, outage.address, PORT) as load:
        load.wait(50)
        plane.kill_api_server()
        plane.compact()
        plane.start_api_server()
        outage.scale(4)
        cluster.wait_for_pods("app=outage", 4, patience=BACK_OFF)
        outage.until_all(outage.pods(), patience=BACK_OFF)
        load.wait(50)
        assert held.broken() == []
    assert load.spread().failures == []
    assert full_syncs(cluster) == before, "what is listed anew is compared with what is known"


def test_a_killed_agent_is_replaced_without_a_failed_connection(cluster: LiveCluster, outage: Web) -> None:
    node = cluster.nodes["node02"]
    with Held(node.client, outage.address, PORT, count=20) as held, Load(node.client, outage.address, PORT) as load:
        load.wait(50)
        node.agent.kill()
        load.wait(50)
        node.agent.start()
        node.agent.wait_until_ready()
        load.wait(50)
        assert held.broken() == []
    assert load.spread().failures == []


def test_a_node_comes_and_goes(cluster: LiveCluster) -> None:
    plane, node_proxy = cluster.plane, "/apis/pointsman.dev/v1alpha1/nodeproxies/node03"
    with web(cluster, "moving", replicas=2, node_port=30100) as service:
        node = cluster.add_node("node03")
        try:
            cluster.wait_until(lambda: plane.api.find(node_proxy) is not None, "its NodeProxy", patience=PATIENCE)
            plane.kubectl("wait", "--for=condition=Ready", "npx/node03", f"--timeout={PATIENCE:g}s")
            outcome = connect(cluster.outside, node.host.address(), service.node_port)
            assert isinstance(outcome, Answered)
            service.scale(8)
            cluster.wait_for_pods("app=moving", 8)
            there = {name for name in service.pods() if cluster.pods.host(name).hub is node.host}
            assert there
        finally:
            cluster.remove_node("node03")
        cluster.wait_until(lambda: not service.pods() & there, "its Pods to be gone")
        cluster.wait_for_pods("app=moving", 8)
        service.until_all(service.pods())
        cluster.wait_until(lambda: plane.api.find(node_proxy) is None, "its NodeProxy to be gone", patience=PATIENCE)
