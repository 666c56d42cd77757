"""What asyncio has to tell of errors that nobody else hears of: each one once in a while, however often it comes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from pointsman.dataplane.userspace.room import NO_ROOM, REMEDY

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_LOG: Final = logging.getLogger(__name__)
_PAUSE: Final = 60.0
"""Seconds until an error is told again."""


class LoopFaults:
    """A handler for `asyncio.loop.set_exception_handler`.

    Without a file for one more connection asyncio tells so a hundred times a second, with a traceback each.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[tuple[object, ...], float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error, unless the same one was logged just now."""
        now, error = self._monotonic(), context.get("exception")
        key = _kind(context, error)
        if now < self._told.get(key, now):
            return
        self._told[key] = now + _PAUSE
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            _LOG.error("%s: %s; %s", context["message"], error.strerror, REMEDY)
        else:
            loop.default_exception_handler(context)


def _kind(context: dict[str, Any], error: object) -> tuple[object, ...]:
    """Return what two errors have in common that are the same one: its type, and the line of code that raised it."""
    if not isinstance(error, BaseException):
        # A message may go on with what it is about, which is another one each time.
        return (str(context["message"]).partition("<")[0],)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()
    return type(error), *place
