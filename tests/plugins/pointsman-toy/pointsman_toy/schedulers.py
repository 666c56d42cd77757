"""Schedulers for the mode `nftables`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.extending import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.extending import Backend

_MOST: Final = 400
"""Others beside the favourite, so that there are no more than 4,096 slots."""


def favourite(backends: Sequence[Backend]) -> Sequence[Backend]:
    """Send nine of ten new connections to the first backend, and the tenth to one of the others."""
    first, *others = backends
    others = others[:_MOST]
    return [first] * (9 * len(others) or 1) + others


def each_once(backends: Sequence[Backend]) -> Sequence[Backend]:
    """Give each backend one slot, whatever its weight."""
    return backends


def each_twice(backends: Sequence[Backend]) -> Sequence[Backend]:
    """Give each backend two turns, one right behind the other."""
    return [backend for backend in backends for _ in range(2)]


BY_CLIENT: Final = Scheduler(each_once, draw="client")
PAIRS: Final = Scheduler(each_twice, draw="turn")
