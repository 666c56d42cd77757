"""What docs/modes.md says of the mode `ipvs` beyond upstream's flows, with real packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import mode_differences

if TYPE_CHECKING:
    from support.ipvs import IpvsNode


def test_weights(node: IpvsNode) -> None:
    mode_differences.check_weights(node, "ipvs", node.vip())


def test_a_backend_that_refuses(node: IpvsNode) -> None:
    mode_differences.check_a_backend_that_refuses(node, "ipvs", node.vip())


def test_connections_when_the_agent_ends(node: IpvsNode) -> None:
    mode_differences.check_connections_when_the_agent_ends(node, "ipvs", node.vip(), node.restart)
