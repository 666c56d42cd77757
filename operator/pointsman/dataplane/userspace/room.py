"""How many files the proxy may have open, and what becomes of new connections when there are no more."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.dataplane.userspace.loop import Loop, Timer

_LOG: Final = logging.getLogger(__name__)

RESERVE: Final = 256
"""So many files are left to the rest of the agent: its connections to the API server, its HTTP servers, and the
low numbers that it keeps for libnftables."""
MOST: Final = 1 << 20
"""More than one thread can serve; some container runtimes allow a thousand times as much."""
PATIENCE: Final = 0.5
"""Seconds until it is tried again, when no connection ends before."""
NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The kernel has no file, or no memory, for one more socket."""

PAIR: Final = 2
"""The files of a connection: the client's and the backend's."""
REMEDY: Final = "raise the limit of open files (ulimit -n; LimitNOFILE= of the service or container runtime)"


def raise_limit() -> int:
    """Let this process have as many open files as the system allows it, at most `MOST`.

    Returns:
        How many that is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Refused where the sysctl fs.nr_open was lowered below the limit that this process has got (setrlimit(2)).
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else soft


class Room:
    """Counts the proxy's open files. While there is no room nobody accepts; clients wait in the kernel's queues.

    Args:
        loop: for the next try.
        limit: files that the whole process may have open.

    Attributes:
        problem: why new connections wait, with the remedy; "" when they don't.
    """

    def __init__(self, loop: Loop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._most = max(limit - RESERVE, limit // 2)
        self._used = 0
        self._waiting: dict[Callable[[], None], None] = {}
        self._timer: Timer | None = None
        self.problem = ""

    def has(self, files: int) -> bool:
        """Tell whether so many more files may be opened."""
        return self._used + files <= self._most

    def take(self, files: int) -> None:
        """Count files that were opened."""
        self._used += files

    def give(self, files: int) -> None:
        """Count files that were closed; who waits goes on in the loop's next turn."""
        self._used -= files
        if self._waiting and self.has(PAIR) and (self._timer is None or self._timer.due > self._loop.now):
            self._set_timer(0.0)

    def wait(self, resume: Callable[[], None], error: OSError | None = None) -> None:
        """Have `resume` called when there may be room again.

        Args:
            resume: goes on; it calls `wait` again when there is none after all.
            error: what the kernel said; None when it is the count that is full.
        """
        if not self.problem:
            why = error.strerror if error else f"the proxy has {self._used} of this process's {self._limit} files"
            self.problem = f"no more connections can be opened: {why}; {REMEDY}"
            _LOG.warning("new connections wait, as %s", self.problem)
        self._waiting[resume] = None
        if self._timer is None:
            self._set_timer(PATIENCE)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(seconds, self._look)

    def _look(self) -> None:
        """Let those go on who wait; when nobody has waited since the last look, all is well again."""
        self._timer = None
        if not self._waiting:
            _LOG.info("there is room for new connections again")
            self.problem = ""
            return
        if self.has(PAIR):
            waiting, self._waiting = self._waiting, {}
            for resume in waiting:
                resume()
        self._set_timer(PATIENCE)
