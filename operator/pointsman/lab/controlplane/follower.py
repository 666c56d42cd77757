"""Follows one list of the API server in a thread, whatever happens to the API server."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from pointsman.lab.controlplane.api import ApiAwayError, ApiRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.lab.controlplane.api import Api, Document, Watch

LISTED: Final = "LISTED"
"""The kind of event that brings a whole list; the others are ADDED, MODIFIED and DELETED."""

_PAUSE: Final = 0.2
_SILENCE: Final = 60.0


class Follower:
    """Lists, watches, and begins anew when the watch ends."""

    def __init__(self, api: Api, path: str, tell: Callable[[str, Document], None]) -> None:
        """Prepare it.

        Args:
            api: who is asked.
            path: of the list.
            tell: is given events in the follower's thread: their kind, and the object (or the list).
        """
        self._api = api
        self._path = path
        self._tell = tell
        self._watch: Watch | None = None
        self._outdated = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lab follows {path}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def again(self) -> None:
        """List anew: somebody can do more with the objects than before."""
        self._outdated = True
        if self._watch is not None:
            self._watch.close()

    def close(self) -> None:
        """End, and wait for the end."""
        self._stopping.set()
        self.again()
        if self._thread.is_alive():
            self._thread.join(_SILENCE)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(ApiAwayError, ApiRefusedError):
                self._follow()
            self._stopping.wait(_PAUSE)

    def _follow(self) -> None:
        self._outdated = False
        listed = self._api.get(self._path)
        self._tell(LISTED, listed)
        query = {"resourceVersion": listed["metadata"]["resourceVersion"]}
        self._watch = self._api.watch(self._path, query, timeout=_SILENCE)
        for event in () if self._outdated else self._watch:
            if self._stopping.is_set() or event["type"] == "ERROR":
                return
            self._tell(event["type"], event["object"])
