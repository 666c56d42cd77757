"""What scheduler and kubelet write, as objects of the API; pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pointsman.lab.controlplane.api import Document
    from pointsman.model.plan import Transport

_DEFAULT_PORT: Final = 80
"""A Pod whose containers name no port is a web server."""


def node(name: str, addresses: Sequence[str], pod_cidrs: Sequence[str], at: str, *, zone: str = "") -> Document:
    """Describe a node that is ready.

    Args:
        name: its name.
        addresses: its own.
        pod_cidrs: addresses of its Pods: one network, or one of each family.
        at: the time, as Kubernetes writes it.
        zone: where it is, for topology hints.
    """
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    if zone:
        labels["topology.kubernetes.io/zone"] = zone
    internal = [{"type": "InternalIP", "address": address} for address in addresses]
    room = {"cpu": "8", "memory": "8Gi", "pods": "250"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {},
        "status": {
            "addresses": [*internal, {"type": "Hostname", "address": name}],
            "capacity": room,
            "allocatable": room,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "a namespace of the lab",
                    "lastHeartbeatTime": at,
                    "lastTransitionTime": at,
                }
            ],
            "nodeInfo": dict.fromkeys(_NODE_INFO, "") | {"kubeletVersion": "lab", "operatingSystem": "linux"},
        },
    }


_NODE_INFO: Final = (
    "architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion",
    "machineID", "operatingSystem", "osImage", "systemUUID",
)  # fmt: skip


def binding(pod: Document, node_name: str) -> Document:
    """Describe where a Pod is to run."""
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node_name},
    }


def running(
    pod: Document, *, host_addresses: Sequence[str], addresses: Sequence[str], ready: bool, at: str
) -> Document:
    """Describe the status of a Pod that runs.

    Args:
        pod: the Pod.
        host_addresses: of its node.
        addresses: its own.
        ready: whether it answers.
        at: the time, as Kubernetes writes it.
    """
    started: str = pod.get("status", {}).get("startTime") or at
    verdict = "True" if ready else "False"
    types = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": verdict, "Ready": verdict}
    return {
        "phase": "Running",
        "startTime": started,
        "hostIP": host_addresses[0],
        "hostIPs": [{"ip": address} for address in host_addresses],
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "conditions": [
            {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": at}
            for kind, status in types.items()
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            }
            for container in pod["spec"]["containers"]
        ],
    }


def ports(pod: Document) -> tuple[tuple[int, Transport], ...]:
    """Return the ports that a Pod's containers say they listen at."""
    found = tuple(
        (port["containerPort"], port.get("protocol", "TCP").lower())
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    )
    return found or ((_DEFAULT_PORT, "tcp"),)


def is_over(pod: Document) -> bool:
    """Tell whether a Pod has run to its end."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def path_of(pod: Document) -> str:
    """Return the path of a Pod."""
    meta: Any = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


class Pool:
    """Addresses of one network; one that was given back comes again as late as possible."""

    def __init__(self, network: str) -> None:
        self._network = ipaddress.ip_network(network)
        self._taken: set[str] = set()
        self._next = self._count()

    def take(self) -> str:
        """Take a free address.

        Raises:
            LookupError: none is left.
        """
        for _ in range(min(self._network.num_addresses, 65536)):
            address = next(self._next)
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise LookupError(f"no address is left of {self._network}")

    def claim(self, address: str) -> None:
        """Take an address that somebody has already."""
        self._taken.add(address)

    def give_back(self, address: str) -> None:
        """Let an address be taken again."""
        self._taken.discard(address)

    def _count(self) -> Iterator[str]:
        last = self._network.num_addresses - 2
        while True:
            for offset in range(2, last):  # the first one is the node's own, as bridges have it
                yield str(self._network[offset])
