"""What can be done with a lab that stays up: pairs of what it is for, and what to type."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from pointsman.model.address import joined
from pointsman.model.objects import EndpointSlice, Service

if TYPE_CHECKING:
    from pointsman.lab.cluster import Cluster
    from pointsman.lab.controlplane.cluster import LiveCluster
    from pointsman.lab.network import Host

Hint = tuple[str, str]


def of_manifests(cluster: Cluster, *, inside: bool) -> list[Hint]:
    """Say how to look around in a cluster that follows manifests.

    Args:
        cluster: the cluster.
        inside: it is in namespaces of a plain user's own, which have to be entered first.
    """
    node = next(iter(cluster.nodes.values()))
    pod = next(iter(cluster.client_pods.values()))
    return [
        *_enter(node, inside=inside),
        ("its namespaces", f"ls /run/netns/{cluster.network.prefix}*"),
        *_of_node(node, inside=inside),
        ("a pod connects", _at(pod, f"curl -s http://{_example(cluster)}/", inside=inside)),
        ("change the objects", f"in {cluster.manifests}"),
        ("logs of the agents", str(cluster.files / "logs")),
        ("remove it", f"{_program()} lab --remove"),
    ]


def of_control_plane(cluster: LiveCluster, service: str, *, inside: bool) -> list[Hint]:
    """Say how to look around in a cluster with an API server.

    Args:
        cluster: the cluster.
        service: address and port of a Service that answers.
        inside: as above.
    """
    node = next(iter(cluster.nodes.values()))
    files = cluster.plane.files
    return [
        *_enter(node.host, inside=inside),
        ("kubectl", f"{files / 'kubectl'} get pxc,npx,pods,services -o wide"),
        ("its namespaces", f"ls /run/netns/{cluster.plane.network.prefix}*"),
        *_of_node(node.host, inside=inside),
        ("a pod connects", _at(node.client, f"curl -s http://{service}/", inside=inside)),
        ("logs of all programs", str(files / "logs")),
        ("remove it", f"{_program()} lab --remove"),
    ]


def _program() -> str:
    """Say how to run this program from anywhere: it need not be in the PATH, as in a clone's virtual environment."""
    return f"{shlex.quote(os.path.abspath(sys.executable))} -m pointsman"  # noqa: PTH100 (a link to Python stays one)


def _enter(node: Host, *, inside: bool) -> list[Hint]:
    if not inside:
        return []
    return [("first enter it", f"nsenter --preserve-credentials -U -m -n -t {node.namespace.processes()[0]}")]


def _of_node(node: Host, *, inside: bool) -> list[Hint]:
    return [
        ("rules of a node", _at(node, "nft list table ip pointsman", inside=inside)),
        ("health of its agent", _at(node, "curl -s http://127.0.0.1:10256/healthz", inside=inside)),
    ]


def _at(host: Host, what: str, *, inside: bool) -> str:
    name = host.namespace.name
    return f"nsenter --net=/run/netns/{name} {what}" if inside else f"ip netns exec {name} {what}"


def _example(cluster: Cluster) -> str:
    """Find a cluster IP and port that answer."""
    slices = [obj for obj in cluster.objects if isinstance(obj, EndpointSlice) and obj.endpoints]
    served = {(piece.namespace, piece.service) for piece in slices}
    for obj in cluster.objects:
        if isinstance(obj, Service) and (obj.namespace, obj.name) in served and obj.cluster_ips and obj.ports:
            return joined(obj.cluster_ips[0], obj.ports[0].port)
    return "CLUSTER-IP:PORT"
