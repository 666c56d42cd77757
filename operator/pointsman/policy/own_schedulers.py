"""Schedulers of somebody's own: a function from backends to slots, and what may come of it; pure.

A dataplane that knows nothing of such a scheduler draws a slot in one of three ways, and the function says which
backend stands in which slot. The plan carries the slots, so that the kernel holds what the plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.plan import Backend, Draw, Slots

if TYPE_CHECKING:
    from pointsman.model.plan import Pool

MOST_SLOTS: Final = 4096
"""So many slots a pool may have, or one for each backend, if those are more."""
_LONGEST: Final = 200
"""Characters that are repeated of what somebody else's code says."""


class Scheduler(msgspec.Struct, frozen=True, gc=False):
    """A scheduler of somebody's own.

    Attributes:
        slots: given the backends of one pool that get new connections (sorted, one or more, each with its weight of
            1..256), returns which one stands in each slot. It returns the same for the same backends, on every node
            and in every process, looks at nothing else, and is quick: it is called for each change of a pool.
        draw: how the kernel draws the slot of a new connection: at `random`; by a hash of the `client`'s address, so
            that a client has the same slot as long as their number stays; or in `turn`, first to last.
        package: the distribution that it comes from, for people; whoever finds it fills it in.
    """

    slots: Callable[[Sequence[Backend]], Iterable[Backend]]
    draw: Draw = "random"
    package: str = ""


class SlotsError(Exception):
    """A scheduler gave something that cannot be used; the message says what."""


def filled(pool: Pool, scheduler: Scheduler) -> Pool:
    """Let a scheduler fill the slots of a pool.

    Returns:
        The pool with its slots; as it was where nobody gets new connections.

    Raises:
        SlotsError: what came of it is no list of those backends, or it failed.
    """
    given = tuple([backend for backend in pool.backends if backend.weight])
    if not given:
        return pool
    most = max(MOST_SLOTS, len(given))
    try:
        found = tuple(islice(scheduler.slots(given), most + 1))
    except Exception as error:  # somebody else's code may raise anything
        raise SlotsError(f"it failed ({_shown(error)})") from error
    if not found:
        raise SlotsError(f"it gave no slot for {len(given)} backends")
    if len(found) > most:
        raise SlotsError(f"it gave more than {most} slots for {len(given)} backends")
    known = {(backend.address, backend.port): backend for backend in given}
    return msgspec.structs.replace(pool, slots=Slots(scheduler.draw, tuple([_of(known, slot) for slot in found])))


def _of(known: dict[tuple[str, int], Backend], slot: object) -> Backend:
    if not isinstance(slot, Backend) or (slot.address, slot.port) not in known:
        raise SlotsError(f"{_shown(slot)} is none of the {len(known)} backends that it was given")
    return known[slot.address, slot.port]


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - as above
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
