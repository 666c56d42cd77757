"""The rights that the chart grants are enough, and each of them is used: by the API server's own audit log."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.permissions import AGENT, CRDS, OPERATOR, Permissions
from pointsman.lab.controlplane.plane import KubectlError
from support.deployed import service

if TYPE_CHECKING:
    from pointsman.lab.containers.cluster import ContainerCluster

    from .conftest import Ground, Web

SYSTEM = "pointsman-system"
Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""


def asked(cluster: ContainerCluster, account: str) -> list[dict[str, Any]]:
    """Return what an account has asked the API server for, whole lines of the log alone."""
    text = (cluster.plane.files / "logs/audit.log").read_text()
    entries = [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
    user = f"system:serviceaccount:{SYSTEM}:{account}"
    return [entry for entry in entries if entry["user"]["username"] == user and "objectRef" in entry]


def rights(entry: dict[str, Any]) -> set[Right]:
    """Return what a request needs the right for.

    An API server that can send its lists by a watch is asked so, and one that cannot is asked for both: who may watch
    has to be able to list.
    """
    ref = entry["objectRef"]
    resource = "/".join(part for part in (ref["resource"], ref.get("subresource")) if part)
    verbs = {entry["verb"]} | ({"list"} if entry["verb"] == "watch" else set())
    return {(ref.get("apiGroup", ""), resource, verb) for verb in verbs}


def granted(permissions: Permissions) -> set[Right]:
    rules = (*permissions.cluster, *permissions.namespaced)
    return {(rule.group, resource, verb) for rule in rules for resource in rule.resources for verb in rule.verbs}


def test_each_right_is_used_and_nothing_is_refused(ground: Ground, web: Web) -> None:  # noqa: ARG001 (Services are there)
    cluster = ground.cluster
    exercise(cluster)
    for permissions in (AGENT, OPERATOR, CRDS):

        def unused(permissions: Permissions = permissions) -> set[Right]:
            return granted(permissions).difference(*map(rights, asked(cluster, permissions.account)))

        cluster.wait_until(lambda: not unused(), lambda: f"{permissions.account} to use {sorted(unused())}")  # noqa: B023
        forbidden = {
            (entry["verb"], entry["requestURI"])
            for entry in asked(cluster, permissions.account)
            if entry["annotations"]["authorization.k8s.io/decision"] == "forbid"
        }
        assert not forbidden, permissions.account
    cleared(cluster)


def exercise(cluster: ContainerCluster) -> None:
    """Do what the rarer rights are there for."""
    configure(cluster, {"serviceConditions": True})  # conditions on Services
    with pytest.raises(KubectlError, match="not in the valid range"):  # a refusal reads its causes anew
        cluster.plane.apply([service("refused", node_port=20)])
    # A health check port that cannot be opened is told by an event.
    taken = next(iter(cluster.nodes.values())).host.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    with taken:
        taken.bind(("0.0.0.0", 32100))
        taken.listen()
        health = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100}
        cluster.plane.apply([service("checked", 30081, **health)])
        cluster.wait_until(
            lambda: "FailedToStartServiceHealthcheck" in events(cluster), "the event of a port that is taken"
        )
    # A node that no configuration selects any more loses its NodeProxy after some seconds.
    configure(cluster, {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node-1"}}})
    path = "/apis/pointsman.dev/v1alpha1/nodeproxies/node-2"
    cluster.wait_until(lambda: cluster.plane.api.find(path) is None, "the NodeProxy of node-2 to go")
    configure(cluster, {"nodeSelector": None})
    cluster.wait_until(lambda: cluster.plane.api.find(path) is not None, "the NodeProxy of node-2")


def cleared(cluster: ContainerCluster) -> None:
    configure(cluster, {"serviceConditions": None})
    cluster.plane.kubectl("delete", "service/checked")


def configure(cluster: ContainerCluster, spec: dict[str, Any]) -> None:
    cluster.plane.kubectl("patch", "pxc", "default", "--type=merge", "-p", json.dumps({"spec": spec}))


def events(cluster: ContainerCluster) -> str:
    return cluster.plane.kubectl("get", "events", "--all-namespaces")
