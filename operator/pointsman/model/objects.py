"""Kubernetes objects, reduced to what a Service proxy needs of them.

All are immutable, hold canonical IP addresses only (see `pointsman.model.address`), and compare by value: an object
that is equal to its predecessor is no change. Reading them from YAML or JSON is `pointsman.model.parse`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pointsman.model.plan import Transport

Kind = Literal[
    "Service", "EndpointSlice", "Endpoints", "Pod", "Node", "ServiceCIDR", "Namespace", "ProxyConfig",
    "NodeProxy",
]  # fmt: skip
AddressFamily = Literal[4, 6, 0]
"""The addressType of a slice: IPv4, IPv6, or 0 for FQDN (ignored by a Service proxy)."""


class ObjectKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """What tells one object from all others."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        """Write the key as people say it: ``Service default/web`` or ``Node node-1``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service; `node_port` is 0 where there is none."""

    port: int
    name: str = ""
    protocol: Transport = "tcp"
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service.

    Attributes:
        cluster_ips: `spec.clusterIPs` (or `spec.clusterIP`), without ``None``.
        load_balancer_ips: `status.loadBalancer.ingress[].ip` whose ipMode is absent or VIP.
        internal_local, external_local: the traffic policy is Local.
        affinity: sessionAffinity ClientIP: its timeout in seconds, else None.
        source_ranges: `spec.loadBalancerSourceRanges`, canonical CIDRs of both families.
        scheduler: annotation ``pointsman.dev/scheduler``, or None.
        scheduler_flags: annotation ``pointsman.dev/scheduler-flags``, sorted, or None; an empty one asks for none.
        ignored: why a Service proxy does not serve it (headless, ExternalName, another proxy's label), or "".
    """

    namespace: str
    name: str
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0
    affinity: int | None = None
    source_ranges: tuple[str, ...] = ()
    scheduler: str | None = None
    scheduler_flags: tuple[str, ...] | None = None
    ignored: str = ""


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """One port of a slice; slices' ports without a number are left out by the parser."""

    port: int
    name: str = ""
    protocol: Transport = "tcp"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One endpoint of a slice.

    Attributes:
        address: the first of `addresses` (consumers use only that one; discovery/v1 EndpointSlice).
        ready, serving, terminating: conditions, with the API's defaults applied.
        node: `nodeName`, or "".
        zone_hints, node_hints: names in `hints.forZones` and `hints.forNodes`.
        pod: name of the Pod in `targetRef` (same namespace), or "".
    """

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()
    pod: str = ""


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice, or one address family of a subset of Endpoints brought into the same form.

    Attributes:
        service: label ``kubernetes.io/service-name``; "" when it has none (it then belongs to no Service).
        weight: annotation ``pointsman.dev/weight`` (0..256), or None.
        trigger_time: annotation ``endpoints.kubernetes.io/last-change-trigger-time`` as Unix seconds, or None.
        ignored: why a Service proxy does not use it, or "".
    """

    namespace: str
    name: str
    service: str
    family: AddressFamily = 4
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    weight: int | None = None
    trigger_time: float | None = None
    ignored: str = ""


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """An Endpoints object; it counts only while no EndpointSlice belongs to the Service of its name."""

    namespace: str
    name: str
    slices: tuple[EndpointSlice, ...] = ()


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A Pod: label or annotation ``pointsman.dev/weight`` (0..256) or None."""

    namespace: str
    name: str
    weight: int | None = None


class Node(msgspec.Struct, frozen=True, gc=False):
    """A Node.

    Attributes:
        labels: all of them (zones, ProxyConfig selectors).
        addresses: InternalIPs, else ExternalIPs, in the order of `status.addresses`.
        pod_cidrs: `spec.podCIDRs` (or `spec.podCIDR`).
        leaving: it has a deletionTimestamp, or the taint ``ToBeDeletedByClusterAutoscaler``.
    """

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    leaving: bool = False


class ServiceCIDR(msgspec.Struct, frozen=True, gc=False):
    """A ServiceCIDR (networking.k8s.io): `spec.cidrs`."""

    name: str
    cidrs: tuple[str, ...] = ()


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A Namespace and its labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
