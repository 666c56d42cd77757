"""An event loop of one thread: sockets that are ready, timers, and calls from other threads."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_LOG: Final = logging.getLogger(__name__)
_Result = TypeVar("_Result")

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
FAILED: Final = select.EPOLLERR
HUNG_UP: Final = select.EPOLLHUP
"""Both directions are shut. This and `FAILED` are told of every watched socket, asked for or not."""


class Watcher(Protocol):
    """Who hears that a socket is ready."""

    def ready(self, events: int) -> None:
        """Do what can be done without blocking; the socket may turn out not to be ready."""
        ...

    def abort(self) -> None:
        """Close everything at once: `ready` has failed in a way that nobody foresaw."""
        ...


class Timer:
    """A call that is due at a time."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget it."""
        self.call = None


class Loop:
    """Waits for sockets and for time to pass. Everything but `call` and `stop` belongs to the thread that runs it.

    An exception in one watcher ends what that watcher has, and nothing else.

    Args:
        clock: monotonic seconds.

    Attributes:
        now: the time when this turn began.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._calls: deque[Callable[[], Callable[[], None]]] = deque()
        self._closed: list[socket.socket] = []
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, READ)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.now = clock()

    def watch(self, fd: int, events: int, watcher: Watcher) -> None:
        """Tell a watcher whenever a socket is ready."""
        self._watchers[fd] = watcher
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched socket."""
        self._epoll.modify(fd, events)

    def hand_over(self, fd: int, events: int, watcher: Watcher) -> None:
        """Tell another watcher of a watched socket from now on, and of other events."""
        self._watchers[fd] = watcher
        self._epoll.modify(fd, events)

    def park(self, fd: int) -> None:
        """Tell nobody anything of a socket, until it is watched again."""
        del self._watchers[fd]
        self._epoll.unregister(fd)

    def close_socket(self, sock: socket.socket) -> None:
        """Close a socket at the end of this turn.

        Closed at once, its number could be another one's before the rest of this turn's events are told. And epoll
        would go on to tell of it, as long as a process that another thread starts has it, too (epoll(7)).
        """
        if self._watchers.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())
        self._closed.append(sock)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call something later on."""
        timer = Timer(self.now + seconds, call)
        heapq.heappush(self._timers, (timer.due, next(self._count), timer))
        return timer

    def start(self, name: str) -> None:
        """Run in a new thread, which lives in the network namespace of the one that calls."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, wanted: Callable[[], _Result]) -> _Result:
        """Have something called in the loop's thread, and return what it returns; without a thread, call it here."""
        if self._thread is None:
            return wanted()
        done: Future[_Result] = Future()

        def answer() -> Callable[[], None]:
            try:
                result = wanted()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                return partial(done.set_exception, error)
            return partial(done.set_result, result)

        self._calls.append(answer)
        self._ring()
        return done.result()

    def stop(self) -> None:
        """End the thread and close what is the loop's own."""
        if self._thread is not None:
            self._stopping = True
            self._ring()
            self._thread.join()
        self._shut()
        self._epoll.close()
        os.close(self._bell)

    def turn(self, longest: float | None = None) -> None:
        """Wait for what comes next, at most `longest` seconds, and do it."""
        events = self._epoll.poll(self._patience(longest))
        self.now = self._clock()
        rung = False
        for fd, what in events:
            if fd == self._bell:
                rung = True
            elif (watcher := self._watchers.get(fd)) is not None:
                try:
                    watcher.ready(what)
                except Exception:  # noqa: BLE001 - whatever it is, the others go on
                    _LOG.exception("a connection is ended, as its proxy failed")
                    _end(watcher)
        self._run_timers()
        answers = self._do_calls() if rung else []
        self._shut()
        # Who has called finds the sockets closed.
        for answer in answers:
            answer()

    def _run(self) -> None:
        while not self._stopping:
            self.turn()

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _do_calls(self) -> list[Callable[[], None]]:
        """Do what other threads have asked for; return what tells them so."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        found: list[Callable[[], None]] = []
        while self._calls:
            found.append(self._calls.popleft()())
        return found

    def _patience(self, longest: float | None) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return longest
        left = max(self._timers[0][0] - self._clock(), 0.0)
        return left if longest is None else min(left, longest)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                try:
                    timer.call()
                except Exception:  # noqa: BLE001 - whatever it is, the others go on
                    _LOG.exception("a timer of the proxy failed")

    def _shut(self) -> None:
        for sock in self._closed:
            with contextlib.suppress(OSError):
                sock.close()
        self._closed.clear()


def _end(watcher: Any) -> None:  # noqa: ANN401 - a Watcher
    try:
        watcher.abort()
    except Exception:  # noqa: BLE001 - whatever it is, the others go on
        _LOG.exception("what a proxied connection had could not be closed")
