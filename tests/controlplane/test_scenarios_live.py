"""A live cluster under load: configurations that change, numbers and events that tell what was done."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Held, Load, fetch, spread
from support.operated import replace
from support.scenes import PATIENCE, configuration, made, metrics, service
from support.web import PORT, Web, web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster, LiveNode
    from support.scenes import Document

NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
PROGRAMMING = "kubeproxy_network_programming_duration_seconds"
HEALTH_PORT = 31999


@pytest.fixture(scope="module")
def service_in_use(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "in-use", replicas=3) as running:
        yield running


@contextmanager
def unharmed(cluster: LiveCluster, running: Web) -> Iterator[None]:
    """Hold what happens meanwhile to it that no connection fails, and none that was open before ends."""
    origin = cluster.nodes["node02"].client
    with Held(origin, running.address, PORT, count=20) as held, Load(origin, running.address, PORT) as load:
        load.wait(50)
        yield
        load.wait(50)
        assert held.broken() == []
    assert load.spread().failures == []


def chosen(node: LiveNode, running: Web, count: int = 30) -> tuple[int, ...]:
    """Connect from a pod; return how many connections each Pod of the Service got, the most first."""
    seen = spread(node.client, running.address, PORT, count=count)
    return tuple(sorted(seen.servers.values(), reverse=True))


def wait_for_scheduler(cluster: LiveCluster, running: Web, expected: tuple[int, ...]) -> None:
    """Wait until 30 connections from a pod are spread like this, four times on end.

    Random ones are so once in 10,000 at most, each time.
    """
    for name in ("master", "node01"):  # not node02: the load takes its turns there
        found: list[tuple[int, ...]] = []

        def is_so(node: LiveNode = cluster.nodes[name], found: list[tuple[int, ...]] = found) -> bool:
            found[:] = [chosen(node, running) for _ in range(4)]
            return found == [expected] * 4

        def told(name: str = name, found: list[tuple[int, ...]] = found) -> str:
            return f"{expected} connections on {name}; it was {found}"

        cluster.wait_until(is_so, told, patience=PATIENCE)


def wait_until_rolled_out(cluster: LiveCluster, scheduler: str | None) -> None:
    def is_so() -> bool:
        proxies = cluster.plane.api.get(NODE_PROXIES)["items"]
        return len(proxies) == len(cluster.nodes) and all(_is_done(proxy, scheduler) for proxy in proxies)

    cluster.wait_until(is_so, f"all nodes to have scheduler {scheduler}", patience=PATIENCE)


def _is_done(proxy: Document, scheduler: str | None) -> bool:
    status = proxy.get("status", {})
    wanted = proxy["spec"].get("scheduler") == scheduler
    return wanted and status.get("observedGeneration") == proxy["metadata"]["generation"]


def test_an_applied_proxy_config_changes_the_scheduler_without_a_failed_connection(
    cluster: LiveCluster, service_in_use: Web
) -> None:
    before = {name: node.agent.daemon.pid for name, node in cluster.nodes.items()}
    try:
        for scheduler, spread_out in (("rr", (10, 10, 10)), ("sh", (30,))):
            with unharmed(cluster, service_in_use):
                document = json.dumps(configuration(cluster, scheduler=scheduler))
                cluster.plane.kubectl("apply", "-f", "-", stdin=document)
                wait_until_rolled_out(cluster, scheduler)
                wait_for_scheduler(cluster, service_in_use, spread_out)
    finally:
        replace(cluster)
        wait_until_rolled_out(cluster, None)
    assert {name: node.agent.daemon.pid for name, node in cluster.nodes.items()} == before, "none was restarted"


def test_an_annotation_changes_the_scheduler_of_one_service(cluster: LiveCluster, service_in_use: Web) -> None:
    annotate = ("annotate", "--overwrite", f"service/{service_in_use.name}")
    try:
        for scheduler, spread_out in (("rr", (10, 10, 10)), ("sh", (30,))):
            with unharmed(cluster, service_in_use):
                cluster.plane.kubectl(*annotate, f"pointsman.dev/scheduler={scheduler}")
                wait_for_scheduler(cluster, service_in_use, spread_out)
    finally:
        cluster.plane.kubectl(*annotate, "pointsman.dev/scheduler-")
    service_in_use.until_all(service_in_use.pods(), patience=PATIENCE)


def test_a_label_drains_one_pod_and_takes_it_back(cluster: LiveCluster, service_in_use: Web) -> None:
    drained, *others = sorted(service_in_use.pods())
    label = ("label", "--overwrite", f"pod/{drained}")
    try:
        with unharmed(cluster, service_in_use):
            cluster.plane.kubectl(*label, "pointsman.dev/weight=0")
            service_in_use.until_all(set(others), patience=PATIENCE)
    finally:
        cluster.plane.kubectl(*label, "pointsman.dev/weight-")
    service_in_use.until_all({drained, *others}, patience=PATIENCE)


def programming(node: LiveNode) -> tuple[float, float, float]:
    """Return of the programming latencies of IPv4: how many, their sum, and how many above 30 s."""
    found = metrics(node)
    count = found[f'{PROGRAMMING}_count{{ip_family="IPv4"}}']
    slow = count - found[f'{PROGRAMMING}_bucket{{ip_family="IPv4",le="30.0"}}']
    return count, found[f'{PROGRAMMING}_sum{{ip_family="IPv4"}}'], slow


def test_the_time_from_a_change_to_the_kernel_is_measured(cluster: LiveCluster, service_in_use: Web) -> None:
    """The real EndpointSlice controller says when a Pod became ready, in whole seconds."""
    before = {name: programming(node) for name, node in cluster.nodes.items()}
    service_in_use.scale(4)
    cluster.wait_for_pods(f"app={service_in_use.name}", 4)
    took = service_in_use.until_all(service_in_use.pods(), patience=PATIENCE)
    for name, node in cluster.nodes.items():
        count, total, slow = (now - then for now, then in zip(programming(node), before[name], strict=True))
        assert count >= 1
        assert not math.isnan(total)
        assert 0 <= total / count <= took + 5, "seconds from the Pod's readiness to this node's kernel"
        assert slow == 0
    service_in_use.scale(3)
    cluster.wait_for_pods(f"app={service_in_use.name}", 3)
    service_in_use.until_all(service_in_use.pods(), patience=PATIENCE)


def test_a_health_check_port_that_is_taken_is_an_event_and_is_opened_later(cluster: LiveCluster) -> None:
    taken = cluster.servers.start(cluster.nodes["master"].host, HEALTH_PORT)
    spec = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": HEALTH_PORT,
        "allocateLoadBalancerNodePorts": False,  # the API server would choose one that the webhook refuses
    }
    try:
        with made(cluster, service("checked", **spec)):
            cluster.wait_until(lambda: health_check(cluster, "node01") == 503, "node01 to answer", patience=PATIENCE)
            cluster.wait_until(lambda: "master" in events(cluster), "the event of master", patience=PATIENCE)
            said = events(cluster)
            assert "Warning" in said
            assert "service/checked" in said
            assert f"cannot listen on port {HEALTH_PORT}" in said
            assert "node01" not in said
            cluster.servers.stop(taken)
            cluster.wait_until(lambda: health_check(cluster, "master") == 503, "master to answer", patience=PATIENCE)
    finally:
        if taken in tuple(cluster.servers.running()):
            cluster.servers.stop(taken)
    cluster.wait_until(lambda: health_check(cluster, "master") == 0, "the port to be closed", patience=PATIENCE)


def events(cluster: LiveCluster) -> str:
    """Return what `kubectl get events` says of health check ports."""
    return cluster.plane.kubectl("get", "events", "--field-selector=reason=FailedToStartServiceHealthcheck")


def health_check(cluster: LiveCluster, node: str) -> int:
    """Return the status of a node's health check page; 0 when there is none, 200 of the wrong server as 200."""
    try:
        return fetch(cluster.outside, cluster.nodes[node].host.address(), HEALTH_PORT, timeout=1)[0]
    except OSError:
        return 0
