"""Which schedulers each mode has, which one it uses when nobody asks for another, and which are near to each other."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from pointsman.api.names import OWN_NAME_ALLOWED, OWN_NAME_PATTERN, is_own_name

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

OWN_SCHEDULERS: Final[Mapping[Mode, str]] = MappingProxyType({"nftables": OWN_NAME_PATTERN})
"""Pattern of the names of schedulers of somebody's own, in those modes of Pointsman's that take any."""

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
        scheduler: one of any mode, or of somebody's own.
        mode: the one in force.
        available: the schedulers that the node has in this mode; any that the mode cannot have do not count.

    Returns:
        One of the mode's. With none available it is the mode's default, which the kernel then refuses by name.
    """
    there = possible(mode, available)
    wishes = (scheduler, *NEAREST.get(scheduler, ()), *there)
    return next((name for name in wishes if name in there), default_scheduler(mode, available))


def schedulers_of(mode: Mode) -> tuple[str, ...]:
    """Return the schedulers that everybody knows a mode to have; none for a mode of somebody's own."""
    return SCHEDULERS.get(mode, ())


def may_have(mode: Mode, scheduler: str) -> bool:
    """Tell whether a node may have a scheduler in a mode; of what is somebody's own only the node knows."""
    if mode not in SCHEDULERS:
        return True
    return scheduler in SCHEDULERS[mode] or (mode in OWN_SCHEDULERS and is_own_name(scheduler))


def possible(mode: Mode, names: Collection[str]) -> tuple[str, ...]:
    """Return those of some schedulers that a mode may have: its own ones in their order, then the others."""
    known = [name for name in schedulers_of(mode) if name in names]
    return (*known, *(name for name in names if name not in known and may_have(mode, name)))


def default_scheduler(mode: Mode, available: Collection[str] = ()) -> str:
    """Return what is used when nobody asks for another one.

    Args:
        mode: the one in force.
        available: the schedulers that the node has in this mode; of a mode of somebody's own the first is the default.
    """
    return DEFAULT_SCHEDULER.get(mode) or next(iter(available), "random")


def allowed_schedulers(mode: Mode) -> str:
    """Say what may be written as the scheduler for a mode of Pointsman's."""
    own = f", or {OWN_NAME_ALLOWED}" if mode in OWN_SCHEDULERS else ""
    return f"in mode {mode}: {', '.join(SCHEDULERS[mode])}{own}"


def is_known(scheduler: str) -> bool:
    """Tell whether any mode has a scheduler."""
    return scheduler in NEAREST
