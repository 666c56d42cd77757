"""The cluster's objects, as an API server would have stored them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import objects

from pointsman.lab.controlplane import etcd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from objects import Size

    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.controlplane.plane import ControlPlane

_SERVICES: Final = f"/api/v1/namespaces/{objects.NAMESPACE}/services"
_SLICES: Final = f"/apis/discovery.k8s.io/v1/namespaces/{objects.NAMESPACE}/endpointslices"
_STORED: Final = "/registry"


def fill(plane: ControlPlane, size: Size) -> None:
    """Write a cluster into etcd, and wait until the API server tells of all of it."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": objects.NAMESPACE}}
    plane.api.create("/api/v1/namespaces", namespace)
    etcd.put_all(plane.namespace, stored(size))
    for path in (_SERVICES, _SLICES):
        wait_until_listed(plane, path, size.services)


def wait_until_listed(plane: ControlPlane, path: str, count: int) -> None:
    """Wait until the API server's cache holds so many objects of a list."""
    while True:
        page = plane.api.get(path, {"limit": "1", "resourceVersion": "0"})
        if page["metadata"].get("remainingItemCount", 0) + len(page["items"]) >= count:
            return
        time.sleep(0.2)


def set_endpoints(plane: ControlPlane, service: int, endpoints: Sequence[int]) -> None:
    """Write other endpoints into a Service's slice, through the API server as its controller does."""
    written = json.loads(objects.endpoint_slice(service, endpoints))
    plane.api.patch(f"{_SLICES}/{written['metadata']['name']}", {"endpoints": written["endpoints"]})


def stored(size: Size) -> Iterator[tuple[str, Document]]:
    """Make what etcd holds of a cluster, by key."""
    for number in range(size.services):
        service = _plain(objects.service(number))
        # No controller is to put its own endpoints beside ours.
        del service["spec"]["selector"]
        name = service["metadata"]["name"]
        yield f"{_STORED}/services/specs/{objects.NAMESPACE}/{name}", service
        # Without these the API server takes minutes to make them, one by one.
        address = objects.cluster_ip(number)
        yield f"{_STORED}/ipaddresses/{address}", _claim(address, service["metadata"])
        for part in map(_plain, objects.slices_of(number, size.endpoints)):
            yield f"{_STORED}/endpointslices/{objects.NAMESPACE}/{part['metadata']['name']}", part


def _plain(data: bytes) -> Document:
    """Decode an object without what etcd says itself."""
    document: Document = json.loads(data)
    del document["metadata"]["resourceVersion"]
    return document


def _claim(address: str, service: dict[str, Any]) -> Document:
    """Describe whose a cluster IP is."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "uid": service["uid"].replace("5e00", "1b00"),
            "creationTimestamp": service["creationTimestamp"],
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {
            "parentRef": {
                "group": "",
                "resource": "services",
                "namespace": service["namespace"],
                "name": service["name"],
            }
        },
    }
