"""How long something took, against what is promised of it: a machine that stalls for once breaks no promise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from support.agents import seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_LONGEST: Final = 10.0
"""Seconds that nothing takes, stalls of the machine included."""
_TRIES: Final = 3
_REST: Final = 4
"""Of each repair's time, for which the next one waits (`pointsman.agent.pacing`)."""


def assert_prompt(took: Collection[float], promised: float) -> None:
    """Compare seconds that something took, several times, with what is promised: all of them but one keep it."""
    assert sorted(took)[-2] < promised, took
    assert max(took) < _LONGEST, took


def kept(promised: float, measure: Callable[[], float]) -> float:
    """Measure how many seconds something takes, again if it is too slow: one of three keeps what is promised."""
    took: list[float] = []
    while not took or took[-1] >= promised:
        assert len(took) < _TRIES, f"{promised:g} s are promised: {took}"
        took.append(measure())
    return took[-1]


def seconds_until_mended(disturb: Callable[[], object], is_mended: Callable[[], bool]) -> float:
    """Disturb, return the seconds until it is mended, and let the agent rest, so that the next repair is prompt."""
    disturb()
    took = seconds_until(is_mended)
    time.sleep(_REST * took)
    return took
