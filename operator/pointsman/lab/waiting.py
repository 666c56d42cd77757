"""Waiting for what others do, with an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(done: Callable[[], bool], what: str | Callable[[], str], *, patience: float, pause: float) -> float:
    """Wait until something is so.

    Args:
        done: tells whether it is.
        what: what is waited for, or who says it when it does not come.
        patience: seconds.
        pause: seconds between two looks.

    Returns:
        How many seconds it took.

    Raises:
        LabError: it is not so in time.
    """
    begun = time.monotonic()
    while not done():
        if time.monotonic() - begun > patience:
            raise LabError(f"waited {patience:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(pause)
    return time.monotonic() - begun
