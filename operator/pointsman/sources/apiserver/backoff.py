"""Pauses between tries, and the time that they take: passed in, so that tests need not wait."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from random import Random

_SHORTEST: Final = 0.1
_LONGEST: Final = 10.0


class Clock(Protocol):
    """Time."""

    def wall(self) -> float:
        """Return Unix seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's time."""

    def wall(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Backoff:
    """Pauses of 0.1 s to 10 s: each up to twice as long as the one before, with jitter, as a fleet of agents that has
    lost its API server must not come back all at once.
    """  # noqa: D205 -- one sentence

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._pause = _SHORTEST

    def next(self, at_least: float | None = None) -> float:
        """Return the seconds to wait after a failure; at least what the server asks for."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST)
        return max(pause * self._chance.uniform(0.5, 1.0), at_least or 0.0)

    def reset(self) -> None:
        """Take a success into account."""
        self._pause = _SHORTEST
