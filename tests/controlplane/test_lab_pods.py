"""The stand-in for scheduler and kubelets, under the real controllers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.pods import Pods, now
from pointsman.lab.servers import Servers
from pointsman.lab.traffic import Answered, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pointsman.lab.controlplane.plane import ControlPlane
    from pointsman.lab.network import Host

NAMESPACE = "lab-pods"
PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture(scope="module")
def nodes(control_plane: ControlPlane) -> Iterator[dict[str, Host]]:
    network = control_plane.network
    hosts = {name: network.node(name, f"172.16.9.{number}") for number, name in enumerate(("pods-a", "pods-b"), 1)}
    network.build()
    for number, host in enumerate(hosts.values(), 1):
        document = documents.node(host.name, host.addresses, (f"192.168.{90 + number}.0/24",), now())
        control_plane.api.create("/api/v1/nodes", document)
        control_plane.api.patch(f"/api/v1/nodes/{host.name}", {"spec": {"taints": None}})
    yield hosts
    for host in hosts.values():
        network.remove(host)
        control_plane.api.delete(f"/api/v1/nodes/{host.name}")


@pytest.fixture
def pods(request: pytest.FixtureRequest, control_plane: ControlPlane, nodes: dict[str, Host]) -> Iterator[Pods]:
    """Who runs Pods; a parameter says how many seconds a deleted one serves on."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    control_plane.apply([namespace])
    control_plane.wait_for_service_account(NAMESPACE, "default")
    with Servers() as servers:
        made = Pods(control_plane.api, control_plane.network, servers, linger=getattr(request, "param", 0.3))
        for number, host in enumerate(nodes.values(), 1):
            made.add_node(host, (f"192.168.{90 + number}.0/24",))
        made.start()
        yield made
        control_plane.kubectl("delete", "deployment,service,pod", "--all", "-n", NAMESPACE)
        until(lambda: not listed(control_plane))
        made.close()
        assert made.failures == []


def deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    container = {"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


def listed(control_plane: ControlPlane) -> dict[str, documents.Document]:
    return {pod["metadata"]["name"]: pod for pod in control_plane.api.get(PATH)["items"]}


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rolled_out(control_plane: ControlPlane) -> None:
    control_plane.kubectl("rollout", "status", "deployment/web", "-n", NAMESPACE, "--timeout=60s")


def endpoints(control_plane: ControlPlane) -> dict[str, bool]:
    """The addresses of the Service's slices, and whether they are ready."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    slices = control_plane.api.get(path)["items"]
    return {e["addresses"][0]: e["conditions"]["ready"] for piece in slices for e in piece["endpoints"] or ()}


def test_a_deployment_runs_on_all_nodes_and_has_endpoints(
    control_plane: ControlPlane, pods: Pods, nodes: dict[str, Host]
) -> None:
    control_plane.apply([deployment(4), SERVICE])
    rolled_out(control_plane)
    found = listed(control_plane)
    assert sorted(pod["spec"]["nodeName"] for pod in found.values()) == ["pods-a", "pods-a", "pods-b", "pods-b"]
    until(lambda: len(endpoints(control_plane)) == 4)
    for name, pod in found.items():
        outcome = connect(nodes["pods-a"], pod["status"]["podIP"], 8080)
        assert isinstance(outcome, Answered)
        assert outcome.server == name == pods.servers_of(name, NAMESPACE)[0].name


def test_readiness_is_taken_and_given_back(control_plane: ControlPlane, pods: Pods) -> None:
    control_plane.apply([deployment(1), SERVICE])
    rolled_out(control_plane)
    ((name, pod),) = listed(control_plane).items()
    address = pod["status"]["podIP"]
    for ready in (False, True):
        pods.set_ready(name, ready=ready, namespace=NAMESPACE)
        until(lambda: endpoints(control_plane) == {address: ready})  # noqa: B023 - called at once


@pytest.mark.parametrize("pods", [8.0], indirect=True)
def test_a_deleted_pod_serves_on_for_a_moment(control_plane: ControlPlane, pods: Pods, nodes: dict[str, Host]) -> None:
    control_plane.apply([deployment(1), SERVICE])
    rolled_out(control_plane)
    ((_, pod),) = listed(control_plane).items()
    host = pods.host(pod["metadata"]["name"], NAMESPACE)
    control_plane.kubectl("scale", "deployment/web", "--replicas=0", "-n", NAMESPACE)
    until(lambda: endpoints(control_plane).get(pod["status"]["podIP"]) is not True)
    assert isinstance(connect(nodes["pods-b"], host.address(), 8080), Answered)
    until(lambda: not listed(control_plane))
    assert host.name not in control_plane.network.hosts


def test_it_goes_on_when_the_api_server_is_back(control_plane: ControlPlane, pods: Pods) -> None:
    control_plane.apply([deployment(2)])
    rolled_out(control_plane)
    control_plane.kill_api_server()
    control_plane.start_api_server()
    control_plane.restart_controllers()  # they would back off for up to half a minute
    control_plane.kubectl("scale", "deployment/web", "--replicas=3", "-n", NAMESPACE)
    rolled_out(control_plane)
    assert len(listed(control_plane)) == 3
    assert pods.failures == []


def test_pods_of_other_nodes_are_left_alone(control_plane: ControlPlane, pods: Pods) -> None:
    body = {"metadata": {"name": "far"}, "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]}}
    control_plane.api.create(PATH, body)
    control_plane.apply([deployment(1)])
    rolled_out(control_plane)
    assert listed(control_plane)["far"]["status"]["phase"] == "Pending"
    control_plane.api.delete(f"{PATH}/far", {"gracePeriodSeconds": 0})
    assert pods.failures == []
