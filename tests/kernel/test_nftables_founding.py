"""The example that the project starts from, on both of its nodes, with real packets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.lab.network import Host, Network
from pointsman.lab.traffic import spread
from support.flows import Flow
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.servers import Servers

EXAMPLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/founding_example.json").read_bytes())
CLUSTER = EXAMPLE["cluster"]
CONFIG = ProxyConfigSpec.model_validate({"podCIDRs": [CLUSTER["podCIDR"]], "serviceCIDRs": [CLUSTER["serviceCIDR"]]})
NODE01 = "172.16.0.6"
"""An address that the example does not tell."""

ENDPOINTS = frozenset([("192.168.0.15", 80), ("192.168.1.3", 80)])
CLUSTER_IP = "10.96.200.75"

pytestmark = pytest.mark.needs("nftables", "connection tracking")


class Example(msgspec.Struct):
    """The example's hosts by name, and a proxy on each node."""

    hosts: Mapping[str, Host]
    proxies: Mapping[str, Proxy]

    def flow(self, origin: str, address: str, port: int, seen: str) -> Flow:
        return Flow(self.hosts[origin], address, port, "tcp", "answered", ENDPOINTS, seen)


@pytest.fixture
def example(network: Network, servers: Servers) -> Iterator[Example]:
    build(network)
    for pod in ("nginx-a", "nginx-b"):
        servers.start(network.hosts[pod], 80)
    with ExitStack() as stack:
        proxies = {
            name: stack.enter_context(Proxy(network.hosts[name], CONFIG)) for name in ("master", "node01")
        }  # fmt: skip
        for proxy in proxies.values():
            proxy.put(EXAMPLE["objects"]["services"])
            proxy.put(EXAMPLE["objects"]["endpointSlices"])
            proxy.sync()
        yield Example(network.hosts, proxies)


def build(network: Network) -> None:
    addresses = {entry["name"]: entry.get("address", NODE01) for entry in CLUSTER["nodes"]}
    master, node01 = (network.node(name, address) for name, address in addresses.items())
    network.pod("nginx-a", "192.168.0.15", node=master)
    network.pod("pod-a", "192.168.0.16", node=master)
    network.pod("nginx-b", "192.168.1.3", node=node01)
    network.pod("pod-b", "192.168.1.4", node=node01)
    network.client("outside", "203.0.113.2")
    network.build()
    network.route(CLUSTER["serviceCIDR"], via=master)


def test_the_flows_are_those_that_are_tried_here() -> None:
    expected = sorted(f"{address}:{port}" for address, port in ENDPOINTS)
    assert [(flow["from"], flow["to"], sorted(flow["endpoints"])) for flow in EXAMPLE["flows"]] == [
        ("a pod", f"{CLUSTER_IP}:8080", expected),
        ("master", f"{CLUSTER_IP}:8080", expected),
        ("outside", "172.16.0.5:30000", expected),
    ]


@pytest.mark.parametrize("pod", ["pod-a", "pod-b"])
@pytest.mark.parametrize("address", [CLUSTER_IP, "10.96.100.80"])
def test_a_cluster_ip_answers_from_a_pod(example: Example, pod: str, address: str) -> None:
    example.flow(pod, address, 8080, seen=example.hosts[pod].address()).check()


@pytest.mark.parametrize("node", ["master", "node01"])
def test_a_cluster_ip_answers_from_a_node(example: Example, node: str) -> None:
    example.flow(node, CLUSTER_IP, 8080, seen=example.hosts[node].address()).check()


def test_a_cluster_ip_answers_from_outside_through_a_node(example: Example) -> None:
    example.flow("outside", CLUSTER_IP, 8080, seen="172.16.0.5").check()


@pytest.mark.parametrize("origin", ["outside", "pod-a", "pod-b", "master", "node01"])
@pytest.mark.parametrize("node", ["master", "node01"])
def test_the_node_port_answers_on_every_node(example: Example, origin: str, node: str) -> None:
    flow = example.flow(origin, example.hosts[node].address(), 30000, seen="")
    seen = {outcome.seen[0] for outcome in flow.answers()}
    here = example.hosts[node].address()
    # A pod's way to the other node leads through its own node, which sees no Service in that address.
    assert seen == {here}


def test_a_pod_that_reaches_itself_sees_its_node(example: Example) -> None:
    outcomes = example.flow("nginx-a", CLUSTER_IP, 8080, seen="").answers()
    assert {(outcome.at[0], outcome.seen[0]) for outcome in outcomes} == {
        ("192.168.0.15", "172.16.0.5"),
        ("192.168.1.3", "192.168.0.15"),
    }


def test_a_service_with_affinity_keeps_its_clients(example: Example) -> None:
    service = msgspec.json.decode(msgspec.json.encode(EXAMPLE["objects"]["services"][0]))
    affinity = EXAMPLE["affinity"]
    service["spec"]["sessionAffinity"] = affinity["sessionAffinity"]
    service["spec"]["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity["timeoutSeconds"]}}
    for proxy in example.proxies.values():
        proxy.put([service])
        proxy.sync()
    for name in ("outside", "pod-a", "pod-b", "master"):
        seen = spread(example.hosts[name], CLUSTER_IP, 8080, count=20)
        assert not seen.failures
        assert len(seen.servers) == 1
    # The other Service goes on without.
    example.flow("outside", "172.16.0.5", 30000, seen="172.16.0.5").check()
