"""What happens to connections while Pointsman is upgraded, killed and moved about: nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from pointsman.lab.traffic import Held, Load
from support.deployed import is_ready, ready_pods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.containers.cluster import ContainerCluster

    from .conftest import Web

SYSTEM = "pointsman-system"
AGENTS = "app.kubernetes.io/component=agent"
NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"


@contextlib.contextmanager
def no_connection_lost(web: Web, *, held: int = 20) -> Iterator[None]:
    """Connect without pause from a Pod on each node and from outside, and hold connections: none may fail or break."""
    cluster = web.ground.cluster
    node = next(iter(cluster.nodes.values()))
    ways = [*((client, web.address, 80) for client in web.clients.values())]
    ways.append((cluster.outside, node.host.address(), web.node_port))
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(Held(*way, count=held)) for way in ways]
        loads = [stack.enter_context(Load(*way, pause=0.005)) for way in ways]
        for load in loads:
            load.wait(20)
        yield
        for load in loads:
            load.wait(20)
        assert [each.broken() for each in kept] == [[], [], []]
    for load in loads:
        seen = load.spread()
        assert seen.failures == []
        assert seen.answered > 100


def agents(cluster: ContainerCluster) -> dict[str, dict[str, Any]]:
    """Return the agents' Pods by node; one that was just made is on none."""
    return {pod["spec"].get("nodeName", ""): pod for pod in cluster.pods(SYSTEM, AGENTS)}


def wait_until_all_ready(cluster: ContainerCluster) -> None:
    def all_ready() -> bool:
        found = cluster.pods(SYSTEM)
        proxies = cluster.plane.api.get(NODE_PROXIES)["items"]
        return len(found) == 4 and all(is_ready(each) for each in (*found, *proxies))

    cluster.wait_until(all_ready, "all of Pointsman to be ready")


def test_an_upgrade_with_another_value(web: Web) -> None:
    cluster, release = web.ground.cluster, web.ground.release
    assert {pod["metadata"]["name"]: restarts(pod) for pod in cluster.pods(SYSTEM) if restarts(pod)} == {}
    columns(cluster, remove=True)
    before = agents(cluster)
    with no_connection_lost(web):
        release.upgrade({"logFormat": "json", "proxyConfig": {"spec": {"scheduler": "rr"}}})
        wait_until_all_ready(cluster)
    after = agents(cluster)
    assert all(before[node]["metadata"]["uid"] != after[node]["metadata"]["uid"] for node in before)
    assert {proxy["spec"]["scheduler"] for proxy in cluster.plane.api.get(NODE_PROXIES)["items"]} == {"rr"}
    assert columns(cluster)  # a hook brings the CRDs up to date, which Helm by itself never does
    release.upgrade({})
    wait_until_all_ready(cluster)


def columns(cluster: ContainerCluster, *, remove: bool = False) -> list[dict[str, str]]:
    """Return what ``kubectl get npx`` prints, or make a CRD of a former release: one that prints nothing."""
    if remove:
        patch = '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]'
        cluster.plane.kubectl("patch", "crd", "nodeproxies.pointsman.dev", "--type=json", "-p", patch)
    crd = cluster.plane.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodeproxies.pointsman.dev")
    found: list[dict[str, str]] = crd["spec"]["versions"][0].get("additionalPrinterColumns", [])
    return found


def test_an_upgrade_with_another_image(web: Web) -> None:
    cluster, release = web.ground.cluster, web.ground.release
    newer = cluster.images.derived("localhost/pointsman:newer", release.image, "LABEL newer=yes")
    cluster.bring(newer)
    with no_connection_lost(web):
        release.upgrade({}, image=newer)
        wait_until_all_ready(cluster)
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.pods(SYSTEM)} == {newer.name}
    release.upgrade({})
    wait_until_all_ready(cluster)


def test_an_agent_that_is_killed_comes_back(web: Web) -> None:
    """Its container is started again by the kubelet, and finds the rules in force."""
    cluster = web.ground.cluster
    pod = agents(cluster)["node-1"]
    with no_connection_lost(web):
        os.kill(cluster.nodes["node-1"].process(pod["metadata"]["uid"], "agent"), signal.SIGKILL)
        cluster.wait_until(lambda: restarts(agents(cluster)["node-1"]) > restarts(pod), "the agent to be started again")
        wait_until_all_ready(cluster)


def test_an_agents_pod_that_is_deleted_by_force_is_replaced(web: Web) -> None:
    cluster = web.ground.cluster
    before = agents(cluster)["node-2"]["metadata"]
    with no_connection_lost(web):
        cluster.plane.kubectl("-n", SYSTEM, "delete", "pod", before["name"], "--force", "--grace-period=0")
        cluster.wait_until(
            lambda: agents(cluster).get("node-2", {"metadata": before})["metadata"]["uid"] != before["uid"],
            "another Pod of the agent",
        )
        wait_until_all_ready(cluster)


def restarts(pod: dict[str, Any]) -> int:
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", ()))


def test_a_node_is_drained_and_comes_back(web: Web) -> None:
    """Pods move to the other node, the operator's too; the drained node itself goes on proxying."""
    cluster = web.ground.cluster
    kubectl = cluster.plane.kubectl
    try:
        with no_connection_lost(web, held=0):
            # The clients stay: a drain would end the connections that they hold.
            kubectl("drain", "node-2", "--ignore-daemonsets", "--pod-selector=app!=client-node-2", "--timeout=120s")
            cluster.wait_until(lambda: on(cluster, "node-2") == set(), "the Pods to leave the node")
            ready_pods(cluster, "app=web", 4)
            assert set(agents(cluster)) == {"node-1", "node-2"}
    finally:
        kubectl("uncordon", "node-2")
    with no_connection_lost(web, held=0):
        kubectl("rollout", "restart", "deployment/web")
        kubectl("rollout", "status", "deployment/web", "--timeout=120s")
        cluster.wait_until(lambda: on(cluster, "node-2") != set(), "Pods on the node that is back")
    web.pods[:] = ready_pods(cluster, "app=web", 4)
    wait_until_all_ready(cluster)


def on(cluster: ContainerCluster, node: str) -> set[str]:
    return {
        pod["metadata"]["name"] for pod in cluster.pods("default", "app=web") if pod["spec"].get("nodeName") == node
    }
