from __future__ import annotations

import pytest

from pointsman.agent.pacing import Pacing


def test_nothing_is_due_without_a_change() -> None:
    assert Pacing().due() is None


def test_the_first_change_is_due_at_once_and_the_next_after_the_minimum() -> None:
    pacing = Pacing(min_period=0.05)
    pacing.change(10.0)
    assert pacing.due() == 10.0
    assert pacing.start(10.0)
    pacing.succeed(10.02, newer=None)
    assert pacing.due() is None
    pacing.change(10.03)
    assert pacing.due() == 10.05
    pacing.change(10.04)
    assert pacing.changed_at == 10.03


def test_only_the_first_sync_compares_everything() -> None:
    pacing = Pacing()
    pacing.change(1.0)
    assert pacing.start(1.0)
    pacing.succeed(1.0, newer=None)
    pacing.change(2.0)
    assert not pacing.start(2.0)


def test_a_change_that_came_during_a_sync_waits_for_the_minimum() -> None:
    pacing = Pacing(min_period=0.05)
    pacing.change(1.0)
    pacing.start(1.0)
    pacing.change(1.01)
    pacing.succeed(1.02, newer=1.01)
    assert pacing.due() == 1.05


def test_failures_are_retried_ever_later_and_at_the_latest_after_the_maximum() -> None:
    pacing = Pacing(min_period=0.05, max_period=1.0)
    pacing.change(0.0)
    now, delays = 0.0, []
    for _ in range(6):
        assert pacing.start(now)
        pacing.fail(now)
        due = pacing._retry
        assert due is not None
        delays.append(due - now)
        now = due
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    pacing.start(now)
    pacing.succeed(now, newer=None)
    assert pacing.due() is None


def test_a_change_does_not_wait_for_the_retry_of_a_failure_longer_than_a_second() -> None:
    pacing = Pacing(min_period=0.05, max_period=30.0)
    now = 0.0
    for _ in range(8):
        pacing.start(now)
        pacing.fail(now)
        assert pacing._retry is not None
        now = pacing._retry
    pacing.start(now)
    pacing.fail(now)
    assert pacing.due() == now + 25.6
    pacing.change(now + 0.5)
    assert pacing.due() == now + 1.0


def test_a_partial_refusal_is_retried_and_does_not_hold_up_changes() -> None:
    pacing = Pacing(min_period=0.05)
    pacing.change(0.0)
    pacing.start(0.0)
    pacing.succeed(0.0, newer=None, complete=False)
    assert pacing.due() == 0.1
    pacing.change(0.06)
    assert pacing.due() == 0.06
    assert not pacing.start(0.06)
    pacing.succeed(0.06, newer=None)
    assert pacing.due() == 0.1, "the success of another change is no success of what was refused"
    assert pacing.start(0.1)
    pacing.succeed(0.1, newer=None)
    assert pacing.due() is None


def test_a_repair_is_due_at_once_but_repairs_do_not_take_all_the_time() -> None:
    pacing = Pacing()
    pacing.start(0.0)
    pacing.succeed(2.0, newer=None)
    pacing.disturb(5.0)
    assert pacing.due() == 5.0
    assert pacing.start(5.0)
    pacing.succeed(7.0, newer=None)
    pacing.disturb(7.1)
    assert pacing.due() == 15.0
    pacing.change(8.0)
    assert not pacing.start(8.0), "changes go on meanwhile"


def test_after_a_failure_the_next_sync_compares_everything() -> None:
    pacing = Pacing()
    pacing.start(0.0)
    pacing.succeed(0.0, newer=None)
    pacing.change(1.0)
    assert not pacing.start(1.0)
    pacing.fail(1.0)
    assert pacing.start(1.1)


def test_why_everything_is_compared() -> None:
    pacing = Pacing()
    pacing.start(0)
    assert pacing.why == "the first"
    pacing.fail(0)
    pacing.start(1)
    assert pacing.why == "after a failure"
    pacing.succeed(1, newer=None)
    pacing.disturb(2)
    pacing.start(2)
    assert pacing.why == "another program changed the tables"


def test_a_look_is_due_in_time_and_compares_nothing() -> None:
    pacing = Pacing()
    pacing.start(0.0)
    pacing.succeed(0.0, newer=None)
    pacing.look(30.0)
    pacing.look(40.0)
    assert pacing.due() == 30.0, "the earlier one"
    pacing.look(5.0)
    pacing.change(3.0)
    assert pacing.due() == 3.0
    assert not pacing.start(3.0)
    pacing.succeed(3.0, newer=None)
    assert pacing.due() is None, "every sync looks"
