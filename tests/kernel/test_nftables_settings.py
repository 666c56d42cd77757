"""What the configuration and the node's addresses change: masquerade, node ports, source ranges, service networks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.lab.network import Host, family_of
from pointsman.lab.traffic import Answered, Refused, connect
from support.flows import Flow
from support.manifests import Document, service, slices
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family

    from .conftest import Ground

CLUSTER_IP: Final[dict[int, str]] = {4: "10.96.0.10", 6: "fd00:10:96::10"}
UNALLOCATED: Final[dict[int, str]] = {4: "10.96.0.77", 6: "fd00:10:96::77"}
BALANCER: Final[dict[int, str]] = {4: "198.51.100.10", 6: "2001:db8:198::10"}
SECOND: Final[dict[int, str]] = {4: "172.17.0.1", 6: "2001:db8:172::1"}
NODE_PORT: Final = 30080
DEFAULTS: Final = {
    "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"],
    "serviceCIDRs": ["10.96.0.0/16", "fd00:10:96::/112"],
}

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6", "SCTP packets")
both_families = pytest.mark.parametrize("family", [4, 6])


class Scene:
    """The ground with a proxy on its node; Services are made with words of this file."""

    def __init__(self, ground: Ground, stack: ExitStack) -> None:
        self.ground = ground
        self.node = ground.node
        self.near, _, self.far = ground.pods
        self.pod = ground.pods[1]
        self._stack = stack

    def proxy(self, documents: list[Document] | None = None, **config: object) -> Proxy:
        """Put a proxy on the node; `config` is what a ProxyConfig's spec says beside the networks."""
        spec = ProxyConfigSpec.model_validate(DEFAULTS | config)
        made = self._stack.enter_context(Proxy(self.node, spec))
        made.put(documents or self.web())
        made.sync()
        return made

    def web(self, **fields: Any) -> list[Document]:  # noqa: ANN401 - those of `support.manifests.service`
        """Make a dual-stack Service on the near pod."""
        return [service("web", *CLUSTER_IP.values(), **fields), *slices("web", self.near)]

    def flow(
        self, origin: Host, address: str, port: int = 80, *, seen: Host | str, by: Host | None = None, at: int = 80
    ) -> Flow:
        """Say that connections are answered; by the near pod, or by `by`, at port `at`."""
        family = family_of(address)
        server = by or self.near
        endpoint = (address if by is self.node else server.address(family), at)
        shown = seen if isinstance(seen, str) else seen.address(family)
        return Flow(origin, address, port, "tcp", "answered", frozenset([endpoint]), shown)


@pytest.fixture
def scene(ground: Ground) -> Iterator[Scene]:
    for address in SECOND.values():
        ground.network.add_address(ground.node, address)
    for network in ("198.51.100.0/24", "2001:db8:198::/112"):
        ground.network.route(network, via=ground.node)
    with ExitStack() as stack:
        yield Scene(ground, stack)


def refused(origin: Host, address: str, port: int) -> None:
    Flow(origin, address, port, "tcp", "refused").check()


def dropped(origin: Host, address: str, port: int, source: str = "") -> None:
    Flow(origin, address, port, "tcp", "dropped", source=source).check()


# Which of the node's addresses have node ports


@pytest.fixture
def local_web(scene: Scene) -> Scene:
    """The node has a server of its own at the node port's number, on every address: what is left alone answers."""
    for address in scene.node.addresses:
        scene.ground.servers.start(scene.node, NODE_PORT, address=address)
    return scene


def assert_node_port(scene: Scene, family: int, *, first: bool, second: bool) -> None:
    """Tell on which of the node's addresses the Service answers; on the others, the node itself does."""
    for address, wanted in ((scene.node.address(family), first), (SECOND[family], second)):
        for origin in (scene.ground.client, scene.ground.other, scene.pod, scene.node):
            if wanted:
                scene.flow(origin, address, NODE_PORT, seen=scene.node).check()
            else:
                seen = address if origin is scene.node else origin
                scene.flow(origin, address, NODE_PORT, by=scene.node, at=NODE_PORT, seen=seen).check()


@both_families
@pytest.mark.parametrize(
    ("addresses", "first", "second"),
    [
        (None, True, False),
        (["primary"], True, False),
        (["172.17.0.0/16", "2001:db8:172::/48"], False, True),
        (["172.16.0.0/15", "fd00:172::/32", "2001:db8:172::/48"], True, True),
        (["all"], True, True),
        (["primary", "172.17.0.1/32", "2001:db8:172::1/128"], True, True),
        (["10.0.0.0/8", "fd00:1::/64"], False, False),
    ],
    ids=["default", "primary", "second", "both", "all", "primary and second", "none"],
)
def test_node_ports_answer_on_the_addresses_that_are_configured(
    local_web: Scene, family: Family, addresses: list[str] | None, *, first: bool, second: bool
) -> None:
    local_web.proxy(local_web.web(node_port=NODE_PORT), nodePortAddresses=addresses)
    assert_node_port(local_web, family, first=first, second=second)


@both_families
def test_a_node_port_does_not_answer_on_an_address_that_is_not_the_nodes_own(scene: Scene, family: Family) -> None:
    scene.ground.servers.start_everywhere(scene.pod, NODE_PORT)
    scene.proxy(scene.web(node_port=NODE_PORT), nodePortAddresses=["0.0.0.0/0", "::/0"])
    client, other = scene.ground.client, scene.ground.other
    scene.flow(client, scene.pod.address(family), NODE_PORT, by=scene.pod, at=NODE_PORT, seen=client).check()
    refused(scene.node, other.address(family), NODE_PORT)
    refused(scene.pod, client.address(family), NODE_PORT)


@both_families
def test_a_node_port_does_not_answer_on_loopback(scene: Scene, family: Family) -> None:
    scene.proxy(scene.web(node_port=NODE_PORT), nodePortAddresses=["all"])
    loopback = {4: "127.0.0.1", 6: "::1"}[family]
    refused(scene.node, loopback, NODE_PORT)
    scene.ground.servers.start(scene.node, NODE_PORT, address=loopback)
    flow = scene.flow(scene.node, loopback, NODE_PORT, by=scene.node, at=NODE_PORT, seen=loopback)
    flow.check()


@both_families
def test_an_address_that_comes_later_has_node_ports_at_once(scene: Scene, family: Family) -> None:
    scene.proxy(scene.web(node_port=NODE_PORT), nodePortAddresses=["all"])
    address = {4: "172.18.0.1", 6: "2001:db8:18::1"}[family]
    scene.ground.network.add_address(scene.node, address)
    scene.flow(scene.ground.client, address, NODE_PORT, seen=scene.node).check()


@both_families
def test_what_listens_on_the_node_at_other_ports_is_left_alone(scene: Scene, family: Family) -> None:
    scene.proxy(scene.web(node_port=NODE_PORT), nodePortAddresses=["all"])
    scene.ground.servers.start_everywhere(scene.node, 22)
    for origin in (scene.ground.client, scene.pod):
        flow = scene.flow(origin, scene.node.address(family), 22, by=scene.node, at=22, seen=origin)
        flow.check()


# Who is masqueraded


@both_families
def test_masquerade_all_hides_pods_too(scene: Scene, family: Family) -> None:
    scene.proxy(masqueradeAll=True)
    for origin in (scene.pod, scene.ground.client, scene.node):
        scene.flow(origin, CLUSTER_IP[family], seen=scene.node).check()


@both_families
def test_masquerade_all_keeps_the_address_of_outside_clients_under_a_local_policy(
    scene: Scene, family: Family
) -> None:  # fmt: skip
    documents = scene.web(node_port=NODE_PORT, spec={"externalTrafficPolicy": "Local"})
    scene.proxy(documents, masqueradeAll=True)
    client = scene.ground.client
    scene.flow(client, scene.node.address(family), NODE_PORT, seen=client).check()


@both_families
def test_without_pod_networks_nobody_is_masqueraded_to_a_cluster_ip(scene: Scene, family: Family) -> None:
    scene.proxy(podCIDRs=[])
    for origin in (scene.pod, scene.ground.client, scene.ground.other):
        scene.flow(origin, CLUSTER_IP[family], seen=origin).check()
    # But a pod that reaches itself, which would not answer itself otherwise.
    scene.flow(scene.near, CLUSTER_IP[family], seen=scene.node).check()


@both_families
def test_with_node_cidr_only_pods_of_this_node_keep_their_address(scene: Scene, family: Family) -> None:
    proxy = scene.proxy(localDetection="NodeCIDR")
    for origin in (scene.pod, scene.far, scene.ground.client):
        # The Node is not known yet, nor are its pods.
        scene.flow(origin, CLUSTER_IP[family], seen=origin).check()
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": scene.node.name},
        "spec": {"podCIDRs": ["192.168.1.0/24", "fd00:192:168:1::/64"]},
    }
    proxy.put([node])
    proxy.sync()
    scene.flow(scene.pod, CLUSTER_IP[family], seen=scene.pod).check()
    for origin in (scene.far, scene.ground.client):
        scene.flow(origin, CLUSTER_IP[family], seen=scene.node).check()


@both_families
def test_a_masqueraded_client_keeps_no_trace_in_other_connections(scene: Scene, family: Family) -> None:
    scene.proxy(masqueradeAll=True)
    client = scene.ground.client
    scene.flow(client, scene.near.address(family), by=scene.near, seen=client).check()
    scene.flow(scene.node, scene.far.address(family), by=scene.far, seen=scene.node).check()


@both_families
def test_the_node_is_masqueraded_when_it_connects_from_another_address(scene: Scene, family: Family) -> None:
    """To the address of a load balancer that is its own, under a Local policy, which keeps all other addresses."""
    spec = {"externalTrafficPolicy": "Local"}
    scene.proxy(scene.web(balancer_ips=BALANCER.values(), spec=spec))
    scene.ground.network.add_address(scene.node, BALANCER[family])
    scene.flow(scene.node, BALANCER[family], seen=scene.node).check()
    scene.flow(scene.ground.client, BALANCER[family], seen=scene.ground.client).check()


@both_families
@pytest.mark.parametrize("networks", [DEFAULTS["podCIDRs"], []], ids=["pods known", "pods not known"])
def test_a_cluster_ips_port_may_have_the_number_of_a_node_port(
    scene: Scene, family: Family, networks: list[str]
) -> None:  # fmt: skip
    proxy = scene.proxy(scene.web(node_port=NODE_PORT), nodePortAddresses=["all"], podCIDRs=networks)
    inner = {4: "10.96.0.11", 6: "fd00:10:96::11"}
    proxy.put([service("inner", *inner.values(), port=NODE_PORT), *slices("inner", scene.near)])
    proxy.sync()
    scene.flow(scene.pod, inner[family], NODE_PORT, seen=scene.pod).check()
    scene.flow(scene.pod, scene.node.address(family), NODE_PORT, seen=scene.node).check()


FORWARDED: Final = """
table {ip} ports {{
    chain pre {{ type nat hook prerouting priority -90; {ip} daddr {address} tcp dport {port} dnat to {to}; }}
}}
"""


@both_families
def test_what_another_program_translates_at_a_node_ports_number_is_left_alone(scene: Scene, family: Family) -> None:
    """As a container's host port, on an address of the node that has no node ports."""
    scene.proxy(scene.web(node_port=NODE_PORT))
    to = {4: f"{scene.near.address()}:80", 6: f"[{scene.near.address(6)}]:80"}[family]
    ip = {4: "ip", 6: "ip6"}[family]
    rules = FORWARDED.format(ip=ip, address=SECOND[family], port=NODE_PORT, to=to)
    scene.node.namespace.run("nft", "-f", "-", stdin=rules)
    client = scene.ground.client
    scene.flow(client, SECOND[family], NODE_PORT, seen=client).check()
    scene.flow(client, scene.node.address(family), NODE_PORT, seen=scene.node).check()


# Who may connect to a load balancer


def guarded(scene: Scene, *ranges: str) -> list[Document]:
    spec = {"loadBalancerSourceRanges": list(ranges)}
    return scene.web(node_port=NODE_PORT, balancer_ips=BALANCER.values(), external_ips=["198.51.100.11"], spec=spec)


@both_families
def test_source_ranges_guard_the_load_balancer_alone(scene: Scene, family: Family) -> None:
    scene.proxy(guarded(scene, "203.0.113.128/25", "2001:db8:203::8000/113"))
    client, network = scene.ground.client, scene.ground.network
    dropped(client, BALANCER[family], 80)
    for origin in (scene.pod, scene.node):
        dropped(origin, BALANCER[family], 80)
    scene.flow(client, scene.node.address(family), NODE_PORT, seen=scene.node).check()
    scene.flow(client, CLUSTER_IP[family], seen=scene.node).check()
    scene.flow(client, "198.51.100.11", seen=scene.node).check()
    allowed = {4: "203.0.113.129", 6: "2001:db8:203::8001"}[family]
    network.add_address(client, allowed)
    outcome = connect(client, BALANCER[family], 80, source=allowed)
    assert isinstance(outcome, Answered)


@both_families
def test_ranges_of_one_family_do_not_guard_the_other(scene: Scene, family: Family) -> None:
    networks = {4: "203.0.114.0/24", 6: "2001:db8:204::/64"}
    proxy = scene.proxy(guarded(scene, networks[family]))
    assert "has no IPv" in "".join(problem.message for problem in proxy.planner.problems)
    dropped(scene.ground.client, BALANCER[family], 80)
    scene.flow(scene.ground.client, BALANCER[10 - family], seen=scene.node).check()


@both_families
@pytest.mark.parametrize("own", [True, False], ids=["node in range", "node not in range"])
def test_the_node_connects_when_its_own_address_is_in_the_ranges(scene: Scene, family: Family, *, own: bool) -> None:
    """Also when the load balancer's address is its own, so that it is what the connection comes from."""
    ranges = ["172.16.0.0/16", "fd00:172:16::/48"] if own else ["172.20.0.0/16", "fd00:172:20::/48"]
    scene.proxy(guarded(scene, *ranges))
    node, address = scene.node, BALANCER[family]
    dropped(scene.ground.client, address, 80)
    source = node.address(family)
    if own:
        assert isinstance(connect(node, address, 80, source=source), Answered)
    else:
        dropped(node, address, 80, source=source)
    scene.ground.network.add_address(node, address)
    if own:
        scene.flow(node, address, seen=node).check()
    else:
        dropped(node, address, 80)
    dropped(scene.ground.client, address, 80)


@both_families
def test_ranges_can_change(scene: Scene, family: Family) -> None:
    proxy = scene.proxy(guarded(scene, "203.0.114.0/24", "2001:db8:204::/64"))
    dropped(scene.ground.client, BALANCER[family], 80)
    for ranges in (["203.0.113.0/24", "2001:db8:203::/64"], ["0.0.0.0/0", "::/0"], []):
        proxy.put(guarded(scene, *ranges))
        proxy.sync()
        scene.flow(scene.ground.client, BALANCER[family], seen=scene.node).check()
        proxy.put(guarded(scene, "203.0.113.2/31", "2001:db8:203::2/127"))
        proxy.sync()
        dropped(scene.ground.client, BALANCER[family], 80)


# The network of cluster IPs


@both_families
def test_addresses_outside_the_service_network_are_not_harmed(scene: Scene, family: Family) -> None:
    """Those just before and just behind it."""
    client, network = scene.ground.client, scene.ground.network
    edges = {4: ("10.95.255.255", "10.97.0.0"), 6: ("fd00:10:95:ffff:ffff:ffff:ffff:ffff", "fd00:10:96::1:0")}[family]
    for edge in edges:
        network.add_address(client, edge)
        scene.ground.servers.start(client, 80, address=edge)
    scene.proxy()
    for edge in edges:
        for origin in (scene.pod, scene.node):
            outcome = connect(origin, edge, 80)
            assert isinstance(outcome, Answered)
            assert (outcome.at, outcome.seen[0]) == ((edge, 80), origin.address(family))


@both_families
def test_the_first_and_the_last_address_of_the_service_network_are_dropped(scene: Scene, family: Family) -> None:
    scene.proxy()
    edges = {4: ("10.96.0.0", "10.96.255.255"), 6: ("fd00:10:96::", "fd00:10:96::ffff")}[family]
    for edge in edges:
        dropped(scene.pod, edge, 80)


@both_families
def test_service_cidr_objects_come_and_go(scene: Scene, family: Family) -> None:
    proxy = scene.proxy(serviceCIDRs=[])
    address = {4: "10.98.0.1", 6: "fd00:10:98::1"}[family]
    refused_by_router = connect(scene.pod, address, 80)
    assert isinstance(refused_by_router, Refused)
    proxy.put(
        [
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": ["10.98.0.0/24", "fd00:10:98::/112"]},
            }
        ]
    )
    proxy.sync()
    dropped(scene.pod, address, 80)
    scene.flow(scene.pod, CLUSTER_IP[family], seen=scene.pod).check()
    proxy.remove("ServiceCIDR kubernetes")
    proxy.sync()
    assert isinstance(connect(scene.pod, address, 80), Refused)


@both_families
def test_an_address_of_the_nodes_own_in_the_service_network_answers(scene: Scene, family: Family) -> None:
    """As that of a node-local DNS cache."""
    scene.proxy()
    scene.ground.network.add_address(scene.node, UNALLOCATED[family])
    scene.ground.servers.start(scene.node, 53, address=UNALLOCATED[family])
    for origin in (scene.pod, scene.node):
        seen = UNALLOCATED[family] if origin is scene.node else origin
        scene.flow(origin, UNALLOCATED[family], 53, by=scene.node, at=53, seen=seen).check()


@both_families
def test_other_ports_of_a_cluster_ip_that_the_node_has_too_answer(scene: Scene, family: Family) -> None:
    scene.proxy()
    refused(scene.pod, CLUSTER_IP[family], 9253)
    scene.ground.network.add_address(scene.node, CLUSTER_IP[family])
    scene.ground.servers.start(scene.node, 9253, address=CLUSTER_IP[family])
    scene.flow(scene.pod, CLUSTER_IP[family], 9253, by=scene.node, at=9253, seen=scene.pod).check()
    scene.flow(scene.pod, CLUSTER_IP[family], seen=scene.pod).check()


NOTRACK: Final = """
table {ip} cache {{
    chain pre {{ type filter hook prerouting priority -300; {ip} daddr {address} tcp dport 80 notrack; }}
    chain out {{ type filter hook output priority -300; {ip} saddr {address} tcp sport 80 notrack; }}
}}
"""


@both_families
def test_what_another_program_exempts_from_tracking_is_left_alone(scene: Scene, family: Family) -> None:
    """As a node-local DNS cache does that takes a cluster IP over."""
    scene.proxy()
    address = CLUSTER_IP[family]
    scene.ground.network.add_address(scene.node, address)
    scene.ground.servers.start(scene.node, 80, address=address)
    scene.flow(scene.pod, address, seen=scene.pod).check()
    rules = NOTRACK.format(ip={4: "ip", 6: "ip6"}[family], address=address)
    scene.node.namespace.run("nft", "-f", "-", stdin=rules)
    scene.flow(scene.pod, address, by=scene.node, seen=scene.pod).check()


# Liberal tracking


def test_the_chain_for_invalid_packets_comes_and_goes_with_the_configuration(scene: Scene) -> None:
    def chains() -> str:
        return scene.node.namespace.run("nft", "list", "chains")

    proxy = scene.proxy()
    assert chains().count("chain forward") == 2
    liberal = ProxyConfigSpec.model_validate(DEFAULTS | {"conntrack": {"tcpBeLiberal": True}})
    again = Proxy(scene.node, liberal)
    again.put(scene.web())
    with again:
        again.sync()
        assert chains().count("chain forward") == 0
        scene.flow(scene.pod, CLUSTER_IP[4], seen=scene.pod).check()
    assert proxy.dataplane.disturbed()
    proxy.dataplane.adopt(proxy.planner.plan)
    assert chains().count("chain forward") == 2
