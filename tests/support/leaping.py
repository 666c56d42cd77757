"""An event loop whose time passes at once: a machine that stalls makes nothing late, and nobody waits for a timer."""

from __future__ import annotations

import asyncio
import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class _LeapingSelector(selectors.DefaultSelector):
    """Tells what is ready; when nothing is, the time is over that would have been waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout and 0)
        if timeout is not None and timeout > 0 and not found:
            self.now += timeout
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """Leaps to the next timer; for tests whose other sides are all in memory, and in this thread."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


@contextmanager
def leaping_time() -> Iterator[None]:
    """Have `asyncio.run` make such loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.events, "new_event_loop", LeapingLoop)
        yield
