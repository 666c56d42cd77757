"""A Deployment of web servers behind a Service, on a live cluster."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pointsman.lab.traffic import Answered, connect, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from pointsman.lab.network import Host

PORT = 8080
BACK_OFF = 90.0
"""Seconds for what controllers have to do: those that found no API server ask again after up to a minute only."""


class Web:
    """Pods with the label ``app: NAME``, and the Service NAME over them.

    Attributes:
        cluster: where it is.
        name: of Deployment and Service.
        address: the Service's cluster IP.
        node_port: the Service's node port; 0 for none.
    """

    def __init__(self, cluster: LiveCluster, name: str, *, node_port: int = 0) -> None:
        self.cluster = cluster
        self.name = name
        self.node_port = node_port
        self.address = ""

    def apply(self, replicas: int) -> None:
        """Make both, and wait until the Service answers everywhere with every Pod."""
        self.cluster.plane.apply([self._deployment(replicas), self._service()])
        path = f"/api/v1/namespaces/default/services/{self.name}"
        self.address = self.cluster.plane.api.get(path)["spec"]["clusterIP"]
        self.cluster.wait_for_pods(f"app={self.name}", replicas)
        self.until_all(self.pods())

    def delete(self) -> None:
        """Delete both, and wait until the Pods are gone; see `BACK_OFF`."""
        plane = self.cluster.plane
        plane.kubectl("delete", "--ignore-not-found", f"deployment/{self.name}", f"service/{self.name}")
        self.cluster.wait_for_pods(f"app={self.name}", 0, patience=BACK_OFF)

    def scale(self, replicas: int) -> None:
        """Ask for so many Pods."""
        self.cluster.plane.kubectl("scale", f"deployment/{self.name}", f"--replicas={replicas}")

    def pods(self) -> set[str]:
        """Return the names of the Pods."""
        query = {"labelSelector": f"app={self.name}"}
        return {pod["metadata"]["name"] for pod in self.cluster.plane.api.get("/api/v1/pods", query)["items"]}

    def answers(self, origin: Host) -> bool:
        """Tell whether one connection is answered."""
        return isinstance(connect(origin, self.address, PORT, timeout=0.3), Answered)

    def seen_from(self, origin: Host, number: int) -> set[str]:
        """Connect many times and return who answered; "" stands for nobody."""
        seen = spread(origin, self.address, PORT, count=16 * number, patience=1)
        return set(seen.servers) | ({""} if seen.failures else set())

    def until_all(self, names: set[str], *, patience: float = 20.0) -> float:
        """Wait until connections from a pod of each node come to exactly these Pods; returns the seconds."""

        def reached() -> bool:
            return all(self.seen_from(node.client, len(names)) == names for node in self.cluster.nodes.values())

        return self.cluster.wait_until(reached, f"connections to come to {sorted(names)} alone", patience=patience)

    def _deployment(self, replicas: int) -> dict[str, Any]:
        labels = {"app": self.name}
        container = {"name": "web", "image": "web", "ports": [{"containerPort": 80}]}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }

    def _service(self) -> dict[str, Any]:
        port: dict[str, Any] = {"port": PORT, "targetPort": 80}
        if self.node_port:
            port["nodePort"] = self.node_port
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "type": "NodePort" if self.node_port else "ClusterIP",
                "selector": {"app": self.name},
                "ports": [port],
            },
        }


@contextmanager
def web(cluster: LiveCluster, name: str, *, replicas: int, node_port: int = 0) -> Iterator[Web]:
    """Make a Deployment and its Service, and delete them at the end."""
    made = Web(cluster, name, node_port=node_port)
    try:
        made.apply(replicas)
        yield made
    finally:
        made.delete()
