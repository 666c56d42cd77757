"""What docs/modes.md says of each mode beyond upstream's flows, with real packets; for ipvs see tests/vm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.protocol import Dataplane
from support import mode_differences
from support.dataplanes import open_dataplane
from support.mode_table import difference
from support.proxied import OnGround, give_addresses, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground
    from pointsman.api.names import Mode

pytestmark = pytest.mark.needs("nftables", "connection tracking", "iptables (nft)")

MODES: tuple[Mode, ...] = ("nftables", "iptables", "userspace")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture
def node(ground: Ground, mode: Mode) -> Iterator[OnGround[Dataplane]]:
    give_addresses(ground)
    made = OnGround[Dataplane](ground, lambda: open_dataplane(ground.node, mode))
    made.adopt()
    yield made
    made.dataplane.close()


def test_weights(node: OnGround[Dataplane], mode: Mode) -> None:
    mode_differences.check_weights(node, mode, vip())


def test_a_backend_that_refuses(node: OnGround[Dataplane], mode: Mode) -> None:
    mode_differences.check_a_backend_that_refuses(node, mode, vip())


def test_connections_when_the_agent_ends(node: OnGround[Dataplane], mode: Mode) -> None:
    mode_differences.check_connections_when_the_agent_ends(node, mode, vip(), node.restart)


def test_clients_that_the_mode_iptables_remembers() -> None:
    loaded = Path("/sys/module/xt_recent/parameters/ip_list_tot").read_text("ascii").strip()
    assert difference("affinity-clients")["iptables"] == f"{loaded} an endpoint"
