"""Which scheduler a Service gets in the mode in force, with which flags, and what is said of it; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.api.names import SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION, is_own_name
from pointsman.api.schedulers import (
    OWN_SCHEDULERS,
    SCHEDULER_FLAGS,
    default_scheduler,
    is_known,
    may_have,
    nearest,
    possible,
    schedulers_of,
)
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

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
    return nearest(config.scheduler or default_scheduler(mode, available), mode, available)


def there(mode: Mode, found: Collection[str], own: Iterable[str]) -> tuple[str, ...]:
    """Return the schedulers that a node has in a mode.

    Args:
        mode: the dataplane in force.
        found: what the dataplane supports.
        own: the schedulers of somebody's own that are installed; not every mode can use them.
    """
    return possible(mode, (*found, *own) if mode in OWN_SCHEDULERS else found)


def flags_for(scheduler: str, wanted: tuple[str, ...], mode: Mode) -> tuple[str, ...]:
    """Return those flags that are for a scheduler; only one mode has any."""
    if not wanted or mode != "ipvs":
        return ()
    return tuple([flag for flag in wanted if SCHEDULER_FLAGS[flag] == scheduler])


def not_there(scheduler: str, used: str, mode: Mode) -> str:
    """Say that a scheduler is not there, and which one is used."""
    return f'"{scheduler}" is not there in mode {mode}, which is in force; "{used}" is used'


def remedy_for(scheduler: str, mode: Mode, wanted_mode: Mode, available: Collection[str]) -> str:
    """Say how a scheduler that is not there comes to be there, or what to do without it.

    Args:
        scheduler: one of any mode.
        mode: the dataplane in force.
        wanted_mode: the one that the configuration asks for.
        available: the schedulers that the node has in the mode in force.
    """
    names = _names(mode, available)
    if scheduler in schedulers_of(mode):
        return f"run `modprobe ip_vs_{scheduler}` on the node, or choose another scheduler"
    if mode in OWN_SCHEDULERS and is_own_name(scheduler):
        return f"pip install the package that has it into the agents' image, or write one of {names}"
    if mode != wanted_mode and may_have(wanted_mode, scheduler):
        return f"bring mode {wanted_mode} in force on this node, see ModeInForce; mode {mode} has {names}"
    return f"write one of {names}"


def in_place_of(service: Service, context: Context, name: str, why: str) -> tuple[str, Problem]:
    """Say what is used where a scheduler of somebody's own gave nothing that can be used.

    Args:
        service: the Service that has it.
        context: what holds for all Services.
        name: the scheduler's.
        why: what is wrong with what it gave.

    Returns:
        Another scheduler that is there, and what to tell.
    """
    package = context.own_schedulers[name].package
    used = nearest(name, context.mode, [other for other in context.schedulers if other not in context.own_schedulers])
    message = f'"{name}"{f" of {package}" if package else ""}: {why}; "{used}" is used'
    remedy = "mend the scheduler, or choose another one"
    return used, _problem(service, _SCHEDULER_FIELD, message, remedy, "the scheduler")


def _of_service(service: Service, context: Context, problems: list[Problem]) -> str:
    wanted, mode = service.scheduler, context.mode
    if wanted is None or wanted in context.schedulers:
        return wanted or context.scheduler
    if is_known(wanted) or is_own_name(wanted):
        used = nearest(wanted, mode, context.schedulers)
        message = not_there(wanted, used, mode)
        remedy = remedy_for(wanted, mode, context.wanted_mode, context.schedulers)
    else:
        used = context.scheduler
        message = f'"{wanted}" is no scheduler of mode {mode}; "{used}" is used'
        remedy = f"write one of {_names(mode, context.schedulers)}"
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


def _names(mode: Mode, available: Collection[str]) -> str:
    return ", ".join(dict.fromkeys((*schedulers_of(mode), *available)))


def _problem(service: Service, field: str, message: str, remedy: str, dropped: str) -> Problem:
    return Problem("", f"Service {service.namespace}/{service.name}", field, message, remedy, dropped)
