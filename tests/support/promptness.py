"""How long something took, against what is promised of it: a machine that stalls for once breaks no promise."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

from support.agents import seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LONGEST: Final = 10.0
"""Seconds that nothing takes beyond what is promised, stalls of the machine included."""
_REST: Final = 4
"""Of each repair's time, for which the next one waits (`pointsman.agent.pacing`)."""


def assert_prompt(took: Collection[float], promised: float) -> None:
    """Compare seconds that something took, several times, with what is promised."""
    assert statistics.median(took) < promised, took
    assert max(took) < LONGEST, took


def seconds_until_mended(is_mended: Callable[[], bool]) -> float:
    """Wait until a repair is done, return how long that took, and let the agent rest, so that the next is at once."""
    took = seconds_until(is_mended)
    time.sleep(_REST * took)
    return took
