"""Changes of a node's mode under load, to and from `ipvs`: who notices (docs/changing-modes.md)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from support.latest import Latest
from support.mode_changes import ChangingNode, changing_node, expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode
    from support.ipvs import Shared

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(900)]

WAY = ("nftables", "ipvs", "iptables", "ipvs", "userspace", "ipvs", "nftables")


@pytest.fixture(scope="module")
def _node() -> Iterator[Latest[ChangingNode]]:
    with Latest[ChangingNode]() as made:
        yield made


@pytest.fixture
def node(shared: Shared, _node: Latest[ChangingNode]) -> ChangingNode:
    """A node that all changes are made on, one after the other: what drains meanwhile is a part of it."""
    return _node.get("node", lambda: changing_node(shared.ground))


@pytest.mark.parametrize(("before", "after"), list(pairwise(WAY)))
def test_nobody_notices_a_change(
    node: ChangingNode, before: Mode, after: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.put_in_force(before)
    expect(node.change(after), before, after, capsys)
