"""Kubernetes objects as they are written, as far as a Service proxy reads them.

Every field may be absent or null (to Kubernetes that is the same), fields that are not here are skipped unread.
`pointsman.model.convert` turns these into `pointsman.model.objects`; nobody keeps them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import field

PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
SERVICE_LABEL: Final = "kubernetes.io/service-name"
SKIP_MIRROR_LABEL: Final = "endpointslice.kubernetes.io/skip-mirror"
LEADER_ANNOTATION: Final = "control-plane.alpha.kubernetes.io/leader"
TRIGGER_TIME_ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"


class Part(msgspec.Struct, gc=False, rename="camel"):
    """A part of an object."""


class Labels(Part):
    """The labels that matter on Services, EndpointSlices, Endpoints and Pods."""

    proxy_name: str | None = field(default=None, name=PROXY_NAME_LABEL)
    headless: str | None = field(default=None, name=HEADLESS_LABEL)
    service: str | None = field(default=None, name=SERVICE_LABEL)
    skip_mirror: str | None = field(default=None, name=SKIP_MIRROR_LABEL)
    weight: str | None = field(default=None, name="pointsman.dev/weight")


class Annotations(Part):
    """The annotations that matter. The first three are those of `pointsman.api.names`."""

    weight: str | None = field(default=None, name="pointsman.dev/weight")
    scheduler: str | None = field(default=None, name="pointsman.dev/scheduler")
    scheduler_flags: str | None = field(default=None, name="pointsman.dev/scheduler-flags")
    leader: str | None = field(default=None, name=LEADER_ANNOTATION)
    trigger_time: str | None = field(default=None, name=TRIGGER_TIME_ANNOTATION)


class Metadata(Part):
    """`metadata` of everything but Nodes and Namespaces."""

    name: str | None = None
    namespace: str | None = None
    labels: Labels | None = None
    annotations: Annotations | None = None
    resource_version: str | None = None
    uid: str | None = None


class LabelledMetadata(Part):
    """`metadata` of Nodes and Namespaces, of which all labels matter."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    resource_version: str | None = None


class Port(Part):
    """A port of a Service, an EndpointSlice or a subset of Endpoints."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIPConfig(Part):
    """`spec.sessionAffinityConfig.clientIP`."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(Part):
    """`spec.sessionAffinityConfig`."""

    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(Part):
    """`spec` of a Service."""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    ports: list[Port] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_source_ranges: list[str] | None = None


class Ingress(Part):
    """One address of a load balancer."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Part):
    """`status.loadBalancer`."""

    ingress: list[Ingress] | None = None


class ServiceCondition(Part):
    """One of `status.conditions` of a Service."""

    type: str | None = None
    status: str | None = None


class ServiceStatus(Part):
    """`status` of a Service."""

    load_balancer: LoadBalancer | None = None
    conditions: list[ServiceCondition] | None = None


class Conditions(Part):
    """`conditions` of an endpoint."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Part):
    """Something of which only the name matters."""

    name: str | None = None


class Hints(Part):
    """`hints` of an endpoint."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class TargetRef(Part):
    """`targetRef` of an endpoint."""

    kind: str | None = None
    name: str | None = None


class Endpoint(Part):
    """One endpoint of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None
    target_ref: TargetRef | None = None


class SubsetAddress(Part):
    """One address of a subset of Endpoints."""

    ip: str | None = None
    node_name: str | None = None
    target_ref: TargetRef | None = None


class Subset(Part):
    """One subset of Endpoints."""

    addresses: list[SubsetAddress] | None = None
    not_ready_addresses: list[SubsetAddress] | None = None
    ports: list[Port] | None = None


class Taint(Part):
    """One taint of a Node."""

    key: str | None = None


class NodeSpec(Part):
    """`spec` of a Node."""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(Part):
    """One address of a Node."""

    type: str | None = None
    address: str | None = None


class NodeStatus(Part):
    """`status` of a Node."""

    addresses: list[NodeAddress] | None = None


class ServiceCIDRSpec(Part):
    """`spec` of a ServiceCIDR."""

    cidrs: list[str] | None = None


class Service(Part, tag_field="kind", tag="Service"):
    """v1 Service."""

    api_version: str | None = None
    metadata: Metadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class EndpointSlice(Part, tag_field="kind", tag="EndpointSlice"):
    """discovery.k8s.io/v1 EndpointSlice."""

    api_version: str | None = None
    metadata: Metadata | None = None
    address_type: str | None = None
    ports: list[Port] | None = None
    endpoints: list[Endpoint] | None = None


class Endpoints(Part, tag_field="kind", tag="Endpoints"):
    """v1 Endpoints."""

    api_version: str | None = None
    metadata: Metadata | None = None
    subsets: list[Subset] | None = None


class Pod(Part, tag_field="kind", tag="Pod"):
    """v1 Pod."""

    api_version: str | None = None
    metadata: Metadata | None = None


class Node(Part, tag_field="kind", tag="Node"):
    """v1 Node."""

    api_version: str | None = None
    metadata: LabelledMetadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDR(Part, tag_field="kind", tag="ServiceCIDR"):
    """networking.k8s.io/v1 ServiceCIDR."""

    api_version: str | None = None
    metadata: Metadata | None = None
    spec: ServiceCIDRSpec | None = None


class Namespace(Part, tag_field="kind", tag="Namespace"):
    """v1 Namespace."""

    api_version: str | None = None
    metadata: LabelledMetadata | None = None


class ProxyConfig(Part, tag_field="kind", tag="ProxyConfig"):
    """pointsman.dev/v1alpha1 ProxyConfig; `pointsman.api.proxyconfig` reads the rest."""

    api_version: str | None = None
    metadata: Metadata | None = None


class NodeProxy(Part, tag_field="kind", tag="NodeProxy"):
    """pointsman.dev/v1alpha1 NodeProxy; `pointsman.api.nodeproxy` reads the rest."""

    api_version: str | None = None
    metadata: Metadata | None = None


RawObject = Service | EndpointSlice | Endpoints | Pod | Node | ServiceCIDR | Namespace | ProxyConfig | NodeProxy
