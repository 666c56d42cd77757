"""The way to the kernel of the machine: its dataplanes, connection tracking, its parameters."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pointsman.agent.outcome import Kernel
from pointsman.dataplane.conntrack import Conntrack
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.nftables.presence import has_table
from pointsman.dataplane.sysctl import SYSCTL_ROOT, apply_conntrack, apply_iptables, apply_ipvs, check_forwarding
from pointsman.policy.settings import routes_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.model.plan import Family
    from pointsman.model.problems import Problem

_IPVS_LISTING: Final = Path("/proc/thread-self/net/ip_vs")
"""What there is in each network namespace once the module is loaded. IPVS itself is not asked: that would load it."""


def real_kernel(
    sysctl_root: Path = SYSCTL_ROOT, own: Mapping[Mode, Callable[[], Dataplane]] = MappingProxyType({})
) -> Kernel:
    """Return the way to the kernel of the machine, in the network namespace of the thread that uses it.

    Args:
        sysctl_root: where the kernel's parameters are.
        own: opens dataplanes of somebody's own, by mode (`pointsman.agent.entry_points`).
    """

    def open_ipvs() -> Dataplane:
        from pointsman.dataplane.ipvs import IpvsDataplane  # noqa: PLC0415 (only for those who need it)

        return IpvsDataplane(sysctl_root, time.monotonic)

    def open_iptables() -> Dataplane:
        from pointsman.dataplane.iptables import IptablesDataplane  # noqa: PLC0415 (as above)

        return IptablesDataplane(time.monotonic, sysctl_root=sysctl_root)

    def open_nftables() -> Dataplane:
        from pointsman.dataplane.userspace.loopback import WithLoopback  # noqa: PLC0415 (as above)

        return WithLoopback(NftablesDataplane())

    def open_userspace() -> Dataplane:
        from pointsman.dataplane.userspace import UserspaceDataplane  # noqa: PLC0415 (as above)

        return UserspaceDataplane(time.monotonic)

    return Kernel(
        dataplanes={
            "nftables": open_nftables,
            "ipvs": open_ipvs,
            "iptables": open_iptables,
            "userspace": open_userspace,
            **own,
        },
        conntrack=Conntrack,
        sysctls=lambda config, families, mode: _set_sysctls(config, families, mode, sysctl_root),
        traces=lambda mode: _may_have_traces(mode, sysctl_root),
    )


def _set_sysctls(
    config: NodeConfiguration, families: frozenset[Family], mode: Mode, sysctl_root: Path
) -> tuple[Problem, ...]:  # fmt: skip
    for_ipvs = apply_ipvs(config.ipvs, sysctl_root, platform.release()) if mode == "ipvs" else ()
    loopback = routes_loopback(config, mode)
    for_iptables = apply_iptables(sysctl_root, with_loopback=loopback) if mode == "iptables" else ()
    return (
        *apply_conntrack(config.conntrack, sysctl_root),
        *for_ipvs,
        *for_iptables,
        *check_forwarding(families, sysctl_root),
    )


def _may_have_traces(mode: Mode, sysctl_root: Path) -> bool:
    """Tell cheaply whether a mode may have left something; `leftovers.held_by` looks thoroughly, and names it."""
    if mode == "iptables":
        from pointsman.dataplane.iptables.dataplane import has_traces  # noqa: PLC0415 (as above)

        return has_traces(sysctl_root)
    if mode == "userspace":
        return has_table("pointsman-userspace")
    # The table outlives the kernel module ip_vs.
    return mode != "ipvs" or _IPVS_LISTING.exists() or has_table("pointsman-ipvs")
