"""Upstream's packet flows in the mode `ipvs`, each as a real packet in a kernel that has IPVS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.latest import Latest
from support.packet_flows import Case, Stage, params, phases, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Stage]]:
    with Latest[Stage]() as made:
        yield made


def test_every_suite_of_the_mode_is_there() -> None:
    found = list(phases("ipvs"))
    assert len(found) == 64
    assert {suite["family"] for suite, _, _ in found} == {"IPv4"}


@pytest.mark.parametrize(("mode", "suite", "after", "case"), list(params("ipvs")))
def test_flow(
    latest: Latest[Stage], mode: Mode, suite: Case, after: bool, case: Case  # noqa: FBT001 - a parameter
) -> None:  # fmt: skip
    stage = latest.get((suite["id"], after), lambda: staged(suite, mode, after=after))
    stage.flow(case).check()
