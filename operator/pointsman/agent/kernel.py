"""The way to the kernel of the machine: its dataplanes, connection tracking, its parameters."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.agent.outcome import Kernel
from pointsman.dataplane.conntrack import Conntrack
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.sysctl import SYSCTL_ROOT, apply_conntrack, apply_ipvs, check_forwarding

if TYPE_CHECKING:
    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.model.plan import Family
    from pointsman.model.problems import Problem

_IPVS_TABLE: Final = Path("/proc/thread-self/net/ip_vs")
"""What there is in each network namespace once the module is loaded. IPVS itself is not asked: that would load it."""


def real_kernel(sysctl_root: Path = SYSCTL_ROOT) -> Kernel:
    """Return the way to the kernel of the machine, in the network namespace of the thread that uses it."""

    def open_ipvs() -> Dataplane:
        from pointsman.dataplane.ipvs import IpvsDataplane  # noqa: PLC0415 (only for those who need it)

        return IpvsDataplane(sysctl_root, time.monotonic)

    def set_sysctls(
        config: NodeConfiguration, families: frozenset[Family], mode: Mode
    ) -> tuple[Problem, ...]:  # fmt: skip
        for_ipvs = apply_ipvs(config.ipvs, sysctl_root, platform.release()) if mode == "ipvs" else ()
        return (
            *apply_conntrack(config.conntrack, sysctl_root),
            *for_ipvs,
            *check_forwarding(families, sysctl_root),
        )

    return Kernel(
        dataplanes={"nftables": NftablesDataplane, "ipvs": open_ipvs},
        conntrack=Conntrack,
        sysctls=set_sysctls,
        traces=_may_have_traces,
    )


def _may_have_traces(mode: Mode) -> bool:
    return mode != "ipvs" or _IPVS_TABLE.exists() or _has_routes()


def _has_routes() -> bool:
    """Tell whether routes of the mode ipvs are left: they outlive the kernel module."""
    from pointsman.dataplane.ipvs.routes import LocalRoutes  # noqa: PLC0415 (only for those who need it)

    routes = LocalRoutes()
    try:
        return any(routes.read(family) for family in (4, 6))
    except OSError:
        return False  # the kernel lacks this family
    finally:
        routes.close()
