"""Requests of an agent that ends: there is no later at which to try again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pointsman.process.clock import Clock

T = TypeVar("T")
_PAUSE: Final = 1.0
"""Seconds from one try to the next."""
ONE_TRY: Final = 5.0
"""Seconds that one request may take."""


async def ask(request: Callable[[], Awaitable[T]], clock: Clock, seconds: float) -> T:
    """Send a request, again and again while the API server is away.

    Args:
        request: sends it.
        clock: time.
        seconds: that it takes at the longest.

    Raises:
        ApiError: the API server refuses it, or had no time for it until the end.
        Unreachable: nobody answered until the end.
        TimeoutError: the last try was not answered in time.
    """
    end, never = clock.monotonic() + seconds, asyncio.Event()
    while True:
        try:
            async with asyncio.timeout(min(ONE_TRY, end - clock.monotonic())):
                return await request()
        except (ApiError, Unreachable, TimeoutError) as error:
            passes = not isinstance(error, ApiError) or error.is_passing
            if not passes or clock.monotonic() + _PAUSE >= end:
                raise
        await clock.wait(never, _PAUSE)
