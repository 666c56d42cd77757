"""One thing that was found in the kernel."""

from __future__ import annotations

import msgspec


class Leftover(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a Service proxy left, or several of a kind in one place.

    Attributes:
        kind: what it is, in the plural where `members` says which ones.
        name: what it is called, or where it is; "" where the kind says it all.
        members: the single ones.
        detail: how much it is.
        kept: why it stays; "" for what can be removed.
    """

    kind: str
    name: str = ""
    members: tuple[str, ...] = ()
    detail: str = ""
    kept: str = ""


def many(number: int, noun: str) -> str:
    """Count things for people: ``1 rule``, ``2,345 rules``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
