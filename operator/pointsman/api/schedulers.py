"""Which schedulers each mode has, which one it uses when nobody asks for another, and which are near to each other."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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

SchedulerFlag = Literal["mh-fallback", "mh-port", "sh-fallback", "sh-port"]
"""A variant of a scheduler of the mode `ipvs`, as ipvsadm(8) calls it."""

SCHEDULER_FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {"mh-fallback": "mh", "mh-port": "mh", "sh-fallback": "sh", "sh-port": "sh"}
)
"""The scheduler that a flag is for."""

NEAREST: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "random": ("rr", "wrr"),
        "rr": ("wrr", "random"),
        "wrr": ("random", "rr"),
        # Who counts connections: first those that count them too, then those that at least mind weights.
        "lc": ("wlc", "sed", "nq", "random", "rr"),
        "wlc": ("sed", "nq", "lc", "random", "wrr", "rr"),
        "sed": ("wlc", "nq", "lc", "random", "wrr", "rr"),
        "nq": ("sed", "wlc", "lc", "random", "wrr", "rr"),
        # The same destination has the same server, as long as that has room. Room goes before sameness: with `dh` a
        # Service of one cluster IP has one server.
        "lblc": ("lblcr", "lc", "wlc", "random", "rr"),
        "lblcr": ("lblc", "lc", "wlc", "random", "rr"),
        "dh": ("lblc", "lblcr", "random", "rr"),
        # The same client has the same server.
        "sh": ("mh", "random", "rr"),
        "mh": ("sh", "random", "rr"),
        # The greatest weight first. Without a limit (`fo`) one server would get all that `ovf` spreads.
        "fo": ("ovf", "random", "wrr", "rr"),
        "ovf": ("wlc", "sed", "random", "wrr", "rr"),
    }
)
"""What comes nearest to a scheduler that is not there; the first that is there is used, whatever the mode."""


def nearest(scheduler: str, mode: Mode, available: Collection[str]) -> str:
    """Return the scheduler itself, or what comes nearest to it in a mode, on a node.

    Args:
        scheduler: one of any mode.
        mode: the one in force.
        available: the schedulers that the node has in this mode; any that the mode does not know do not count.

    Returns:
        One of the mode's. With none available it is the mode's default, which the kernel then refuses by name.
    """
    there = [name for name in SCHEDULERS[mode] if name in available]
    wishes = (scheduler, *NEAREST[scheduler], *there)
    return next((name for name in wishes if name in there), DEFAULT_SCHEDULER[mode])


def is_known(scheduler: str) -> bool:
    """Tell whether any mode has a scheduler."""
    return scheduler in NEAREST
