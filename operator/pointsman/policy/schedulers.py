"""Which scheduler a Service gets in the mode in force, with which flags, and what is said of it; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.api.names import SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULER_FLAGS, SCHEDULERS, is_known, nearest
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Collection

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.objects import Service
    from pointsman.policy.context import Context

_SCHEDULER_FIELD: Final = f"metadata.annotations[{SCHEDULER_ANNOTATION}]"
_FLAGS_FIELD: Final = f"metadata.annotations[{SCHEDULER_FLAGS_ANNOTATION}]"


class Scheduling(NamedTuple):
    """How a backend of a Service is chosen.

    Attributes:
        scheduler: one that the node has in the mode in force.
        flags: those of its variants that are asked for, sorted.
        problems: what was asked for and is not so.
    """

    scheduler: str
    flags: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def schedule(service: Service, context: Context) -> Scheduling:
    """Choose for one Service: by its annotations, else as the configuration says."""
    if service.scheduler is None and service.scheduler_flags is None:
        return Scheduling(context.scheduler, flags_for(context.scheduler, context.scheduler_flags, context.mode))
    problems: list[Problem] = []
    scheduler = _of_service(service, context, problems)
    wanted = service.scheduler_flags
    if wanted is None:
        return Scheduling(scheduler, flags_for(scheduler, context.scheduler_flags, context.mode), tuple(problems))
    flags = flags_for(scheduler, wanted, context.mode)
    if flags != wanted:
        problems.append(_unfit(service, [flag for flag in wanted if flag not in flags], scheduler, context.mode))
    return Scheduling(scheduler, flags, tuple(problems))


def scheduler_in(config: NodeConfiguration, mode: Mode, available: Collection[str]) -> str:
    """Return the scheduler for Services that ask for none: the configured one or the mode's default, or the nearest.

    Args:
        config: the configuration in force.
        mode: the dataplane in force.
        available: the schedulers that the node has in this mode.
    """
    return nearest(config.scheduler or DEFAULT_SCHEDULER[mode], mode, available)


def flags_for(scheduler: str, wanted: tuple[str, ...], mode: Mode) -> tuple[str, ...]:
    """Return those flags that are for a scheduler; only one mode has any."""
    if not wanted or mode != "ipvs":
        return ()
    return tuple([flag for flag in wanted if SCHEDULER_FLAGS[flag] == scheduler])


def not_there(scheduler: str, used: str, mode: Mode) -> str:
    """Say that a scheduler is not there, and which one is used."""
    return f'"{scheduler}" is not there in mode {mode}, which is in force; "{used}" is used'


def remedy_for(scheduler: str, mode: Mode, wanted_mode: Mode) -> str:
    """Say how a scheduler that is not there comes to be there, or what to do without it.

    Args:
        scheduler: one of any mode.
        mode: the dataplane in force.
        wanted_mode: the one that the configuration asks for.
    """
    if scheduler in SCHEDULERS[mode]:
        return f"run `modprobe ip_vs_{scheduler}` on the node, or choose another scheduler"
    if mode != wanted_mode and scheduler in SCHEDULERS[wanted_mode]:
        return f"bring mode {wanted_mode} in force on this node, see ModeInForce; mode {mode} has {_names(mode)}"
    return f"write one of {_names(mode)}"


def _of_service(service: Service, context: Context, problems: list[Problem]) -> str:
    wanted, mode = service.scheduler, context.mode
    if wanted is None or wanted in context.schedulers:
        return wanted or context.scheduler
    if is_known(wanted):
        used = nearest(wanted, mode, context.schedulers)
        message, remedy = not_there(wanted, used, mode), remedy_for(wanted, mode, context.wanted_mode)
    else:
        used = context.scheduler
        message, remedy = f'"{wanted}" is no scheduler of mode {mode}; "{used}" is used', f"write one of {_names(mode)}"
    problems.append(_problem(service, _SCHEDULER_FIELD, message, remedy, "this annotation"))
    return used


def _unfit(service: Service, flags: list[str], scheduler: str, mode: Mode) -> Problem:
    said = ", ".join(flags)
    if mode != "ipvs":
        message, remedy = f"{said}: mode {mode}, which is in force, has no scheduler flags", "take them out"
    else:
        wanted = " or ".join(dict.fromkeys(SCHEDULER_FLAGS[flag] for flag in flags))
        message = f'{said}: without effect on "{scheduler}", the scheduler in force'
        remedy = f"choose the scheduler {wanted}, or take them out"
    return _problem(service, _FLAGS_FIELD, message, remedy, "these flags")


def _names(mode: Mode) -> str:
    return ", ".join(SCHEDULERS[mode])


def _problem(service: Service, field: str, message: str, remedy: str, dropped: str) -> Problem:
    return Problem("", f"Service {service.namespace}/{service.name}", field, message, remedy, dropped)
