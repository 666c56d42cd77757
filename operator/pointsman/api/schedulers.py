"""Which schedulers each mode has, and which one it uses when nobody asks for another."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.names import Mode

SCHEDULERS: Final[Mapping[Mode, tuple[str, ...]]] = MappingProxyType(
    {
        "nftables": ("random", "rr", "wrr", "sh", "dh", "mh"),
        "ipvs": ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"),
        "iptables": ("random",),
        "userspace": ("rr",),
    }
)
"""Valid values of ``spec.scheduler`` and of the Service's annotation, by mode (IPVS: as in ipvsadm(8))."""

DEFAULT_SCHEDULER: Final[Mapping[Mode, str]] = MappingProxyType(
    {"nftables": "random", "ipvs": "rr", "iptables": "random", "userspace": "rr"}
)
"""What kube-proxy does in the same mode."""
