"""Upstream's packet flows for kube-proxy's nftables mode, each as a real packet.

The cases are tests/vectors/packet_flows.json; all of them come out of a real kube-proxy in this way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.latest import Latest
from support.packet_flows import Case, Stage, params, phases, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("nftables", "connection tracking")


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Stage]]:
    with Latest[Stage]() as made:
        yield made


def test_every_suite_of_the_mode_is_there() -> None:
    found = list(phases("nftables"))
    assert len(found) == 64
    assert {suite["family"] for suite, _, _ in found} == {"IPv4"}
    assert sum(after for _, after, _ in found) == 5


@pytest.mark.parametrize(("suite", "after", "case"), list(params("nftables")))
def test_flow(latest: Latest[Stage], suite: Case, after: bool, case: Case) -> None:  # noqa: FBT001 - a parameter
    stage = latest.get((suite["id"], after), lambda: staged(suite, "nftables", after=after))
    stage.flow(case).check()
