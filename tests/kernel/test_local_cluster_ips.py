"""Cluster IPs that are the node's own, as while IPVS drains, or where a cache of DNS on the node serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.protocol import Dataplane
from pointsman.lab.traffic import Refused, connect
from support.dataplanes import open_dataplane
from support.proxied import OnGround, answer, node_port, reach, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground
    from pointsman.api.names import Mode
    from pointsman.model.plan import Family

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")


@pytest.fixture(params=["nftables", "userspace"])
def node(request: pytest.FixtureRequest, ground: Ground) -> Iterator[OnGround[Dataplane]]:
    mode: Mode = request.param
    made = OnGround[Dataplane](ground, lambda: open_dataplane(ground.node, mode))
    made.adopt()
    yield made
    made.dataplane.close()


@pytest.mark.parametrize("family", [4, 6])
def test_node_ports_do_not_answer_there_and_what_the_node_serves_is_left_alone(
    node: OnGround[Dataplane], family: Family
) -> None:
    frontend, port, ground = vip(family=family), node_port(family=family), node.ground
    ground.node.namespace.run("ip", f"-{family}", "route", "add", "local", frontend.address, "dev", "lo")
    ground.node.namespace.sysctl({"net/ipv6/ip_nonlocal_bind": "1"})  # an address by a route alone
    given = answer(node.endpoints(1, family=family), scheduler="rr")
    node.put({frontend: msgspec.structs.replace(given, exclusive=True), port: given})
    for origin in (ground.client, ground.node):
        assert reach(origin, frontend) == "a"
        assert reach(origin, port, at=ground.node.address(family)) == "a"
        assert isinstance(connect(origin, frontend.address, port.port), Refused)
    ground.servers.start(ground.node, port.port, address=frontend.address, name="the node's own")
    for origin in (ground.client, ground.node):
        assert reach(origin, port, at=frontend.address) == "the node's own"
