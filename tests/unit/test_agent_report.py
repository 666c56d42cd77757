from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pointsman.agent.outcome import Facts, Outcome
from pointsman.agent.report import log_sync, refusals
from pointsman.dataplane.protocol import Written
from pointsman.policy.planner import Counts

if TYPE_CHECKING:
    from pointsman.agent.pacing import Why
    from pointsman.model.problems import Problem

FACTS = Facts("nftables", Counts(0, 0, 0, 0, 0), {}, (), node_leaving=False, min_sync_period=0, sync_period=0)


def problems(written: Written | None, error: str = "") -> list[Problem]:
    return refusals(Outcome(True, frozenset(), 0, 0, written, error, (), (), FACTS))  # noqa: FBT003 (the first field)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, "CAP_NET_ADMIN"),
        (errno.EAFNOSUPPORT, "the kernel needs nf_tables for this IP version"),
        (errno.ENOMEM, "memory"),
        (errno.EBUSY, "another program"),
    ],
)
def test_the_remedy_fits_what_happened(number: int, words: str) -> None:
    (problem,) = problems(None, f"nftables refused to add the table: {os.strerror(number)}")
    assert problem.remedy.startswith("it is tried again; if it stays: ")
    assert words in problem.remedy
    assert ("another program" in problem.remedy) is (number == errno.EBUSY)


def test_nothing_is_guessed_of_an_unknown_error() -> None:
    (problem,) = problems(None, "no idea")
    assert problem.remedy == "it is tried again"


def test_each_refused_part_is_told() -> None:
    found = problems(Written(refused={"Service a/b": os.strerror(errno.ENOMEM)}))
    assert [problem.object for problem in found] == ["Service a/b"]


def test_another_mode_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    outcome = Outcome(True, frozenset(), 0, 0, Written(), "", (), (), FACTS, switched=True)  # noqa: FBT003 (as above)
    log_sync(outcome, "another program changed the tables")
    (record,) = caplog.records
    assert (record.levelname, record.message.split("why: ")[1]) == ("INFO", "another mode came in force")


@pytest.mark.parametrize(
    ("why", "level"),
    [("the first", "INFO"), ("after a failure", "INFO"), ("another program changed the tables", "WARNING")],
)
def test_a_full_sync_says_why(caplog: pytest.LogCaptureFixture, why: Why, level: str) -> None:
    caplog.set_level("DEBUG")
    log_sync(Outcome(True, frozenset(), 0, 0, Written(), "", (), (), FACTS), why)  # noqa: FBT003 (the first field)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.message.endswith(f"(mode nftables); why: {why}")
