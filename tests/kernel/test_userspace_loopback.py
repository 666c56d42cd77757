"""Node ports on loopback in mode `nftables`, by the userspace proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.userspace import WithLoopback
from pointsman.lab.traffic import Held, Refused, connect
from pointsman.lab.waiting import wait_until
from pointsman.model.plan import Delta, Plan
from support.proxied import SETTINGS, OnGround, answer, node_port, reach, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground
    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Transport

pytestmark = pytest.mark.needs("nftables", "connection tracking")

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
OPTED_IN = msgspec.structs.replace(SETTINGS, localhost_node_ports=True)


@pytest.fixture
def node(ground: Ground) -> Iterator[OnGround[WithLoopback]]:
    with ground.node.namespace.entered():
        made = OnGround(ground, lambda: WithLoopback(NftablesDataplane()))
        made.plan = Plan({}, OPTED_IN)
        made.adopt()
        yield made
        made.dataplane.close()


def at_loopback(node: OnGround[WithLoopback], protocol: Transport = "tcp", family: Family = 4) -> str:
    return reach(node.ground.node, node_port(protocol, family), at=LOOPBACK[family])


def refused(node: OnGround[WithLoopback], family: Family = 4) -> bool:
    return isinstance(connect(node.ground.node, LOOPBACK[family], 30080), Refused)


def put_one(node: OnGround[WithLoopback]) -> Server:
    (server,) = node.endpoints(1)
    node.put({node_port(): answer([server]), vip(): answer([server])})
    return server


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_they_answer_there_and_everywhere_else_as_before(
    node: OnGround[WithLoopback], family: Family, protocol: Transport
) -> None:
    frontend = node_port(protocol, family)
    node.put({frontend: answer(node.endpoints(1, protocol, family))})
    assert at_loopback(node, protocol, family) == "a"
    assert reach(node.ground.client, frontend, at=node.ground.node.address(family)) == "a"


def test_nobody_outside_reaches_what_listens_on_loopback(node: OnGround[WithLoopback]) -> None:
    put_one(node)
    node.ground.network.route("127.0.0.1/32", via=node.ground.node)
    assert "127.0.0.1:30080" in node.ground.node.namespace.run("ss", "-Hltn")
    assert "0.0.0.0:30080" not in node.ground.node.namespace.run("ss", "-Hltn")


def test_a_service_that_goes_closes_its_port_and_so_does_one_without_backends(node: OnGround[WithLoopback]) -> None:
    server = put_one(node)
    node.put({node_port(): answer(())})
    assert refused(node)
    node.put({node_port(): answer([server])})
    assert at_loopback(node) == "a"
    with Held(node.ground.node, LOOPBACK[4], 30080, count=3) as held:
        node.put({}, gone=[node_port()])
        assert refused(node)
        assert not held.broken()


def test_a_change_leaves_all_other_ports_as_they_are(node: OnGround[WithLoopback]) -> None:
    server = put_one(node)
    node.put({node_port(port=30081): answer([server])})
    with Held(node.ground.node, LOOPBACK[4], 30080, count=3) as held:
        node.put({vip(): answer([server])}, gone=[node_port(port=30081)])
        assert isinstance(connect(node.ground.node, LOOPBACK[4], 30081), Refused)
        assert at_loopback(node) == "a"
        assert not held.broken()


def test_it_follows_the_settings(node: OnGround[WithLoopback]) -> None:
    put_one(node)
    node.dataplane.apply(Delta({}, settings=SETTINGS))
    assert refused(node)
    node.dataplane.apply(Delta({}, settings=OPTED_IN))
    assert at_loopback(node) == "a"


def test_a_port_that_is_taken_is_told_by_name_until_it_is_free_and_harms_nobody(node: OnGround[WithLoopback]) -> None:
    other = node.ground.servers.start(node.ground.node, 30080, address="127.0.0.1", name="another program")
    server = node.endpoints(1)
    written = node.put({node_port(): answer(server), node_port(port=30081): answer(server)})
    assert list(written.refused) == ["127.0.0.1:30080/tcp"]
    assert "another program has it" in written.refused["127.0.0.1:30080/tcp"]
    assert at_loopback(node) == "another program"
    assert reach(node.ground.node, node_port(port=30081), at="127.0.0.1") == "a"
    assert reach(node.ground.client, node_port(), at=node.ground.node.address(4)) == "a"
    node.ground.servers.stop(other)
    assert not node.adopt().refused
    assert at_loopback(node) == "a"


def test_a_port_that_is_taken_is_tried_again_with_each_change_for_as_long_as_it_is_wanted(
    node: OnGround[WithLoopback],
) -> None:
    other = node.ground.servers.start(node.ground.node, 30080, address="127.0.0.1", name="another program")
    server = node.endpoints(1)
    named = node.put({node_port(): answer(server)}).refused
    assert node.put({vip(): answer(server)}).refused == named
    assert not node.put({}, gone=[node_port()]).refused
    node.put({node_port(): answer(server)})
    node.ground.servers.stop(other)
    assert not node.put({vip(): answer(server)}).refused
    assert at_loopback(node) == "a"
    # Gone with other settings in one delta, it is no more asked for.
    again = node.ground.servers.start(node.ground.node, 30081, address="127.0.0.1", name="another program")
    assert node.put({node_port(port=30081): answer(server)}).refused
    assert not node.dataplane.apply(Delta({}, frozenset([node_port(port=30081)]), OPTED_IN)).refused
    node.ground.servers.stop(again)


def test_retired_it_goes_on_with_what_it_has(node: OnGround[WithLoopback]) -> None:
    put_one(node)
    with Held(node.ground.node, LOOPBACK[4], 30080, count=3) as held:
        node.dataplane.retire(60.0)
        assert node.dataplane.carried() == 3
        assert refused(node)
        assert not held.broken()
    wait_until(lambda: node.dataplane.carried() == 0, "the connections' end", patience=5, pause=0.01)
