"""Changes of a node's mode under load: who notices (docs/changing-modes.md); those of `ipvs` are in the vm tier."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.network import Network
from pointsman.lab.servers import Servers
from support.latest import Latest
from support.mode_changes import ChangingNode, changing_node, documented

from .conftest import lay_ground

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(600)]

WAY = ("nftables", "iptables", "nftables", "userspace", "iptables", "userspace", "nftables")


@contextmanager
def grounded() -> Iterator[ChangingNode]:
    with Network() as network, Servers() as servers, changing_node(lay_ground(network, servers)) as made:
        yield made


@pytest.fixture(scope="module")
def _node() -> Iterator[Latest[ChangingNode]]:
    with Latest[ChangingNode]() as made:
        yield made


@pytest.fixture
def node(_needs: None, _node: Latest[ChangingNode]) -> ChangingNode:
    """A node that all changes are made on, one after the other: what drains meanwhile is a part of it."""
    return _node.get("node", grounded)


@pytest.mark.parametrize(("before", "after"), list(pairwise(WAY)))
def test_nobody_notices_a_change(node: ChangingNode, before: Mode, after: Mode) -> None:
    node.put_in_force(before)
    assert str(node.change(after)) == documented()[before, after]
