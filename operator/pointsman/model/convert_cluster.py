"""Nodes, Namespaces, Pods and ServiceCIDRs: from what is written to `pointsman.model.objects`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.model.convert import addresses, interned, networks, pod_weight_of
from pointsman.model.objects import Namespace, Node, Pod, ServiceCIDR

if TYPE_CHECKING:
    from pointsman.model import raw
    from pointsman.model.notes import Notes

AUTOSCALER_TAINT: Final = "ToBeDeletedByClusterAutoscaler"
NAME_LABEL: Final = "kubernetes.io/metadata.name"


def node(written: raw.Node, _namespace: str, name: str, notes: Notes) -> Node:
    """Convert a Node."""
    spec, metadata = written.spec, written.metadata
    pod_cidrs = (spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])) if spec else []
    tainted = any(taint.key == AUTOSCALER_TAINT for taint in (spec.taints if spec else None) or ())
    return Node(
        name=name,
        labels=_labels(metadata),
        addresses=_node_addresses(written.status, notes),
        pod_cidrs=networks(pod_cidrs, "spec.podCIDRs", notes),
        leaving=tainted or (metadata is not None and metadata.deletion_timestamp is not None),
    )


def namespace(written: raw.Namespace, _namespace: str, name: str, _notes: Notes) -> Namespace:
    """Convert a Namespace; it always has the label that the API server sets by itself."""
    return Namespace(name, _labels(written.metadata, **{NAME_LABEL: name}))


def pod(written: raw.Pod, namespace: str, name: str, notes: Notes) -> Pod:
    """Convert a Pod."""
    return Pod(namespace, name, pod_weight_of(written.metadata, notes) if written.metadata else None)


def service_cidr(written: raw.ServiceCIDR, _namespace: str, name: str, notes: Notes) -> ServiceCIDR:
    """Convert a ServiceCIDR."""
    return ServiceCIDR(name, networks(written.spec.cidrs if written.spec else None, "spec.cidrs", notes))


def _labels(metadata: raw.LabelledMetadata | None, **default: str) -> tuple[tuple[str, str], ...]:
    labels = {**default, **((metadata.labels if metadata else None) or {})}
    return tuple(sorted((interned(key), interned(value)) for key, value in labels.items()))


def _node_addresses(status: raw.NodeStatus | None, notes: Notes) -> tuple[str, ...]:
    written = (status.addresses if status else None) or []
    for kind in ("InternalIP", "ExternalIP"):
        texts = [entry.address or "" for entry in written if entry.type == kind]
        if texts:
            return addresses(texts, f"status.addresses[{kind}]", notes, any_kind=True)
    return ()
