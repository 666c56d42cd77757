"""Differences between plan and kernel, as lines for people and as data."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman.cli.output import frontend_text
from pointsman.model.address import joined
from pointsman.model.comparison import Difference
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Backend

Line = tuple[str, str]
"""A line and its colour, or ""."""


class Elsewhere(msgspec.Struct, frozen=True):
    """What a mode holds that is not in force.

    Attributes:
        mode: which one.
        frontends: how many it has.
        found: what it is, for people.
        drains: it gets no new connections, and stays for those that it carries.
    """

    mode: str
    frontends: int
    found: tuple[str, ...] = ()
    drains: bool = False


class Comparison(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        node: its name.
        mode: the one in force.
        frontends: how many are wanted.
        differences: those that are not as they should be.
        others: modes that hold something and should not.
        notes: what is no difference, and good to know.
        problems: what is wrong with the objects.
    """

    node: str
    mode: str
    frontends: int
    differences: tuple[Difference, ...] = ()
    others: tuple[Elsewhere, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def in_force(self) -> bool:
        """Whether there is no difference."""
        return not (self.differences or self.others)


def lines(found: Comparison) -> Iterator[Line]:
    """Lay differences out: by Service, each frontend with its backends; ``-`` is wanted, ``+`` is there."""
    for service, differences in groupby(found.differences, key=lambda each: each.service):
        yield f"Service {service}" if service else "no Service", ""
        for difference in differences:
            yield from _frontend(difference, found.mode)
    for other in found.others:
        yield f"mode {other.mode}, which is not in force", ""
        number = (counted(other.frontends),) if other.frontends else ()
        for name in (*other.found, *number):
            yield f"+ {name}", "red"


def counted(frontends: int) -> str:
    """Write a number of frontends."""
    return f"{frontends} frontend{'' if frontends == 1 else 's'}"


def as_document(found: Comparison) -> dict[str, Any]:
    """Return all of it as plain data."""
    return {
        "node": found.node,
        "mode": found.mode,
        "frontends": found.frontends,
        "inForce": found.in_force,
        "differences": [_document(each) for each in found.differences],
        "otherModes": [
            {"mode": each.mode, "frontends": each.frontends, "found": list(each.found)} for each in found.others
        ],
        "notes": list(found.notes),
    }


def _frontend(difference: Difference, mode: str) -> Iterator[Line]:
    mark, colour = {"missing": ("-", "green"), "extra": ("+", "red"), "changed": (" ", "")}[difference.state]
    yield f"{mark} {frontend_text(difference.frontend)}", colour
    weighted = any(each.weight != 1 for each in (*difference.missing, *difference.extra))
    for backend in difference.missing:
        yield f"-   -> {_backend(backend, mode, weighted=weighted)}", "green"
    for backend in difference.extra:
        yield f"+   -> {_backend(backend, mode, weighted=weighted)}", "red"


def _backend(backend: Backend, mode: str, *, weighted: bool) -> str:
    where = joined(backend.address, backend.port)
    return f"{where}  {'slots' if mode == 'nftables' else 'weight'} {backend.weight}" if weighted else where


def _document(difference: Difference) -> dict[str, Any]:
    frontend = difference.frontend
    return {
        "service": difference.service,
        "family": frontend.family,
        "address": frontend.address,
        "port": frontend.port,
        "protocol": frontend.protocol,
        "state": difference.state,
        "missing": [_plain(each) for each in difference.missing],
        "extra": [_plain(each) for each in difference.extra],
    }


def _plain(backend: Backend) -> dict[str, Any]:
    return {"address": backend.address, "port": backend.port, "weight": backend.weight}
