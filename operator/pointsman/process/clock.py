"""Time, as a process sees it: passed in, so that no test has to sleep."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Everything that a process wants to know of time."""

    def monotonic(self) -> float:
        """Return seconds that only go forward, from any point."""
        ...

    def wall(self) -> float:
        """Return Unix seconds."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait until `event` is set, or for `seconds` (None: without limit).

        Returns:
            Whether the event is set.
        """
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return seconds since some point, never set back."""
        return time.monotonic()

    def wall(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait until `event` is set, or for `seconds`; tell whether it is set."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True
