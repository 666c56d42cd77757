from __future__ import annotations

import os
import resource
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.userspace.loop import READ, Loop
from pointsman.dataplane.userspace.room import PATIENCE, RESERVE, Room, raise_limit

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watching:
    """Remembers what it was told; fails when it is asked to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.events: list[int] = []
        self.aborted = 0
        self._fails = fails

    def ready(self, events: int) -> None:
        self.events.append(events)
        if self._fails:
            raise RuntimeError("a fault")

    def abort(self) -> None:
        self.aborted += 1
        if self._fails:
            raise RuntimeError("another fault")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    made = Loop(clock)
    yield made
    made.stop()


def test_timers_are_due_in_order_and_can_be_cancelled(loop: Loop, clock: Clock) -> None:
    called: list[str] = []
    loop.later(2.0, lambda: called.append("second"))
    loop.later(1.0, lambda: called.append("first"))
    loop.later(1.5, lambda: called.append("never")).cancel()
    loop.turn(0)
    assert called == []
    clock.now = 2.0
    loop.turn()
    assert called == ["first", "second"]


def test_a_fault_in_a_timer_or_a_watcher_stays_there(
    loop: Loop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    bad, good, called = Watching(fails=True), Watching(), list[int]()
    pairs = [socket.socketpair() for _ in range(2)]
    for watching, (here, there) in zip((bad, good), pairs, strict=True):
        loop.watch(here.fileno(), READ, watching)
        there.send(b"x")

    def fail() -> None:
        raise RuntimeError("a fault")

    loop.later(0.0, fail)
    loop.later(0.0, lambda: called.append(1))
    clock.now = 1.0
    loop.turn()
    assert (bad.aborted, good.aborted, good.events, called) == (1, 0, [READ], [1])
    assert "a timer of the proxy failed" in caplog.text
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()


def test_a_closed_socket_hears_nothing_more_in_the_same_turn(loop: Loop) -> None:
    """And its number is not given to another one before the turn is over."""
    pairs = [socket.socketpair() for _ in range(2)]

    class Closing(Watching):
        def ready(self, events: int) -> None:
            super().ready(events)
            for here, _ in pairs:
                loop.close_socket(here)

    watchings = [Closing(), Closing()]
    for watching, (here, there) in zip(watchings, pairs, strict=True):
        loop.watch(here.fileno(), READ, watching)
        there.send(b"x")
    loop.turn()
    assert sorted(len(watching.events) for watching in watchings) == [0, 1]
    assert all(here.fileno() == -1 for here, _ in pairs)
    for _, there in pairs:
        there.close()


def test_a_closed_socket_that_somebody_else_has_open_tells_nothing_to_the_next_one_of_its_number(loop: Loop) -> None:
    """A process that another thread starts has all files between fork and exec; a duplicate has the same effect."""
    old, peer = socket.socketpair()
    fresh, other = socket.socketpair()
    before, after, number = Watching(), Watching(), old.fileno()
    loop.watch(number, READ, before)
    elsewhere = old.dup()
    loop.close_socket(old)
    loop.turn(0)
    os.dup2(fresh.fileno(), number)
    loop.watch(number, READ, after)
    peer.send(b"x")
    loop.turn(0)
    assert (before.events, after.events) == ([], [])
    other.send(b"x")
    loop.turn()
    assert after.events == [READ], "what is its own it does hear"
    os.close(number)
    for sock in (elsewhere, peer, fresh, other):
        sock.close()


def test_calls_are_made_in_its_thread_and_errors_come_back() -> None:
    loop = Loop()
    loop.start("a loop")

    def fail() -> None:
        raise ValueError("the caller's")

    assert loop.call(lambda: threading.current_thread().name) == "a loop"
    with pytest.raises(ValueError, match="the caller's"):
        loop.call(fail)
    assert loop.call(lambda: 1) == 1
    loop.stop()


def test_who_waits_for_room_goes_on_when_files_are_given_back(loop: Loop, clock: Clock) -> None:
    room, resumed = Room(loop, 2 * RESERVE + 4), list[int]()
    room.take(RESERVE + 3)
    assert not room.has(2)
    room.wait(lambda: resumed.append(1))
    assert f"{RESERVE + 3} of this process's {2 * RESERVE + 4} files" in room.problem
    clock.now += PATIENCE
    loop.turn()
    assert not resumed, "there is no room yet"
    room.give(1)
    loop.turn()
    assert resumed == [1]
    assert room.problem, "nobody knows yet"
    clock.now += PATIENCE
    loop.turn()
    assert not room.problem


def test_who_still_finds_no_room_waits_on_and_it_is_told_once(
    loop: Loop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    room = Room(loop, 1000)

    def resume() -> None:
        room.wait(resume, OSError(24, "Too many open files"))

    resume()
    for _ in range(3):
        clock.now += PATIENCE
        loop.turn()
    assert "Too many open files" in room.problem
    assert caplog.text.count("new connections wait") == 1


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        assert raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
