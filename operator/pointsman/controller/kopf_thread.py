"""Kopf, in a thread and an event loop of its own.

Kopf takes the loop that it runs in for its own: at its end it cancels every task that began after it, and it takes over
the process's signals. In a loop of its own it can end (a login that failed, a watch that ended in an error) and be
started again while the rest of the operator goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import kopf
from kopf._core.engines.peering import Identity  # a str; Kopf exports it nowhere else

from pointsman.controller import handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.model.objects import Kind
    from pointsman.sources.apiserver.access import Access

_LOG: Final = logging.getLogger(__name__)
_SHORTEST: Final = 1.0
_LONGEST: Final = 15.0
"""Seconds until Kopf is started again."""
_GOOD: Final = 60.0
"""Seconds after which a run of Kopf counts as good."""
_PATIENCE: Final = 5.0
"""Seconds for Kopf to end."""


class KopfThread:
    """Runs Kopf from the first `start` on, and hands over what it hears.

    Args:
        access: how to get at the API server.
        heard: called in the caller's event loop with each event; see `handlers.registry`.
    """

    def __init__(self, access: Access, heard: Callable[[Kind, str | None, Mapping[str, Any]], None]) -> None:
        self._access = access
        self._heard = heard
        self._stopped = threading.Event()
        self._wanted = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kopf: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def run(self) -> None:
        """Run Kopf, once it is wanted, until cancelled; start it again whenever it ends."""
        self._loop = asyncio.get_running_loop()
        _be_quiet()
        thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stop()
            await asyncio.shield(asyncio.to_thread(thread.join, _PATIENCE))

    def start(self) -> None:
        """Start Kopf, at once; end the one that runs, if one does, so that the next one lists everything anew."""
        self._wanted.set()
        self._end()

    def _stop(self) -> None:
        self._stopped.set()
        self._wanted.set()
        self._end()

    def _end(self) -> None:
        if self._kopf is not None:
            loop, stop = self._kopf
            with contextlib.suppress(RuntimeError):  # that loop has just ended by itself
                loop.call_soon_threadsafe(stop.set)

    def _run(self) -> None:
        pause = _SHORTEST
        self._wanted.wait()
        while not self._stopped.is_set():
            self._wanted.clear()
            try:
                lasted = asyncio.run(self._operate())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (Kopf ends with whatever went wrong in a task)
                lasted = 0.0
                if not self._stopped.is_set():
                    _LOG.warning("Kopf ended (%s: %s); it is started again", type(error).__name__, error)
            pause = _SHORTEST if lasted > _GOOD else min(pause * 2, _LONGEST)
            if self._wanted.wait(pause):
                pause = _SHORTEST

    async def _operate(self) -> float:
        loop = asyncio.get_running_loop()
        # No `threading.Event`: Kopf would wait for it in a thread, which this loop could not end without.
        stop = asyncio.Event()
        self._kopf = (loop, stop)
        if self._stopped.is_set() or self._wanted.is_set():  # since this run was begun
            stop.set()
        begun = loop.time()
        await kopf.operator(
            registry=handlers.registry(self._access, self._hand_over),
            settings=handlers.settings(),
            standalone=True,
            clusterwide=True,
            stop_flag=stop,
            # Nobody is told it without peering, and to make one up Kopf asks for the name of the process's user, which
            # has none in a container.
            identity=Identity("pointsman"),
        )
        return loop.time() - begun

    def _hand_over(self, kind: Kind, event: str | None, body: Mapping[str, Any]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed() and not self._stopped.is_set():
            loop.call_soon_threadsafe(self._heard, kind, event, body)


def _be_quiet() -> None:
    """Leave out what Kopf says of itself; what matters of it is said once, in this package's words.

    That is each try of a request, with a traceback when the last one fails, and each resource that is not there: the
    census says what cannot be listed, and `KopfThread` why Kopf ended. Faults of handlers are shown.
    """
    if _LOG.isEnabledFor(logging.DEBUG):
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # the process's signals are not its own
    else:
        logging.getLogger("kopf").setLevel(logging.CRITICAL)
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
