"""The example that the project starts from, replayed through a real API server with real packets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab import namespaces, records
from pointsman.lab.controlplane import commands
from pointsman.lab.controlplane.example import MANIFESTS
from pointsman.lab.controlplane.plane import ControlPlane, KubectlError
from pointsman.lab.traffic import Answered, Load, Refused, connect, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from pointsman.lab.network import Host

EXAMPLE = json.loads((Path(__file__).parents[1] / "vectors/founding_example.json").read_bytes())
CLUSTER_IP, PORT = "10.96.200.75", 8080
NODE_PORT = 30000
SELECTOR = "app=nginx"
SERVICE, NODE_PORT_SERVICE = EXAMPLE["objects"]["services"]
REFUSED = EXAMPLE["refused"]


@pytest.fixture(scope="module")
def example(cluster: LiveCluster) -> Iterator[LiveCluster]:
    """The cluster with two replicas and both Services; each test leaves them so."""
    plane = cluster.plane
    plane.kubectl("apply", "-f", str(MANIFESTS / "deployment.yaml"))
    plane.apply([SERVICE, NODE_PORT_SERVICE])
    cluster.wait_for_pods(SELECTOR, 2)
    until_answered(cluster, cluster.nodes["node02"].client)
    yield cluster
    services = (f"service/{service['metadata']['name']}" for service in EXAMPLE["objects"]["services"])
    plane.kubectl("delete", "--ignore-not-found", "deployment/test-nginx", *services)
    cluster.wait_for_pods(SELECTOR, 0)
    with pytest.raises(AssertionError):
        answered(cluster.outside, cluster.nodes["master"].host.address(), NODE_PORT)


def pods(cluster: LiveCluster) -> set[str]:
    found = cluster.plane.api.get("/api/v1/namespaces/default/pods", {"labelSelector": SELECTOR})["items"]
    return {pod["metadata"]["name"] for pod in found}


def until_answered(cluster: LiveCluster, origin: Host, address: str = CLUSTER_IP, port: int = PORT) -> None:
    cluster.wait_until(
        lambda: isinstance(connect(origin, address, port, timeout=0.2), Answered), f"{address}:{port} to answer"
    )


def until_spread_over(cluster: LiveCluster, number: int) -> set[str]:
    """Wait until a pod's connections come to so many Pods, and return their names."""
    origin = cluster.nodes["node02"].client
    seen: list[set[str]] = []

    def spread_out() -> bool:
        seen.append(set(spread(origin, CLUSTER_IP, PORT, count=16 * number, patience=1).servers))
        return len(seen[-1]) == number

    cluster.wait_until(spread_out, f"connections to come to {number} Pods")
    return seen[-1]


def until_answered_by(
    cluster: LiveCluster, names: set[str], origin: Host, address: str = CLUSTER_IP, port: int = PORT
) -> None:
    """Wait until connections come to exactly these Pods: each node hears of a change in its own time."""
    cluster.wait_until(
        lambda: set(spread(origin, address, port, count=40, patience=1).servers) == names,
        f"connections from {origin.name} to {address}:{port} to come to {sorted(names)}",
    )


def answered(origin: Host, address: str, port: int, count: int = 40) -> dict[str, int]:
    """Connect; every connection is answered. Returns how many by whom."""
    seen = spread(origin, address, port, count=count, patience=1)
    assert seen.failures == []
    return dict(seen.servers)


def scale(cluster: LiveCluster, replicas: int) -> None:
    cluster.plane.kubectl("scale", "deployment/test-nginx", f"--replicas={replicas}")


@pytest.mark.parametrize("origin", ["a pod", "master", "node01"])
def test_the_cluster_ip_answers(example: LiveCluster, origin: str) -> None:
    host = example.nodes["node02"].client if origin == "a pod" else example.nodes[origin].host
    until_answered_by(example, pods(example), host)
    assert set(answered(host, CLUSTER_IP, PORT)) == pods(example)


@pytest.mark.parametrize("node", ["master", "node01", "node02"])
def test_the_node_port_answers_on_every_node(example: LiveCluster, node: str) -> None:
    address = example.nodes[node].host.address()
    until_answered_by(example, pods(example), example.outside, address, NODE_PORT)
    assert set(answered(example.outside, address, NODE_PORT)) == pods(example)


def test_a_client_keeps_its_pod(example: LiveCluster) -> None:
    affinity = EXAMPLE["affinity"]
    config = {"clientIP": {"timeoutSeconds": affinity["timeoutSeconds"]}}
    patch_service(example, {"sessionAffinity": affinity["sessionAffinity"], "sessionAffinityConfig": config})
    try:
        clients = [node.client for node in example.nodes.values()]
        example.wait_until(lambda: all(len(answered(c, CLUSTER_IP, PORT)) == 1 for c in clients), "affinity")
        kept = {client.name: set(answered(client, CLUSTER_IP, PORT)) for client in clients}
        assert kept == {client.name: set(answered(client, CLUSTER_IP, PORT)) for client in clients}
    finally:
        patch_service(example, {"sessionAffinity": "None", "sessionAffinityConfig": None})
    until_spread_over(example, 2)


def patch_service(example: LiveCluster, spec: dict[str, Any]) -> None:
    example.plane.api.patch("/api/v1/namespaces/default/services/test-nginx-service", {"spec": spec})


def test_a_node_port_out_of_range_is_refused_by_the_webhook(example: LiveCluster) -> None:
    said = refusal_of(example.plane)
    assert REFUSED["message"] in said
    assert "services.pointsman.dev" not in said, "the words are the API server's own"


def test_a_node_port_out_of_range_is_refused_by_the_api_server(ground: None) -> None:  # noqa: ARG001 - asked for first
    with ControlPlane(commands.Settings(node_port_range=commands.OWN_RANGE)) as plane:
        said = refusal_of(plane)
    assert said == f'The Service "refused" is invalid: {REFUSED["message"]}'


def refusal_of(plane: ControlPlane) -> str:
    """Apply a Service with the node port that is refused, and return what kubectl says."""
    ports = [{"port": PORT, "protocol": "TCP", "targetPort": 80, "nodePort": REFUSED["nodePort"]}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "refused", "namespace": "default"},
        "spec": {"type": "NodePort", "selector": {"app": "nginx"}, "ports": ports},
    }
    with pytest.raises(KubectlError) as refused:
        plane.kubectl("create", "-f", "-", stdin=json.dumps(service))
    return refused.value.said


def test_five_replicas_and_back_without_a_failed_connection(example: LiveCluster) -> None:
    with Load(example.nodes["node02"].client, CLUSTER_IP, PORT) as load:
        scale(example, 5)
        assert until_spread_over(example, 5) == pods(example)
        scale(example, 2)
        example.wait_for_pods(SELECTOR, 2)
        until_spread_over(example, 2)
    assert load.spread().failures == []


def test_no_replica_is_refused_at_once(example: LiveCluster) -> None:
    origins = (example.nodes["node02"].client, example.nodes["master"].host)
    scale(example, 0)
    for origin in origins:
        example.wait_until(lambda: isinstance(connect(origin, CLUSTER_IP, PORT), Refused), "refusal")  # noqa: B023 - called at once
    scale(example, 2)
    example.wait_for_pods(SELECTOR, 2)
    for origin in origins:
        until_answered(example, origin)


def test_a_pod_that_is_not_ready_gets_no_connection(example: LiveCluster) -> None:
    name, *others = sorted(until_spread_over(example, 2))
    origin = example.nodes["node02"].client
    example.pods.set_ready(name, ready=False)
    until_answered_by(example, set(others), origin)
    example.pods.set_ready(name, ready=True)
    until_answered_by(example, {name, *others}, origin)


def test_a_deleted_service_answers_no_more(example: LiveCluster) -> None:
    origin = example.nodes["node02"].client
    example.plane.kubectl("delete", "service/test-nginx-service")
    example.wait_until(
        lambda: not isinstance(connect(origin, CLUSTER_IP, PORT, timeout=0.2), Answered), "the cluster IP to be gone"
    )
    example.plane.apply([SERVICE])
    until_answered(example, origin)


def test_the_cluster_says_that_all_nodes_are_ready(example: LiveCluster) -> None:
    plane = example.plane
    plane.kubectl("wait", "--for=condition=Ready", "pxc,npx", "--all", "--timeout=60s")
    assert "3/3" in plane.kubectl("get", "pxc", "default")
    for node in example.nodes:
        assert "nftables" in plane.kubectl("get", "npx", node)


def test_the_tour_passes_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "pointsman", "lab", "--cluster", "--output", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = process.communicate(timeout=200)
    result = json.loads(out)
    wrong = [step for step in result["steps"] if not step["found"]["good"]]
    assert (process.returncode, wrong, errors) == (0, [], "")
    assert len(result["steps"]) == 13
    assert namespaces.with_prefix(f"pm{process.pid}-") == []
    assert list(records.home().glob(f"pm{process.pid}-*")) == []


def test_a_cluster_that_is_left_up_goes_on_until_it_is_removed() -> None:
    command = [sys.executable, "-m", "pointsman", "lab", "--cluster", "--keep", "--plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    (kept,) = [lab for lab in records.kept() if str(records.home() / lab.prefix) in done.stdout]
    try:
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        words = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["kubectl"]).split()[1:]
        assert "3/3" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
        kubectl = words[0]
        subprocess.run([kubectl, "scale", "deployment/test-nginx", "--replicas=3"], capture_output=True, check=True)
        status = [kubectl, "rollout", "status", "deployment/test-nginx", "--timeout=60s"]
        assert "successfully rolled out" in subprocess.run(status, capture_output=True, text=True, check=True).stdout
        pod = re.findall(r"ip netns exec .*:8080/", done.stdout)[0].split()
        assert '"server":"test-nginx-' in subprocess.run(pod, capture_output=True, text=True, check=True).stdout
    finally:
        records.remove(kept)
    assert namespaces.with_prefix(kept.prefix) == []
    assert not (records.home() / kept.prefix).exists()
