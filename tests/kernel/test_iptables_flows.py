"""Upstream's packet flows on a node that uses the legacy iptables; for the one over nf_tables see test_mode_flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.iptables import as_kubelet_does
from support.latest import Latest
from support.packet_flows import Case, Stage, params, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode
    from pointsman.lab.network import Host

pytestmark = pytest.mark.needs("iptables (legacy)", "connection tracking")


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Stage]]:
    with Latest[Stage]() as made:
        yield made


def prepare(node: Host) -> None:
    as_kubelet_does(node, "legacy")


@pytest.mark.parametrize(("mode", "suite", "after", "case"), list(params("iptables")))
def test_flow(
    latest: Latest[Stage], mode: Mode, suite: Case, after: bool, case: Case  # noqa: FBT001 - a parameter
) -> None:  # fmt: skip
    stage = latest.get((suite["id"], after), lambda: staged(suite, mode, after=after, prepare=prepare))
    stage.flow(case).check()
