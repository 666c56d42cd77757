from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.cli.lab_view import View
from pointsman.lab.steps import Found, Result, Step, Table, bars, count

if TYPE_CHECKING:
    import pytest

GOOD = Step("ClusterIP", "connects", Found(good=True, says="10 answered", bars=(bars("to", {"b": 4, "a": 6}),)), 0.25)
BAD = Step(
    "Survey",
    "tries",
    Found(good=False, says="1 not", table=Table(("Service", ""), (("x/y", "WRONG"),)), notes=("n",)),
    1,
)


def shown(capsys: pytest.CaptureFixture[str], *steps: Step) -> str:
    view = View(plain=True)
    for number, step in enumerate(steps, 1):
        view.begin(number, step.title, step.does)
        view.end(step)
    view.verdict(Result(all(step.found.good for step in steps), steps, 2.0))
    return capsys.readouterr().out


def test_a_step_shows_what_it_does_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, GOOD)
    assert " 1. ClusterIP: connects" in text
    assert "ok 10 answered  (0.2 s)" in text
    assert "to  a  " + "#" * 30 + "  6" in text
    assert "b  " + "#" * 20 in text
    assert "PASSED: all 1 steps" in text
    assert "\x1b" not in text


def test_a_failure_is_named_in_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, GOOD, BAD)
    assert "FAILED 1 not" in text
    assert "x/y" in text
    assert "WRONG" in text
    assert "FAILED: Survey (1 of 2 steps)" in text


def test_counts_are_written_with_their_noun() -> None:
    assert count(1, "agent") == "1 agent"
    assert count(2000, "connection") == "2,000 connections"
    assert bars("x", {"a": 1}, ("b",)).counts == {"a": 1, "b": 0}
