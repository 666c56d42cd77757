"""What a whole cluster has beside nodes: its name server; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pointsman.lab.containers.images import COREDNS
from pointsman.lab.containers.runtime import CLUSTER_DOMAIN

if TYPE_CHECKING:
    from pointsman.lab.controlplane.api import Document

_LABELS: Final = {"k8s-app": "kube-dns"}
_CONFIGURATION: Final = f""".:53 {{
    errors
    health
    ready
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa
    cache 10
    loadbalance
}}
"""
_RULES: Final = (
    {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
)


def name_server(address: str) -> list[Document]:
    """Describe CoreDNS, as kubeadm installs it: it reaches the API server through a Service as everybody does.

    Args:
        address: its cluster IP.
    """
    here = {"name": "coredns", "namespace": "kube-system"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    subject = {"kind": "ServiceAccount", **here}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": here, "data": {"Corefile": _CONFIGURATION}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role["name"]},
            "rules": list(_RULES),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role["name"]},
            "roleRef": role,
            "subjects": [subject],
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": here, "spec": _deployment()},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**here, "name": "kube-dns", "labels": _LABELS},
            "spec": {"clusterIP": address, "selector": _LABELS, "ports": [_port("UDP"), _port("TCP")]},
        },
    ]


def _port(protocol: str) -> dict[str, Any]:
    return {"name": "dns" if protocol == "UDP" else "dns-tcp", "port": 53, "protocol": protocol}


def _deployment() -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _LABELS},
        "template": {
            "metadata": {"labels": _LABELS},
            "spec": {
                "serviceAccountName": "coredns",
                "priorityClassName": "system-cluster-critical",
                "dnsPolicy": "Default",
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            },
        },
    }
