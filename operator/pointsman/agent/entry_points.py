"""What other packages add to Pointsman: dataplanes and schedulers, found by their entry points.

They are looked for once, where a program is put together, and passed on from there. See `docs/extending.md`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from pointsman.api.names import is_own_name
from pointsman.dataplane.guarded import guarded
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.problems import Problem
from pointsman.policy.own_schedulers import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.metadata import EntryPoint

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane

DATAPLANES: Final = "pointsman.dataplanes"
"""Group of entry points: the mode's name = a function without arguments that opens its dataplane."""
SCHEDULERS: Final = "pointsman.schedulers"
"""Group of entry points: the scheduler's name = a `Scheduler`, or the function of one that draws at random."""
_DRAWS: Final = ("random", "client", "turn")


class Own(NamedTuple):
    """What other packages add.

    Attributes:
        dataplanes: opens a dataplane, by mode; nothing of one is imported before.
        schedulers: by name.
        problems: what cannot be used, and why.
    """

    dataplanes: Mapping[Mode, Callable[[], Dataplane]] = MappingProxyType({})
    schedulers: Mapping[str, Scheduler] = MappingProxyType({})
    problems: tuple[Problem, ...] = ()


def find_own() -> Own:
    """Look for what the installed packages add; schedulers are imported, dataplanes not yet."""
    problems: list[Problem] = []
    installed = entry_points()
    dataplanes = {point.name: _opener(point) for point in _usable(installed.select(group=DATAPLANES), problems)}
    schedulers: dict[str, Scheduler] = {}
    for point in _usable(installed.select(group=SCHEDULERS), problems):
        try:
            schedulers[point.name] = _scheduler(point)
        except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything when it is imported
            why = f"it cannot be used ({type(error).__name__}: {error})"
            problems.append(_problem(point, why, f"mend {origin_of(point)}, or take it out of the image"))
    return Own(dataplanes, schedulers, tuple(problems))


def origin_of(point: EntryPoint) -> str:
    """Name the package of an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _usable(points: Iterable[EntryPoint], problems: list[Problem]) -> list[EntryPoint]:
    """Return the entry points of a group that have a good name; of two with the same name the first by package."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(points, key=lambda point: (point.name, origin_of(point), point.value)):
        if not is_own_name(point.name):
            remedy = "give it one with a domain of yours before it, in lower case, such as example.com/name"
            problems.append(_problem(point, f'"{point.name}" is no name for it', remedy))
        elif point.name in found:
            other = origin_of(found[point.name])
            problems.append(_problem(point, f"{other} has one of the same name", "take one of the two out"))
        else:
            found[point.name] = point
    return list(found.values())


def _opener(point: EntryPoint) -> Callable[[], Dataplane]:
    def opened() -> Dataplane:
        origin = origin_of(point)
        try:
            factory = point.load()
        except Exception as error:
            raise DataplaneError(
                f"the dataplane {point.name} of {origin} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        return guarded(point.name, origin, factory)

    return opened


def _scheduler(point: EntryPoint) -> Scheduler:
    """Import a scheduler.

    Raises:
        Exception: whatever its package raises.
        TypeError: it is none.
    """
    value = point.load()
    made = value if isinstance(value, Scheduler) else Scheduler(value)
    if not callable(made.slots):
        raise TypeError(f"{point.value} is {value!r}, and no function or pointsman.extending.Scheduler")
    if made.draw not in _DRAWS:
        raise TypeError(f"draw is {made.draw!r}; allowed: {', '.join(_DRAWS)}")
    return msgspec.structs.replace(made, package=origin_of(point))


def _problem(point: EntryPoint, message: str, remedy: str) -> Problem:
    return Problem(
        source=origin_of(point),
        object=f"entry point {point.name}",
        field=point.group,
        message=message,
        remedy=remedy,
        dropped="this entry point",
    )
