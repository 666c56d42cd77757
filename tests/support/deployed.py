"""What cluster tests deploy: Pods that answer as the lab's servers do, from Pointsman's own image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.lab.containers.cluster import ContainerCluster

Document = dict[str, Any]


def deployment(name: str, image: str, *, replicas: int, ports: Sequence[str], node: str = "") -> Document:
    """Describe Pods that answer with their names.

    Args:
        name: of the Deployment, and the value of the Pods' label ``app``.
        image: Pointsman's.
        replicas: how many.
        ports: each as ``80/tcp``.
        node: where they run; anywhere, evenly, when empty.
    """
    labels = {"app": name}
    port = int(ports[0].partition("/")[0])
    container = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/opt/pointsman/bin/python", "-m", "pointsman.lab.pod_server", *ports],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    spec = {
        "containers": [container],
        "topologySpreadConstraints": [spread],
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
        "terminationGracePeriodSeconds": 15,
        "automountServiceAccountToken": False,
        # The server listens at port 80 as any user.
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service(name: str, node_port: int, **spec: object) -> Document:
    """Describe a NodePort Service in front of a `deployment` of that name, port 80 for TCP and UDP."""
    ports = [
        {"name": protocol, "port": 80, "protocol": protocol.upper(), "nodePort": node_port}
        for protocol in ("tcp", "udp")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "NodePort", "selector": {"app": name}, "ports": ports, **spec},
    }


def ready_pods(cluster: ContainerCluster, selector: str, count: int) -> list[Document]:
    """Wait until exactly so many Pods match a label selector, all of them ready, and return them.

    Raises:
        LabError: they are not there in time.
    """
    found: list[Document] = []

    def there() -> bool:
        found[:] = cluster.pods("default", selector)
        return len(found) == count and all(is_ready(pod) for pod in found)

    cluster.wait_until(there, f"{count} ready Pods of {selector}")
    return list(found)


def is_ready(document: Document) -> bool:
    """Tell whether a Pod, a Node or a NodeProxy says that it is ready."""
    conditions = document.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
