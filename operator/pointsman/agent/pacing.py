"""When the next sync is due; pure arithmetic on times that are passed in."""

from __future__ import annotations

import math
from typing import Final, Literal

Why = Literal["the first", "after a failure", "another program changed the tables"]
"""Why a sync compares everything that the kernel holds."""

_FIRST_RETRY: Final = 0.1
"""Seconds until a failed sync is tried again, or `min_period` where that is more."""
_IMPATIENT: Final = 1.0
"""Seconds after which a new change does not wait any longer for the retry of a failed sync."""
_REST: Final = 4
"""After a repair that took t seconds the next one waits for 4 t, so that a fight with another program over our
tables takes no more than a fifth of a core."""


class Pacing:
    """Decides when to sync.

    * The first change after a quiet time: at once. Further ones: one sync each `min_period`, from start to start.
    * A failed sync: again after 0.1 s (or `min_period`), then after twice that, and so on; after `max_period` at the
      latest. A change that comes meanwhile waits for a second at most.
    * A sync of which the kernel refused a part: that part is tried again in the same way; changes are not held up.
    * A repair (another program changed our tables): at once, and then not all the time.
    * A look, whether or not anything changed: when it is asked for.

    Attributes:
        min_period, max_period: seconds; `minSyncPeriod` and `syncPeriod` of the configuration in force.
        full: the next sync has to compare everything.
        why: why the sync that started last compares everything, if it does.
    """

    def __init__(self, min_period: float = 0.05, max_period: float = 30.0) -> None:
        self.min_period = min_period
        self.max_period = max_period
        self.full = True
        self.why: Why = "the first"
        self._changed: float | None = None
        self._repair: float | None = None
        self._retry: float | None = None
        self._look: float | None = None
        self._failing = False
        self._delay = 0.0
        self._started = -math.inf
        self._rested = 0.0

    @property
    def changed_at(self) -> float | None:
        """When the oldest change came that is not in the kernel yet, or None when all are."""
        return self._changed

    @property
    def incomplete(self) -> bool:
        """Whether the kernel lacks a part of what it was given, which is tried again."""
        return self._retry is not None

    def change(self, now: float) -> None:
        """A change came."""
        if self._changed is None:
            self._changed = now

    def disturb(self, now: float) -> None:
        """Another program changed what is ours."""
        if self._repair is None:
            self._repair = max(now, self._rested)

    def look(self, time: float) -> None:
        """A sync shall start at a time, even if nothing changes until then."""
        self._look = time if self._look is None else min(time, self._look)

    def due(self) -> float | None:
        """Return when the next sync shall start, or None when there is nothing to do."""
        times = [time for time in (self._repair, self._retry, self._look) if time is not None]
        if self._changed is not None:
            times.append(max(self._changed, self._not_before()))
        return min(times) if times else None

    def start(self, now: float) -> bool:
        """A sync starts, with every change that came until now.

        Returns:
            Whether it has to compare everything.
        """
        if self._started > -math.inf:
            repair = not self.full and self._is_over(self._repair, now)
            self.why = "another program changed the tables" if repair else "after a failure"
        self._started = now
        self._look = None
        self.full = self.full or self._is_over(self._repair, now) or self._is_over(self._retry, now)
        return self.full

    def succeed(self, now: float, *, newer: float | None, complete: bool = True) -> None:
        """The sync that started last is in the kernel.

        Args:
            now: monotonic seconds.
            newer: when the first change came that this sync did not have, or None.
            complete: the kernel took all of it.
        """
        self._changed = newer
        self._failing = False
        if self.full and self._repair is not None:
            self._rested = now + _REST * (now - self._started)
            self._repair = None
        if complete and (self.full or self._retry is None):
            self._retry, self._delay = None, 0.0
        elif not complete and (self.full or self._retry is None):
            self._again(now)
        self.full = False

    def fail(self, now: float) -> None:
        """Nothing of the sync that started last is in the kernel."""
        self._failing = True
        self.full = True
        self._repair = None
        self._again(now)

    def _again(self, now: float) -> None:
        first = max(_FIRST_RETRY, self.min_period)
        self._delay = min(self._delay * 2 or first, max(self.max_period, first))
        self._retry = now + self._delay

    def _not_before(self) -> float:
        pause = min(self._delay, _IMPATIENT) if self._failing else 0.0
        return self._started + max(self.min_period, pause)

    @staticmethod
    def _is_over(time: float | None, now: float) -> bool:
        return time is not None and time <= now
