"""The operator's start on a real API server that holds many Services; the objects are written into etcd in bulk."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

import usage
from side_by_side.seed import wait_until_listed

from pointsman.api import crds, permissions
from pointsman.lab.controlplane import documents, etcd
from pointsman.lab.controlplane.cluster import proxy_config
from pointsman.lab.controlplane.operators import NAMESPACE, Operators
from pointsman.lab.controlplane.plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.operators import Operator

_CREATED: Final = "2026-01-01T00:00:00Z"
_NODES: Final = 10
_SETTLE: Final = 5.0
"""Seconds after the start in which all that follows from it is done: NodeProxies, statuses."""
_LISTED: Final = re.compile(r"picture of the cluster is complete after ([\d.]+) s: (\d+) Services")


def start(services: int, endpoints: int) -> dict[str, float]:
    """Start a replica on so many Services with so many endpoints each.

    Returns:
        Seconds from the process's start until it is ready, seconds of CPU until then, MiB of resident memory when
        everything is done, and at the highest.
    """
    with ControlPlane() as plane, contextlib.closing(Operators(plane)) as operators:
        plane.apply([*crds.documents(), *permissions.manifests(NAMESPACE)])
        plane.wait_for_definitions()
        for number in range(_NODES):
            node = documents.node(f"node-{number}", [f"172.16.1.{number}"], [f"192.168.{number}.0/24"], _CREATED)
            plane.api.create("/api/v1/nodes", node)
        plane.apply([proxy_config("default", {})])
        # The controllers would look at every Service, and take the cores that are measured.
        plane.controllers.kill()
        etcd.put_all(plane.namespace, _objects(services, endpoints))
        wait_until_listed(plane, "/api/v1/namespaces/default/services", services + 1)  # the Service `kubernetes`, too
        time.sleep(1)
        operators.start()
        (operator,) = operators.replicas
        operator.stop()
        operator.daemon.log.unlink()
        # A second start: neither the lab's preparations nor the API server's first look at its storage count.
        begun = time.perf_counter()
        operator.start()
        operator.wait_until_ready()
        seconds = time.perf_counter() - begun
        cpu = usage.cpu_seconds(operator.daemon.pid)
        time.sleep(_SETTLE)
        now, highest = usage.memory(operator.daemon.pid)
        _check(operator, services)
    return {"seconds": seconds, "CPU seconds": cpu, "MiB": now, "MiB peak": highest}


def _objects(services: int, endpoints: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(services):
        name = f"web-{number}"
        address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
        yield f"/registry/services/specs/default/{name}", _service(name, number, address)
        yield f"/registry/endpointslices/default/{name}-abcde", _slice(name, number, endpoints)


def _metadata(name: str, number: int, labels: dict[str, str]) -> dict[str, Any]:
    uid = f"00000000-0000-4000-8000-{number:012d}"
    return {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": _CREATED, "labels": labels}


def _service(name: str, number: int, address: str) -> dict[str, Any]:
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
    node_port = {"nodePort": 30000 + number} if number < 1000 else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, number, {"app": name}),
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": name},
            "ports": [{**port, **node_port}],
        },
        "status": {"loadBalancer": {}},
    }


def _slice(name: str, number: int, endpoints: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(f"{name}-abcde", number + 10**6, {"kubernetes.io/service-name": name}),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"192.168.{number % 256}.{each + 1}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{(number + each) % _NODES}",
            }
            for each in range(endpoints)
        ],
    }


def _check(operator: Operator, services: int) -> None:
    said = operator.daemon.log.read_text()
    found = _LISTED.search(said)
    if found is None or int(found[2]) <= services:  # and the Service `kubernetes`
        raise RuntimeError(f"the operator did not see {services} Services:\n{said}")
