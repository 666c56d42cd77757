"""The files that programs and users of a control plane prove themselves with."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING, Final

from pointsman.lab.controlplane import kubeconfigs, pki
from pointsman.lab.controlplane.commands import ADDRESS

if TYPE_CHECKING:
    from pathlib import Path

_NAMES: Final = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1")
"""What clients call the API server, beside its address and its Service's."""


def write(files: Path, service_cidr: str) -> pki.Authority:
    """Write the certificates and keys of API server, controllers and administrator, and their kubeconfigs.

    Args:
        files: directory of the control plane; its ``pki`` is there.
        service_cidr: addresses of Services; the first is the API server's own.

    Returns:
        The authority, to issue more.
    """
    authority = pki.Authority("pointsman lab", dt.datetime.now(dt.UTC))
    service = str(ipaddress.ip_network(service_cidr.partition(",")[0])[1])
    pairs = {
        "server": authority.server("kube-apiserver", (*_NAMES, ADDRESS, service)),
        "admin": authority.client("admin", "system:masters"),
        "controllers": authority.client("system:kube-controller-manager", "system:masters"),
        "tokens": pki.signing_key(),
    }
    directory = files / "pki"
    (directory / "ca.crt").write_bytes(authority.certificate)
    for name, pair in pairs.items():
        (directory / f"{name}.crt").write_bytes(pair.certificate)
        (directory / f"{name}.key").write_bytes(pair.key)
    for name in ("admin", "controllers"):
        kubeconfig = kubeconfigs.with_certificate(authority.certificate, pairs[name])
        (files / f"{name}.kubeconfig").write_text(kubeconfig, "utf-8")
    return authority
