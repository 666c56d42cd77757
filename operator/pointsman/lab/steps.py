"""What a tour reports: steps with what they do and what came of it, as data; showing them is the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Bars(msgspec.Struct, frozen=True):
    """How many connections came to each of some places.

    Attributes:
        label: which connections.
        counts: places and counts, in the order to show.
    """

    label: str
    counts: dict[str, int]


class Table(msgspec.Struct, frozen=True):
    """Rows of text under headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Found(msgspec.Struct, frozen=True):
    """What came of a step.

    Attributes:
        good: it came out as it has to.
        says: that in one line.
        bars, table, notes: details.
    """

    good: bool
    says: str
    bars: tuple[Bars, ...] = ()
    table: Table | None = None
    notes: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """One step that was taken.

    Attributes:
        title: what is shown.
        does: what is done to show it.
        found: what came of it.
        seconds: how long it took.
    """

    title: str
    does: str
    found: Found
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """A whole tour.

    Attributes:
        good: every step came out as it has to.
        steps: all that were taken; the tour ends early when the cluster does not come up.
        seconds: how long all of it took, with cleaning up.
    """

    good: bool
    steps: tuple[Step, ...]
    seconds: float


class Watcher(Protocol):
    """Who is told of a tour while it goes on."""

    def begin(self, number: int, title: str, does: str) -> None:
        """A step begins; numbers count from 1."""
        ...

    def end(self, step: Step) -> None:
        """It has ended."""
        ...


def bars(label: str, counts: Mapping[str, int], places: tuple[str, ...] = ()) -> Bars:
    """Make bars, sorted by place; `places` are shown even when nothing came there."""
    return Bars(label, {place: counts.get(place, 0) for place in sorted({*counts, *places})})


def count(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 connection``, ``2,000 connections``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
