"""The ground of the kernel tier: nodes, pods and clients as network namespaces, and real packets between them.

Every test here needs network namespaces and veth devices. Run as root, or as a plain user in namespaces of one's own:
`unshare --user --map-root-user --mount --net sh -c 'mount -t tmpfs tmpfs /run && pytest tests/kernel'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.lab.network import Host, Network
from pointsman.lab.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ALWAYS = ("network namespaces", "veth devices")


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest, swept: None, require: Callable[[str], None]) -> None:  # noqa: ARG001 - swept first
    """Check what every test here needs, and the features of its `needs` marker."""
    marked = [feature for marker in request.node.iter_markers("needs") for feature in marker.args]
    for feature in (*_ALWAYS, *marked):
        require(feature)


@pytest.fixture
def network(_needs: None) -> Iterator[Network]:
    """A network with nothing but its router; declare hosts, then `build()`."""
    with Network() as made:
        yield made


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Runs servers; none yet."""
    with Servers() as made:
        yield made


class Ground(msgspec.Struct):
    """One node under test and what is around it, both address families, servers at port 80 on every pod.

    Attributes:
        network, servers: to add to.
        node: the node under test, 172.16.0.1 and fd00:172:16::1.
        other: another node.
        pods: two on `node` (web-1, web-2), one on `other` (web-3); 192.168.N.M and fd00:192:168:N::M.
        client: outside, 203.0.113.1 and 2001:db8:203::1.
    """

    network: Network
    servers: Servers
    node: Host
    other: Host
    pods: tuple[Host, Host, Host]
    client: Host


@pytest.fixture
def ground(network: Network, servers: Servers) -> Ground:
    """One node under test, another one, three pods with servers (tcp, udp and sctp at port 80), a client outside.

    Cluster IPs 10.96.0.0/12 and fd00:10:96::/112 are routed to the node under test.
    """
    return lay_ground(network, servers)


def lay_ground(network: Network, servers: Servers) -> Ground:
    """Build the `ground`."""
    node = network.node("node-1", "172.16.0.1", "fd00:172:16::1")
    other = network.node("node-2", "172.16.0.2", "fd00:172:16::2")
    pods = (
        network.pod("web-1", "192.168.1.1", "fd00:192:168:1::1", node=node),
        network.pod("web-2", "192.168.1.2", "fd00:192:168:1::2", node=node),
        network.pod("web-3", "192.168.2.3", "fd00:192:168:2::3", node=other),
    )
    client = network.client("client", "203.0.113.1", "2001:db8:203::1")
    network.build()
    for destination in ("10.96.0.0/12", "fd00:10:96::/112"):
        network.route(destination, via=node)
    for pod in pods:
        for protocol in ("tcp", "udp", "sctp"):
            servers.start_everywhere(pod, 80, protocol)
    return Ground(network, servers, node, other, pods, client)
