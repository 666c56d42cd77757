"""What is wrong with an object, said so that its owner can mend it."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, gc=False, order=True):
    """One thing that is wrong; the rest goes on working.

    Attributes:
        source: file name or other origin, or "".
        object: the object as people say it (``Service default/web``), or "" when it could not be told.
        field: path in the object (``spec.ports[0].port``), or "".
        message: what is wrong, with the value.
        remedy: what to do about it.
        dropped: what is left out because of it ("the object", "this address", "the file's changes").
    """

    source: str
    object: str
    field: str
    message: str
    remedy: str
    dropped: str = "the object"

    def __str__(self) -> str:
        """Write it on one line: where, what, and the remedy; what a terminal would obey is escaped."""
        where = ": ".join(part for part in (self.source, self.object, self.field) if part)
        return printable(f"{where}: {self.message}; {self.remedy} (left out: {self.dropped})")


def printable(text: str) -> str:
    """Escape what does not print (control characters, line ends), as objects may hold anything."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
