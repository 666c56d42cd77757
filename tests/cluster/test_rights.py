"""The rights that the chart grants are enough, and each of them is used: by the API server's own audit log."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.names import GROUP, WEBHOOK_SECRET, WEBHOOK_SERVICE
from pointsman.api.permissions import AGENT, CRDS, OPERATOR, Permissions
from pointsman.controller.admission.bundle import secret_document
from pointsman.controller.admission.certificates import renewed
from pointsman.lab.controlplane.plane import KubectlError
from support.audit import Right, refused, unused
from support.deployed import service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.containers.cluster import ContainerCluster

    from .conftest import Ground, Web

SYSTEM = "pointsman-system"
NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
ELSEWHERE = {
    ("", "services", "get"),  # a refused Service's port was another one's a moment ago
    (GROUP, "nodeproxies", "get"),  # somebody wrote the object in between
    (GROUP, "proxyconfigs", "get"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "create"),  # they had been deleted
}
"""Rights that are used when a race is lost, or in a cluster that was broken: other tests show that."""


def test_each_right_is_used_and_nothing_is_refused(ground: Ground, web: Web) -> None:  # noqa: ARG001 - Services are there
    cluster = ground.cluster
    with cleared(cluster):
        exercise(cluster)
        for permissions in (AGENT, OPERATOR, CRDS):
            wait_until_used(cluster, permissions)
    for permissions in (AGENT, OPERATOR):
        assert not refused(cluster, permissions), permissions.account
    assert not refused(cluster, CRDS, for_good=True)


def wait_until_used(cluster: ContainerCluster, permissions: Permissions) -> None:
    def missing() -> set[Right]:
        return unused(cluster, permissions) - ELSEWHERE

    cluster.wait_until(lambda: not missing(), lambda: f"{permissions.account} to use {sorted(missing())}")


def exercise(cluster: ContainerCluster) -> None:
    """Do what the rarer rights are there for."""
    plane = cluster.plane
    configure(cluster, {"serviceConditions": True})  # conditions on Services
    with pytest.raises(KubectlError, match="not in the valid range"):  # a refusal reads its causes anew
        plane.apply([service("refused", node_port=20)])
    # The webhook spares this namespace: what is wrong there is told by an event.
    plane.apply([service("spared", node_port=21) | {"metadata": {"name": "spared", "namespace": "kube-system"}}])
    hosts = (f"{WEBHOOK_SERVICE}.{SYSTEM}.svc",)
    expired = renewed(None, hosts, dt.datetime.now(dt.UTC) - dt.timedelta(days=400))
    secret = f"/api/v1/namespaces/{SYSTEM}/secrets/{WEBHOOK_SECRET}"
    plane.api.patch(secret, {"data": secret_document(SYSTEM, expired)["data"]})
    with port_taken(cluster, 32100), silent_agent(cluster):
        pass
    # A node that no configuration selects any more loses its NodeProxy after some seconds.
    configure(cluster, {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node-1"}}})
    path = f"{NODE_PROXIES}/node-2"
    cluster.wait_until(lambda: plane.api.find(path) is None, "the NodeProxy of node-2 to go")
    configure(cluster, {"nodeSelector": None})
    cluster.wait_until(lambda: plane.api.find(path) is not None, "the NodeProxy of node-2")
    plane.kubectl("-n", SYSTEM, "rollout", "restart", "deployment/pointsman-operator")  # a Lease is given back
    plane.kubectl("-n", SYSTEM, "rollout", "status", "deployment/pointsman-operator", "--timeout=90s")


@contextlib.contextmanager
def port_taken(cluster: ContainerCluster, port: int) -> Iterator[None]:
    """Have a health check port that cannot be opened, which is told by an event."""
    with cluster.nodes["node-1"].host.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        health = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}
        cluster.plane.apply([service("checked", 30081, **health)])
        cluster.wait_until(lambda: "FailedToStartServiceHealthcheck" in events(cluster), "the event of a taken port")
        yield


@contextlib.contextmanager
def silent_agent(cluster: ContainerCluster) -> Iterator[None]:
    """Stop an agent until the operator says that it is silent; its liveness probe has more patience."""
    pods = cluster.pods(SYSTEM, "app.kubernetes.io/component=agent")
    (pod,) = (pod for pod in pods if pod["spec"]["nodeName"] == "node-2")
    agent = cluster.nodes["node-2"].process(pod["metadata"]["uid"], "agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        said = ("get", "npx", "node-2", "-o", "jsonpath={.status.conditions[*].reason}")
        cluster.wait_until(lambda: "AgentSilent" in cluster.plane.kubectl(*said), "the operator to miss the agent")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # the kubelet may have lost its patience
            os.kill(agent, signal.SIGCONT)


@contextlib.contextmanager
def cleared(cluster: ContainerCluster) -> Iterator[None]:
    """Leave the cluster as it was, whatever happens."""
    try:
        yield
    finally:
        configure(cluster, {"serviceConditions": None, "nodeSelector": None})
        for namespace, name in (("default", "checked"), ("kube-system", "spared")):
            cluster.plane.kubectl("-n", namespace, "delete", "service", name, "--ignore-not-found")


def configure(cluster: ContainerCluster, spec: dict[str, Any]) -> None:
    cluster.plane.kubectl("patch", "pxc", "default", "--type=merge", "-p", json.dumps({"spec": spec}))


def events(cluster: ContainerCluster) -> str:
    return cluster.plane.kubectl("get", "events", "--all-namespaces")
