"""Whose a virtual server is: the sets say which ones are ours, so that those of others are told apart without a guess.

A frontend stands in the set ``frontends`` before its virtual server is made, and until that is deleted; a firewall
mark in the map ``marks`` likewise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.entries import key_of
from pointsman.dataplane.ipvs.objects import ServerKey
from pointsman.dataplane.ipvs.rules import FIRST_MARK, MARKS
from pointsman.dataplane.nftables.layout import frontend_in
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family, Frontend


RECORDS: Final = ("frontends", "marks", "cluster-ips", "external-ips")
"""The sets that say what is ours; a release that changes the form of one of them loses what the one before it made."""


def records_of(family: Family, held: Mapping[str, Elements]) -> dict[ServerKey, Frontend]:
    """Return the virtual servers that are ours (some may not be there), with the frontend that each serves."""
    found: dict[ServerKey, Frontend] = {}
    for key in held["frontends"]:
        if frontend := frontend_in(family, "", key):
            found[key_of(frontend)] = frontend
    for frontend, mark in marks_of(family, held).items():
        found[ServerKey(family, "", "tcp", 0, mark)] = frontend
    return found


def marks_of(family: Family, held: Mapping[str, Elements]) -> dict[Frontend, int]:
    """Return the firewall marks that are ours."""
    pairs = (
        (frontend_in(family, "", key), int.from_bytes(value, sys.byteorder)) for key, value in held["marks"].items()
    )
    return {frontend: mark for frontend, mark in pairs if frontend and FIRST_MARK <= mark < FIRST_MARK + MARKS}


def made_local(held: Mapping[str, Elements]) -> frozenset[bytes]:
    """Return the addresses that our routes make local, as far as the sets tell."""
    return frozenset(held["cluster-ips"]) | frozenset(held["external-ips"])


class Marks:
    """Gives frontends their firewall marks; a frontend keeps its own for as long as it needs one.

    The families take theirs from halves of their own: a listing does not tell the family of a mark.

    Args:
        family: IP version.
        known: marks that are in use in this family.
        taken: marks of others' virtual servers.
    """

    def __init__(
        self, family: Family, known: Mapping[Frontend, int], taken: frozenset[int] = frozenset()
    ) -> None:  # fmt: skip
        self._first = FIRST_MARK if family == IPV4 else FIRST_MARK + MARKS // 2
        self._known = dict(known)
        self._used = set(taken) | set(known.values())
        self._next = self._first

    def of(self, frontend: Frontend) -> int:
        """Return a frontend's mark, or 0."""
        return self._known.get(frontend, 0)

    def take(self, frontend: Frontend) -> int:
        """Return a frontend's mark; a new one if it has none, 0 when there is none left."""
        mark = self._known.get(frontend) or self._free()
        if mark:
            self._known[frontend] = mark
        return mark

    def release(self, frontend: Frontend) -> None:
        """Take a frontend's mark back."""
        self._used.discard(self._known.pop(frontend, 0))

    def _free(self) -> int:
        """Return the next mark that is free, going round: one that was just given back rests for a while."""
        for step in range(MARKS // 2):
            mark = self._first + (self._next - self._first + step) % (MARKS // 2)
            if mark not in self._used:
                self._used.add(mark)
                self._next = mark + 1
                return mark
        return 0
