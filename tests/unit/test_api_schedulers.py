from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from pointsman.api.names import MODES
from pointsman.api.schedulers import (
    DEFAULT_SCHEDULER,
    NEAREST,
    SCHEDULER_FLAGS,
    SCHEDULERS,
    SchedulerFlag,
    default_scheduler,
    is_known,
    may_have,
    nearest,
    possible,
)
from pointsman.dataplane.ipvs import objects

if TYPE_CHECKING:
    from pointsman.api.names import Mode

PAGE = Path(__file__).parents[2] / "docs" / "schedulers.md"
EVERY = frozenset(name for names in SCHEDULERS.values() for name in names)
IPVS = SCHEDULERS["ipvs"]


def test_every_scheduler_has_a_row_of_known_ones() -> None:
    assert set(NEAREST) == EVERY
    assert all(set(row) <= EVERY - {name} and len(set(row)) == len(row) for name, row in NEAREST.items())
    assert is_known("lc")
    assert not is_known("fastest")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scheduler", sorted(EVERY))
def test_what_is_there_is_itself_and_else_it_is_one_that_is_there(scheduler: str, mode: Mode) -> None:
    found = nearest(scheduler, mode, SCHEDULERS[mode])
    assert found in SCHEDULERS[mode]
    assert (found == scheduler) == (scheduler in SCHEDULERS[mode])
    for alone in SCHEDULERS[mode]:
        assert nearest(scheduler, mode, [alone, "none of ours"]) == alone
    assert nearest(scheduler, mode, ()) == DEFAULT_SCHEDULER[mode]


@pytest.mark.parametrize(
    ("scheduler", "mode", "expected"),
    [
        *((name, "nftables", "random") for name in ("lc", "wlc", "sed", "nq", "fo", "ovf")),
        *((name, "nftables", "random") for name in ("lblc", "lblcr")),
        ("random", "ipvs", "rr"),
        *((name, "iptables", "random") for name in sorted(EVERY)),
        *((name, "userspace", "rr") for name in sorted(EVERY)),
    ],
)
def test_another_mode_has_something_near(scheduler: str, mode: Mode, expected: str) -> None:
    assert nearest(scheduler, mode, SCHEDULERS[mode]) == expected


@pytest.mark.parametrize(
    ("order"),
    [
        ("mh", "sh", "rr"),
        ("sh", "mh", "rr"),
        ("lblcr", "lblc", "lc", "wlc", "rr"),
        ("lblc", "lblcr", "lc", "wlc", "rr"),
        ("lc", "wlc", "sed", "nq", "rr"),
        ("wlc", "sed", "nq", "lc", "wrr", "rr"),
        ("fo", "ovf", "wrr", "rr"),
        ("ovf", "wlc", "sed", "wrr", "rr"),
        ("dh", "lblc", "lblcr", "rr"),
        ("rr", "wrr"),
    ],
)
def test_a_kernel_that_lacks_modules_goes_down_the_row(order: tuple[str, ...]) -> None:
    """Each is used once all that come before it are missing."""
    for place, expected in enumerate(order):
        there = [name for name in IPVS if name not in order[:place]]
        assert nearest(order[0], "ipvs", there) == expected


def test_the_page_on_schedulers_has_the_same_table() -> None:
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|$", text, re.MULTILINE)
    written = {name: (always, tuple(re.findall(r"\w+", order))) for name, always, order in rows}
    assert written == {
        name: (
            nearest(name, "nftables", SCHEDULERS["nftables"]),
            tuple(each for each in NEAREST[name] if each in IPVS),
        )
        for name in NEAREST
    }


def test_flags_are_those_of_the_dataplane() -> None:
    assert tuple(SCHEDULER_FLAGS) == get_args(SchedulerFlag) == tuple(sorted(SCHEDULER_FLAGS))
    assert {flag: of for flag, (of, _) in objects.SCHEDULER_FLAGS.items()} == SCHEDULER_FLAGS


OWN, TOY = "example.com/own", "example.com/toy"


def test_one_of_somebodys_own_may_be_there_in_nftables_and_in_modes_of_somebodys_own() -> None:
    assert {mode for mode in (*MODES, TOY) if may_have(mode, OWN)} == {"nftables", TOY}
    assert may_have(TOY, "anything")
    assert not may_have("nftables", "anything")
    assert possible("nftables", [OWN, "sh", "anything", "random"]) == ("random", "sh", OWN)
    assert possible(TOY, ["slow", OWN, "random"]) == ("slow", OWN, "random")


def test_what_comes_nearest_to_one_of_somebodys_own_is_the_modes_default() -> None:
    assert nearest(OWN, "nftables", [*SCHEDULERS["nftables"], OWN]) == OWN
    assert nearest(OWN, "nftables", [*SCHEDULERS["nftables"], "example.com/other"]) == "random"
    assert nearest(OWN, "ipvs", IPVS) == "rr"
    assert nearest(OWN, TOY, ["slow", "quick"]) == "slow"


def test_the_default_of_a_mode_of_somebodys_own_is_its_first() -> None:
    assert default_scheduler(TOY, ("slow", "random")) == "slow"
    assert default_scheduler(TOY) == "random"
    assert default_scheduler("ipvs", ("lc",)) == "rr"
    assert nearest("lc", TOY, ["slow", "random"]) == "random", "as near as in any mode"
