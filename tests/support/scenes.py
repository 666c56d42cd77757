"""What tests look at on a live cluster: metrics, what agents say of their nodes, what a kernel has counted."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman.lab.controlplane.cluster import POD_CIDR
from pointsman.lab.traffic import Answered, connect, fetch
from pointsman.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.agent import Agent
    from pointsman.lab.controlplane.cluster import LiveCluster, LiveNode
    from pointsman.lab.network import Host

METRICS_PORT = 10249
PATIENCE = 60.0
"""Seconds for what takes two on a machine that has nothing else to do."""

Document = dict[str, Any]


class Kernel(msgspec.Struct, frozen=True):
    """What a table's content cannot hide when it is written anew.

    Attributes:
        table: its handle, which every new table gets.
        connections: how often its maps were asked for a Service's address and port.
    """

    table: int
    connections: int


def kernel(node: LiveNode, address: str, port: int) -> Kernel:
    """Read what a node's kernel says of a cluster IP."""
    listed = msgspec.json.decode(node.host.namespace.run("nft", "-j", "list", "tables"))["nftables"]
    tables = [entry["table"] for entry in listed if "table" in entry]
    services = node.host.namespace.run("nft", "list", "map", "ip", "pointsman", "services")
    counted = re.search(rf"{re.escape(address)} \. tcp \. {port} counter packets (\d+)", services)
    (handle,) = (table["handle"] for table in tables if (table["family"], table["name"]) == ("ip", "pointsman"))
    return Kernel(handle, int(counted[1]) if counted else -1)


def metrics(node: LiveNode) -> dict[str, float]:
    """Scrape a node's agent: value by name and labels."""
    _, body = fetch(node.host, "127.0.0.1", METRICS_PORT, "/metrics")
    lines = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def health(agent: Agent) -> Document:
    """Read an agent's health page, with what it says of the API server; asked again while there is no answer."""
    page: Document = {}

    def has_answered() -> bool:
        page.update(msgspec.json.decode(agent.healthz()[1]))
        return "apiServer" in page

    wait_until(has_answered, "an agent's health page", patience=PATIENCE, pause=0.05)
    return page


def is_connected(agent: Agent) -> bool:
    """Tell whether an agent says that the API server is there."""
    connected: bool = health(agent)["apiServer"]["connected"]
    return connected


def problems(cluster: LiveCluster, node: str) -> list[Document]:
    """Read the problems that an agent tells of in NodeProxy.status."""
    found = cluster.plane.api.find(f"/apis/pointsman.dev/v1alpha1/nodeproxies/{node}") or {}
    told: list[Document] = found.get("status", {}).get("problems", [])
    return told


def full_syncs(node: LiveNode) -> int:
    """Count how often a node's agent has compared everything."""
    return node.agent.daemon.log.read_text("utf-8").count("full sync in ")


def server_of(origin: Host, address: str, port: int) -> str:
    """Connect once; return who answered, or "" when nobody did."""
    outcome = connect(origin, address, port)
    return outcome.server if isinstance(outcome, Answered) else ""


def configuration(cluster: LiveCluster, **spec: object) -> Document:
    """Write the ProxyConfig ``default`` with some fields more than the cluster began with."""
    base = {"podCIDRs": [POD_CIDR], "serviceCIDRs": [cluster.plane.settings.service_cidr]}
    return {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": "default"},
        "spec": base | spec,
    }


def service(name: str, *, namespace: str = "default", **spec: object) -> Document:
    """Write a Service on port 80; without a selector unless one is given."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports, **spec},
    }


def endpoint_slice(name: str, *addresses: str, of: str | None = None, namespace: str = "default") -> Document:
    """Write an EndpointSlice with ready endpoints at port 80.

    Args:
        name: its own.
        addresses: of the endpoints.
        of: the Service's name; None for the slice's own, "" for no label.
        namespace: of both.
    """
    owner = name if of is None else of
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": owner} if owner else {},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


_LISTS = {
    "Service": "/api/v1/namespaces/{}/services",
    "Endpoints": "/api/v1/namespaces/{}/endpoints",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "ServiceCIDR": "/apis/networking.k8s.io/v1/servicecidrs",
}


def list_path(document: Document) -> str:
    """Return the path of the list that an object belongs to."""
    return _LISTS[document["kind"]].format(document["metadata"].get("namespace", ""))


def path(document: Document) -> str:
    """Return the path of an object."""
    return f"{list_path(document)}/{document['metadata']['name']}"


@contextmanager
def made(cluster: LiveCluster, *documents: Document) -> Iterator[list[Document]]:
    """Create objects, yield them as the API server has them, and delete them at the end."""
    api = cluster.plane.api
    try:
        yield [api.create(list_path(document), document) for document in documents]
    finally:
        for document in documents:
            api.delete(path(document))
