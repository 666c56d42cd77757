"""Services: from what is written to `pointsman.model.objects.Service`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.api.names import SCHEDULER_FLAGS_ANNOTATION
from pointsman.api.schedulers import SCHEDULER_FLAGS
from pointsman.model import raw
from pointsman.model.convert import (
    MAX_PORT,
    PORT_REMEDY,
    address_or_none,
    addresses,
    good_name,
    interned,
    networks,
    not_ours,
    port_number,
    protocol_of,
)
from pointsman.model.notes import shown
from pointsman.model.objects import Service, ServicePort

if TYPE_CHECKING:
    from pointsman.model.notes import Notes

DEFAULT_AFFINITY: Final = 10800
MAX_AFFINITY: Final = 86400
NOBODY: Final = ("0.0.0.0/32", "::/128")
"""Source ranges that no client is in: what is left of a list of which every entry was bad. None would mean all."""

_TYPES: Final = ("ClusterIP", "NodePort", "LoadBalancer")
_NO_SPEC: Final = raw.ServiceSpec()


def service(written: raw.Service, namespace: str, name: str, notes: Notes) -> Service:
    """Convert a Service. One that a proxy does not serve is its name and the reason (`ignored`)."""
    spec = written.spec or _NO_SPEC
    metadata = written.metadata or raw.Metadata()
    annotations = metadata.annotations
    kind = _type(spec, notes)
    cluster_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    ignored = not_ours(metadata.labels) or _why_unserved(spec, cluster_ips, notes)
    if ignored:
        return Service(namespace, name, kind, ignored=ignored)
    external_ips = addresses(spec.external_ips, "spec.externalIPs", notes) if spec.external_ips else ()
    external_local = _is_local(spec.external_traffic_policy, "spec.externalTrafficPolicy", notes)
    reaches_out = kind != "ClusterIP" or bool(external_ips)
    checked = kind == "LoadBalancer" and external_local
    return Service(
        namespace=namespace,
        name=name,
        type=kind,
        cluster_ips=addresses(cluster_ips, _cluster_ip_field(spec), notes, any_kind=True),
        external_ips=external_ips,
        load_balancer_ips=_load_balancer_ips(written.status, notes) if written.status else (),
        ports=_ports(spec.ports or (), notes),
        internal_local=_is_local(spec.internal_traffic_policy, "spec.internalTrafficPolicy", notes),
        external_local=external_local and reaches_out,
        health_check_node_port=_node_port(spec.health_check_node_port, "spec.healthCheckNodePort", notes)
        if checked
        else 0,
        affinity=_affinity(spec, notes),
        source_ranges=_source_ranges(spec.load_balancer_source_ranges, notes),
        scheduler=(annotations.scheduler or None) if annotations else None,
        scheduler_flags=_scheduler_flags(annotations.scheduler_flags, notes) if annotations else None,
    )


def _type(spec: raw.ServiceSpec, notes: Notes) -> str:
    kind = spec.type or "ClusterIP"
    if kind in _TYPES or kind == "ExternalName":
        return interned(kind)
    remedy = f"write {', '.join(_TYPES)} or ExternalName"
    notes.note("spec.type", f'"{kind}" is not known', remedy, "this field; ClusterIP is assumed")
    return "ClusterIP"


def _why_unserved(spec: raw.ServiceSpec, cluster_ips: list[str], notes: Notes) -> str:
    if spec.type == "ExternalName":
        return "type ExternalName is answered by DNS alone"
    if "None" in cluster_ips:
        return "it is headless (clusterIP: None)"
    if not cluster_ips:
        remedy = "write an address: only an API server assigns one by itself"
        notes.note("spec.clusterIP", "is missing", remedy, "its frontends")
        return "it has no cluster IP"
    return ""


def _cluster_ip_field(spec: raw.ServiceSpec) -> str:
    return "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"


def _load_balancer_ips(status: raw.ServiceStatus, notes: Notes) -> tuple[str, ...]:
    found: dict[str, None] = {}
    ingress = (status.load_balancer.ingress if status.load_balancer else None) or ()
    for index, entry in enumerate(ingress):
        field = f"status.loadBalancer.ingress[{index}]"
        if not entry.ip or entry.ip_mode == "Proxy":
            continue  # a host name, or a load balancer that wants to see the traffic itself (KEP-1860)
        if entry.ip_mode not in (None, "", "VIP"):
            notes.note(f"{field}.ipMode", f'"{entry.ip_mode}" is not known', "write VIP or Proxy", "this address")
        elif address := address_or_none(entry.ip, f"{field}.ip", notes):
            found[address] = None
    return tuple(found)


def _ports(written: list[raw.Port] | tuple[()], notes: Notes) -> tuple[ServicePort, ...]:
    ports = []
    for index, port in enumerate(written):
        field = f"spec.ports[{index}]"
        protocol = protocol_of(port, field, notes)
        number = port_number(port.port, f"{field}.port", notes)
        if protocol is None or not number or not _good_port_name(port, field, notes):
            continue
        node_port = _node_port(port.node_port, f"{field}.nodePort", notes) if port.node_port else 0
        ports.append(ServicePort(number, interned(port.name), protocol, node_port))
    return tuple(ports)


def _good_port_name(port: raw.Port, field: str, notes: Notes) -> bool:
    if not port.name or good_name(port.name):
        return True
    remedy = "write lower-case letters, digits and dashes"
    notes.note(f"{field}.name", f'"{port.name}" is no port name', remedy, "this port")
    return False


def _node_port(value: int | None, field: str, notes: Notes) -> int:
    if not value or 1 <= value <= MAX_PORT:
        return value or 0
    notes.note(field, f"{value} is no port", PORT_REMEDY, "this node port")
    return 0


def _is_local(policy: str | None, field: str, notes: Notes) -> bool:
    if policy not in (None, "", "Cluster", "Local"):
        notes.note(field, f'"{policy}" is not known', "write Cluster or Local", "this field; Cluster is assumed")
    return policy == "Local"


def _affinity(spec: raw.ServiceSpec, notes: Notes) -> int | None:
    if spec.session_affinity in (None, "", "None"):
        return None
    if spec.session_affinity != "ClientIP":
        message = f'"{spec.session_affinity}" is not known'
        notes.note("spec.sessionAffinity", message, "write None or ClientIP", "this field; None is assumed")
        return None
    config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    seconds = config.timeout_seconds if config else None
    if seconds is None:
        return DEFAULT_AFFINITY
    if 1 <= seconds <= MAX_AFFINITY:
        return seconds
    notes.note(
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        f"{seconds} is out of range",
        f"write a whole number from 1 to {MAX_AFFINITY}",
        f"this field; {DEFAULT_AFFINITY} is assumed",
    )
    return DEFAULT_AFFINITY


def split_flags(written: str) -> tuple[str, ...]:
    """Split what the annotation for scheduler flags holds; sorted, each once."""
    return tuple(sorted({word for part in written.split(",") if (word := part.strip())}))


def _scheduler_flags(written: str | None, notes: Notes) -> tuple[str, ...] | None:
    if written is None:
        return None
    flags = split_flags(written)
    unknown = [flag for flag in flags if flag not in SCHEDULER_FLAGS]
    if unknown:
        field, known = f"metadata.annotations[{SCHEDULER_FLAGS_ANNOTATION}]", ", ".join(SCHEDULER_FLAGS)
        notes.note(field, f"{shown(', '.join(unknown))} is not known", f"write some of {known}", "what is not known")
    return tuple([flag for flag in flags if flag in SCHEDULER_FLAGS])


def _source_ranges(written: list[str] | None, notes: Notes) -> tuple[str, ...]:
    if not written:
        return ()
    return networks(written, "spec.loadBalancerSourceRanges", notes) or NOBODY
