"""When to decide, and who does what was decided."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.controller.reconcile import Memory, next_due, reconcile
from pointsman.sources.apiserver.client import Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.controller.view import View
    from pointsman.controller.writer import Writer
    from pointsman.process.clock import Clock

_LOG: Final = logging.getLogger(__name__)
_GATHER: Final = 0.2
"""Seconds from a change to the decision: what changes together is decided together, and `kubectl wait` starts later."""
_SHORTEST: Final = 0.5
_LONGEST: Final = 30.0
"""Seconds until what failed is decided again."""


class Reconciler:
    """Decides and writes whenever something changed or time is due, while this replica leads.

    Args:
        view: the cluster.
        writer: does what was decided.
        leads: tells whether this replica leads.
        clock: time.
        wake: set by others when something changed.

    Attributes:
        decided: how many times it has decided.
    """

    def __init__(
        self,
        view: View,
        writer: Writer,
        leads: Callable[[], bool],
        clock: Clock,
        wake: asyncio.Event,
    ) -> None:
        self.decided = 0
        self._view = view
        self._writer = writer
        self._leads = leads
        self._clock = clock
        self._wake = wake
        self._memory = Memory()
        self._led = False
        self._pause = _SHORTEST

    async def run(self) -> None:
        """Decide and write until cancelled."""
        never = asyncio.Event()
        wait: float | None = None
        while True:
            await self._clock.wait(self._wake, wait)
            await self._clock.wait(never, _GATHER)
            self._wake.clear()
            wait = await self.turn()

    async def turn(self) -> float | None:
        """Decide once and do it; return the seconds after which to do so again even if nothing changes."""
        leads, led, self._led = self._leads(), self._led, self._leads()
        if not leads:
            return None
        if not led:
            self._memory = Memory()  # what was remembered from an earlier time as the leader is not true any more
        now = self._clock.wall()
        actions = reconcile(self._view, self._memory, now)
        self.decided += 1
        try:
            done = [await self._writer.carry_out(action) for action in actions]
        except (Unreachable, SourceError, msgspec.DecodeError) as error:
            _LOG.warning("cannot write what was decided: %s; it is decided again", error)
            done = [False]
        if actions:
            _LOG.debug("decided on %d writes, %d done", len(actions), sum(done))
        return self._due(done)

    def _due(self, done: list[bool]) -> float | None:
        """Return when to decide again, after writes of which some may have failed."""
        if all(done):
            self._pause = _SHORTEST if done else self._pause
            return next_due(self._memory, self._clock.wall())
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST)
        return pause
