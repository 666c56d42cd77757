"""When a status may be written, and when one that was refused is tried again; pure arithmetic on times."""

from __future__ import annotations

import math
from typing import Final

_URGENT: Final = 1.0
"""Seconds from one write to the next at the least, whatever changed."""
_SLOW: Final = 30.0
"""Seconds from one write to the next for counts and times alone."""
_FIRST_RETRY: Final = 1.0
_LAST_RETRY: Final = 60.0


class ReportPacing:
    """Decides when to write.

    Args:
        spread: seconds that slow changes wait, another number on each node: one endpoint that changes is news to
            every agent of the cluster at the same moment, and nobody needs the counts of all nodes at once.
    """

    def __init__(self, spread: float = 0.0) -> None:
        self._spread = spread
        self._written = -math.inf
        self._retry = -math.inf
        self._delay = 0.0
        self._slow_since: float | None = None

    def due(self, now: float, *, urgent: bool) -> float:
        """Return when a difference may be written that was seen at `now` (monotonic seconds)."""
        if urgent:
            return max(self._written + _URGENT, self._retry)
        if self._slow_since is None:
            self._slow_since = now
        return max(self._slow_since + self._spread, self._written + _SLOW, self._retry)

    def idle(self) -> None:
        """There is nothing to write."""
        self._slow_since = None

    def wrote(self, now: float) -> None:
        """The API server took a write."""
        self._written, self._delay, self._slow_since = now, 0.0, None

    def failed(self, now: float, share: float, at_least: float = 0.0) -> float:
        """The API server took nothing.

        Args:
            now: monotonic seconds.
            share: from 0 to 1, by chance: agents that failed together shall not come back together.
            at_least: seconds to wait that the API server asks for.

        Returns:
            The pause in seconds: growing, with chance; a minute at most.
        """
        self._delay = min(self._delay * 2 or _FIRST_RETRY, _LAST_RETRY)
        pause = max(self._delay * (0.5 + share / 2), at_least)
        self._retry = now + pause
        return pause
