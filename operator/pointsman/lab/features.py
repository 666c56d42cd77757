"""What a lab needs of the machine, checked by trying it."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.lab import namespaces, sctp
from pointsman.lab.components import toolchain
from pointsman.lab.components.catalogue import COMPONENTS
from pointsman.lab.containers import machine
from pointsman.lab.namespaces import LabError
from pointsman.lab.network import Network, has_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@functools.cache
def missing(feature: str) -> str:
    """Tell why a feature cannot be used here; "" when it can.

    Args:
        feature: one of `FEATURES`.
    """
    try:
        FEATURES[feature]()
    except (LabError, OSError) as error:
        return f"{feature}: {error}"
    return ""


def _network_namespaces() -> None:
    prefix = namespaces.new_prefix()
    try:
        namespaces.create([prefix + "try"])
    finally:
        namespaces.sweep(prefix)


def _veth() -> None:
    with Network() as network:
        network.client("try", "192.0.2.2")
        network.build()


def _nftables() -> None:
    with Network() as network:
        network.build()
        rules = "add table ip try; add chain ip try pre { type nat hook prerouting priority -100; }"
        network.router.namespace.run("nft", rules)


def _iptables(variant: str) -> None:
    with Network() as network:
        network.build()
        network.router.namespace.run(f"xtables-{variant}-multi", "iptables", "-t", "nat", "-N", "TRY")


def _connection_tracking() -> None:
    if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
        raise LabError("the kernel module nf_conntrack is not loaded: modprobe nf_conntrack")


def _ipv6() -> None:
    if not has_ipv6():
        raise LabError("the kernel has no IPv6, or it was started with ipv6.disable=1")


def _user_namespaces() -> None:
    namespaces.run("unshare", "--user", "--map-root-user", "--net", "true")


def _sctp() -> None:
    _connection_tracking()
    if not Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists():
        raise LabError("connection tracking for SCTP is not in the kernel (CONFIG_NF_CT_PROTO_SCTP)")
    with Network() as network:
        network.build()
        network.router.namespace.socket(socket.AF_INET, socket.SOCK_RAW, sctp.PROTOCOL).close()


def _go() -> None:
    for module in {component.module for component in COMPONENTS.values()}:
        toolchain.find(module)


FEATURES: Final[Mapping[str, Callable[[], None]]] = {
    "network namespaces": _network_namespaces,
    "veth devices": _veth,
    "nftables": _nftables,
    "iptables (nft)": functools.partial(_iptables, "nft"),
    "iptables (legacy)": functools.partial(_iptables, "legacy"),
    "connection tracking": _connection_tracking,
    "IPv6": _ipv6,
    "SCTP packets": _sctp,
    "user namespaces": _user_namespaces,
    "Go": _go,
    "containers": machine.check,
}
"""Names of features, and what tries each; it raises LabError or OSError where the feature is missing."""
