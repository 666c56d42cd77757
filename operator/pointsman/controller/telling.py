"""Which events to send: each problem once, and again when the API server has forgotten it; pure."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from pointsman.controller.actions import SendEvent
from pointsman.model.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.controller.reports import Finding

_AGAIN: Final = 3660.0
"""Seconds after which the same is told again: the API server keeps events for an hour."""
_AT_ONCE: Final = 20
"""Events of one pass; there is one a second at most."""
_MAX_BYTES: Final = 1000
"""The API server takes 1024 of a message."""


class Teller:
    """Remembers what has been told.

    Attributes:
        is_behind: there is more to tell than was returned last.
    """

    def __init__(self) -> None:
        self.is_behind = False
        self._told: dict[Finding, float] = {}

    def tell(self, found: Iterable[Finding], now: float) -> tuple[SendEvent, ...]:
        """Say which events to send now.

        Args:
            found: everything that is wrong now; what is not among it any more is told anew when it comes back.
            now: Unix seconds.
        """
        every = dict.fromkeys(found)
        self._told = {finding: at for finding, at in self._told.items() if finding in every and now - at < _AGAIN}
        untold = [finding for finding in every if finding not in self._told]
        self._told.update((finding, now) for finding in untold[:_AT_ONCE])
        self.is_behind = len(untold) > _AT_ONCE
        return tuple(_event(finding) for finding in untold[:_AT_ONCE])


def _event(finding: Finding) -> SendEvent:
    where = f"{finding.field}: " if finding.field else ""
    message = _cut(printable(f"{where}{finding.message}; {finding.remedy}"))
    words = "\n".join((str(finding.regarding), finding.uid, finding.reason, message))
    key = sha256(words.encode(errors="replace")).hexdigest()[:16]
    return SendEvent(finding.regarding, finding.uid, finding.reason, message, key)


def _cut(text: str) -> str:
    written = text.encode(errors="replace")
    return text if len(written) <= _MAX_BYTES else written[:_MAX_BYTES].decode(errors="ignore") + "…"
