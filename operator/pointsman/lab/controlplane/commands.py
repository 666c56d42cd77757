"""How the components are started; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADDRESS: Final = "172.16.0.2"
"""Of the host that the control plane lives on; nodes reach it through the lab's router."""

API_PORT: Final = 6443
ETCD_PORT: Final = 2379
_ETCD_PEERS: Final = 2380
_CONTROLLERS_PORT: Final = 10257

SERVER: Final = f"https://{ADDRESS}:{API_PORT}"

WIDE_RANGE: Final = "1-65535"
"""A node port range that refuses nothing, so that Pointsman's webhook is the one to answer."""

OWN_RANGE: Final = "30000-32767"
"""The API server's default."""

CONTROLLERS: Final = (
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)
"""Those that make Endpoints out of Deployments, and what they need. Nodes have no kubelet whose silence to judge."""


class Settings(msgspec.Struct, frozen=True):
    """What a control plane can be given.

    Attributes:
        service_cidr: addresses of Services.
        node_port_range: what the API server itself allows.
        controllers: which of them run; ``*`` is all that run by default.
        audit: write down who asked for what, in ``logs/audit.log``.
    """

    service_cidr: str = "10.96.0.0/12"
    node_port_range: str = WIDE_RANGE
    controllers: tuple[str, ...] = CONTROLLERS
    audit: bool = False


def etcd(program: Path, files: Path) -> list[str]:
    """Return the command of etcd: it forgets everything when the machine stops, and is fast for it."""
    client, peer = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{_ETCD_PEERS}"
    return _command(
        program,
        {
            "name": "lab",
            "data-dir": f"{files}/etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        },
    )


def kube_apiserver(program: Path, files: Path, settings: Settings) -> list[str]:
    """Return the command of the API server."""
    keys = f"{files}/pki"
    audit = {"audit-policy-file": f"{files}/audit.yaml", "audit-log-path": f"{files}/logs/audit.log"}
    return _command(
        program,
        {
            "etcd-servers": f"http://127.0.0.1:{ETCD_PORT}",
            "bind-address": "0.0.0.0",  # noqa: S104 - all addresses of the lab's own host
            "advertise-address": ADDRESS,
            "secure-port": str(API_PORT),
            "cert-dir": keys,
            "tls-cert-file": f"{keys}/server.crt",
            "tls-private-key-file": f"{keys}/server.key",
            "client-ca-file": f"{keys}/ca.crt",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            # How it proves itself to kubelets, for logs and exec.
            "kubelet-client-certificate": f"{keys}/admin.crt",
            "kubelet-client-key": f"{keys}/admin.key",
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": f"{keys}/tokens.crt",
            "service-account-signing-key-file": f"{keys}/tokens.key",
            "service-cluster-ip-range": settings.service_cidr,
            "service-node-port-range": settings.node_port_range,
            # Webhooks are Services; no Service proxy runs where the API server does, so it goes to their endpoints.
            "enable-aggregator-routing": "true",
            "allow-privileged": "true",
            "profiling": "false",
            **(audit if settings.audit else {}),
        },
    )


def kube_scheduler(program: Path, files: Path) -> list[str]:
    """Return the command of the scheduler."""
    kubeconfig = f"{files}/scheduler.kubeconfig"
    return _command(
        program,
        {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "cert-dir": f"{files}/pki",
            "leader-elect": "false",
        },
    )


AUDIT_POLICY: Final = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/*"]
- level: Metadata
"""
"""Who asked for which resource; not what was said."""


def kube_controller_manager(program: Path, files: Path, settings: Settings) -> list[str]:
    """Return the command of the controllers."""
    keys, kubeconfig = f"{files}/pki", f"{files}/controllers.kubeconfig"
    return _command(
        program,
        {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "secure-port": str(_CONTROLLERS_PORT),
            "cert-dir": keys,
            "leader-elect": "false",
            "controllers": ",".join(settings.controllers),
            "root-ca-file": f"{keys}/ca.crt",
            "service-account-private-key-file": f"{keys}/tokens.key",
            "service-cluster-ip-range": settings.service_cidr,
            # The default of 20 requests a second would make a scaled Deployment wait.
            "kube-api-qps": "200",
            "kube-api-burst": "400",
            "profiling": "false",
        },
    )


def kube_proxy(program: Path, kubeconfig: Path, node: str, *, mode: str, pod_cidr: str = "") -> list[str]:
    """Return the command of kube-proxy, with its defaults.

    Args:
        program: kube-proxy.
        kubeconfig: of the user ``system:kube-proxy``, whose role every cluster has.
        node: name of the node.
        mode: ``nftables`` or ``iptables``.
        pod_cidr: addresses of the cluster's Pods, which it does not masquerade; empty if they are not known.
    """
    return _command(
        program,
        {
            "kubeconfig": str(kubeconfig),
            "hostname-override": node,
            "proxy-mode": mode,
            # The limit of tracked connections is the machine's, which a namespace may not set.
            "conntrack-max-per-core": "0",
            "conntrack-min": "0",
            **({"cluster-cidr": pod_cidr} if pod_cidr else {}),
        },
    )


def _command(program: Path, flags: Mapping[str, str]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]
