"""Services and their endpoints as documents, with the few fields that a test cares about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pointsman.lab.network import Host, family_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.model.plan import Transport

Document = dict[str, Any]
"""An object as a JSON reader gives it."""


def service(
    name: str,
    *ips: str,
    port: int = 80,
    node_port: int = 0,
    protocols: Iterable[Transport] = ("tcp",),
    balancer_ips: Iterable[str] = (),
    external_ips: Iterable[str] = (),
    annotations: Mapping[str, str] | None = None,
    spec: Mapping[str, object] | None = None,
) -> Document:
    """Make a Service with one port for each protocol, named by it.

    Args:
        name: its name, in namespace ``test``.
        ips: its cluster IPs.
        port: its port's number, the same for all protocols.
        node_port: the same for its node port; 0 means none.
        protocols: in lower case.
        balancer_ips: the load balancer's addresses.
        external_ips: its external IPs.
        annotations: on the Service.
        spec: more fields of ``spec``, as the API calls them.
    """
    ingress = [{"ip": ip} for ip in balancer_ips]
    kind = "LoadBalancer" if ingress else "NodePort" if node_port else "ClusterIP"
    common: Document = {"port": port} | ({"nodePort": node_port} if node_port else {})
    fields = {"type": kind, "clusterIP": ips[0], "clusterIPs": list(ips), "externalIPs": list(external_ips)}
    ports = [common | {"name": protocol, "protocol": protocol.upper()} for protocol in protocols]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "test", "name": name, "annotations": dict(annotations or {})},
        "spec": {**fields, "ports": ports, **(spec or {})},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def slices(
    name: str, *pods: Host, port: int = 80, protocols: Iterable[Transport] = ("tcp",)
) -> Iterator[Document]:  # fmt: skip
    """Make the EndpointSlices of a Service in namespace ``test``, one for each family that its pods have."""
    ports = [{"name": protocol, "port": port, "protocol": protocol.upper()} for protocol in protocols]
    for family in sorted({family_of(address) for pod in pods for address in pod.addresses}):
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "test",
                "name": f"{name}-{family}",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{family}",
            "ports": ports,
            "endpoints": [
                {"addresses": [pod.address(family)], "nodeName": pod.hub.name if pod.hub else ""} for pod in pods
            ],
        }
