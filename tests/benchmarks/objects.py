"""Services and EndpointSlices as an API server would send them, as JSON bytes.

Service number i has endpoints i * n .. i * n + n - 1; every address is its number's own. One endpoint in a hundred
runs on the node that is measured.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

NODE_NAME: Final = "node-0"
NAMESPACE: Final = "shop"

_NODES: Final = 100
_PAGE: Final = 500
"""Objects in one list: as many as client-go asks for at a time."""
_SLICE: Final = 100
"""Endpoints in one slice: the most that the EndpointSlice controller puts into one."""
_ZONES: Final = ("eu-central-1a", "eu-central-1b", "eu-central-1c")
_STAMP: Final = "2026-01-01T00:00:00Z"


class Size(NamedTuple):
    """How many Services, and how many endpoints each."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.services:,} x {self.endpoints}"


def cluster_ip(service: int) -> str:
    """Return the cluster IP of a Service, within 10.96.0.0/12."""
    number = service + 1
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod_ip(endpoint: int) -> str:
    """Return the address of an endpoint, within 10.128.0.0/9."""
    number = endpoint + 1
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def service(number: int) -> bytes:
    """Make a Service with one port, at its `cluster_ip`, port 80."""
    name, address = f"web-{number}", cluster_ip(number)
    return _json(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                **_metadata(name, "5e", number),
                "labels": {"app": name, "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "web-1.2.3"},
                "annotations": {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": NAMESPACE},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": address,
                "clusterIPs": [address],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            },
            "status": {"loadBalancer": {}},
        }
    )


def endpoint_slice(number: int, endpoints: Iterable[int], *, part: int = 0, version: int = 1) -> bytes:
    """Make an EndpointSlice of a Service.

    Args:
        number: the Service.
        endpoints: numbers of its endpoints, at port 8080.
        part: which of the Service's slices it is.
        version: counts its changes.
    """
    name = f"web-{number}"
    return _json(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                **_metadata(f"{name}-{part:05x}", "e5", number, version),
                "generateName": f"{name}-",
                "labels": {
                    "app": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "kubernetes.io/service-name": name,
                },
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": _STAMP},
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "blockOwnerDeletion": True,
                        "controller": True,
                        "kind": "Service",
                        "name": name,
                        "uid": _uid("5e", number),
                    }
                ],
            },
            "addressType": "IPv4",
            "endpoints": [_endpoint(name, endpoint) for endpoint in endpoints],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
    )


def slices_of(number: int, endpoints: int) -> Iterator[bytes]:
    """Make all slices of a Service."""
    first = number * endpoints
    for part, start in enumerate(range(first, first + endpoints, _SLICE)):
        yield endpoint_slice(number, range(start, min(start + _SLICE, first + endpoints)), part=part)


def objects(size: Size) -> Iterator[bytes]:
    """Make all objects of a cluster."""
    for number in range(size.services):
        yield service(number)
        yield from slices_of(number, size.endpoints)


def write_manifests(directory: Path, size: Size) -> None:
    """Write a cluster into files, each a page of a list as the API server sends it."""
    services = (service(number) for number in range(size.services))
    slices = (part for number in range(size.services) for part in slices_of(number, size.endpoints))
    _write_pages(directory, "Service", "v1", services)
    _write_pages(directory, "EndpointSlice", "discovery.k8s.io/v1", slices)


def _write_pages(directory: Path, kind: str, version: str, items: Iterator[bytes]) -> None:
    head = f'{{"apiVersion":"{version}","kind":"{kind}List","metadata":{{"resourceVersion":"1"}},"items":['.encode()
    page, number = _take(items), 0
    while page:
        (directory / f"{kind.lower()}s-{number:04}.json").write_bytes(head + b",".join(page) + b"]}")
        page, number = _take(items), number + 1


def _take(items: Iterator[bytes]) -> list[bytes]:
    return list(itertools.islice(items, _PAGE))


def _endpoint(name: str, number: int) -> dict[str, object]:
    return {
        "addresses": [pod_ip(number)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{number % _NODES}",
        "targetRef": {
            "kind": "Pod",
            "namespace": NAMESPACE,
            "name": f"{name}-6d4b75cb6d-{number:06x}",
            "uid": _uid("90", number),
        },
        "zone": _ZONES[number % len(_ZONES)],
    }


def _metadata(name: str, kind: str, number: int, version: int = 1) -> dict[str, object]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": _uid(kind, number),
        "resourceVersion": str(1_000_000 + number + version),
        "generation": version,
        "creationTimestamp": _STAMP,
    }


def _uid(kind: str, number: int) -> str:
    return f"{number:08x}-{kind}00-4000-8000-0123456789ab"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
