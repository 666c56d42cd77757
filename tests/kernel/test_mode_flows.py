"""Upstream's packet flows in every mode that this kernel has, each as a real packet; for `ipvs` see tests/vm.

The cases are tests/vectors/packet_flows.json; all of them come out of a real kube-proxy in this way, in the modes that
they name. What holds for the others, and where these differ, is in the table of docs/modes.md.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest

from support.latest import Latest
from support.packet_flows import Case, Stage, params, phases, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode

pytestmark = pytest.mark.needs("nftables", "connection tracking")

COUNTS: dict[Mode, int] = {"nftables": 64, "iptables": 67, "userspace": 64}


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Stage]]:
    with Latest[Stage]() as made:
        yield made


@pytest.mark.parametrize(("mode", "count"), COUNTS.items())
def test_every_suite_of_the_mode_is_there(mode: Mode, count: int) -> None:
    found = list(phases(mode))
    assert len(found) == count
    assert {suite["family"] for suite, _, _ in found} == {"IPv4"}
    assert sum(after for _, after, _ in found) == 5


@pytest.mark.parametrize(("mode", "suite", "after", "case"), list(chain.from_iterable(map(params, COUNTS))))
def test_flow(
    latest: Latest[Stage], mode: Mode, suite: Case, after: bool, case: Case  # noqa: FBT001 - a parameter
) -> None:  # fmt: skip
    stage = latest.get((mode, suite["id"], after), lambda: staged(suite, mode, after=after))
    stage.flow(case).check()
