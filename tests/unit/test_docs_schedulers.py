"""What docs/schedulers.md says of schedulers is what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from pointsman.api.names import SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION, WEIGHT_ANNOTATION
from pointsman.api.schedulers import DEFAULT_SCHEDULER, NEAREST, SCHEDULER_FLAGS, SCHEDULERS, nearest

PAGE: Final = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text("utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row that begins with code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


NEAR: Final = {code(row[0])[0]: row for row in rows(section("When a scheduler is not there"))}


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_every_scheduler_is_explained(mode: str) -> None:
    explained = [name for row in rows(section(f"In mode {mode}")) for name in code(row[0])]
    flags = set(SCHEDULER_FLAGS)
    assert sorted(set(explained) - flags) == sorted(SCHEDULERS[mode])  # type: ignore[index]


def test_every_flag_is_explained() -> None:
    explained = {name for row in rows(section("In mode ipvs")) for name in code(row[0])}
    assert explained & set(SCHEDULER_FLAGS) == set(SCHEDULER_FLAGS)


def test_every_scheduler_has_a_nearest_one() -> None:
    assert list(NEAR) == list(NEAREST)


@pytest.mark.parametrize("name", NEAREST)
def test_the_nearest_one_in_nftables_is_the_one_that_is_used(name: str) -> None:
    assert code(NEAR[name][1]) == [nearest(name, "nftables", SCHEDULERS["nftables"])]


@pytest.mark.parametrize("name", NEAREST)
def test_the_order_in_ipvs_is_the_one_that_is_gone_through(name: str) -> None:
    order = code(NEAR[name][2])
    there = [each for each in SCHEDULERS["ipvs"] if each != name]
    for wanted in order:
        assert nearest(name, "ipvs", there) == wanted
        there.remove(wanted)
    # What is left is taken as the mode lists it, and the table says nothing of it.
    assert not set(there) & set(NEAREST[name])


def test_the_other_modes_have_one_scheduler() -> None:
    text = " ".join(section("When a scheduler is not there").split())
    assert "mode `iptables` that is always `random`, in `userspace` always `rr`" in text
    for name in NEAREST:
        assert nearest(name, "iptables", SCHEDULERS["iptables"]) == "random"
        assert nearest(name, "userspace", SCHEDULERS["userspace"]) == "rr"


def test_defaults_and_annotations_are_those_of_the_code() -> None:
    assert ", ".join(f"`{name}` in mode {mode}" for mode, name in DEFAULT_SCHEDULER.items()) in PAGE
    for annotation in (SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION, WEIGHT_ANNOTATION):
        assert f"`{annotation}`" in PAGE
