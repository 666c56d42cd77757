"""What the agent does for clients that keep their source port, and for pods that reach themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Answered, Refused, TimedOut, connect
from support.agents import Supervised, server_at, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.model.plan import Family

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP = {4: "10.96.0.53", 6: "fd00:10:96::53"}
PORT = 30053
DNS = service("dns", *VIP.values(), node_port=PORT, protocols=["udp"])
CLEANED = "kubeproxy_conntrack_reconciler_deleted_entries_total"

both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        yield made


class Client:
    """A client that sends from one port all the time, to the cluster IP and to the node port."""

    def __init__(self, node: Supervised, family: Family) -> None:
        self._host = node.ground.client
        self._targets = ((VIP[family], 80), (node.ground.node.address(family), PORT))

    def ask(self) -> set[str]:
        """Send to both and return the servers' names; "" stands for nobody."""
        return {server_at(self._host, address, port, "udp", source_port=4053) for address, port in self._targets}


def set_endpoints(node: Supervised, *numbers: int) -> None:
    pods = [node.ground.pods[number - 1] for number in numbers]
    node.put("dns.json", DNS, *slices("dns", *pods, protocols=["udp"]))


@both_families
def test_udp_clients_with_a_fixed_port_follow_the_endpoints(node: Supervised, family: Family) -> None:
    client = Client(node, family)
    node.start()
    # Before there is a Service: the node itself refuses, and tracks that.
    assert client.ask() == {""}
    set_endpoints(node, 1)
    assert client.ask() == {"web-1"}
    set_endpoints(node, 2)
    assert client.ask() == {"web-2"}
    set_endpoints(node, 1, 2)
    # Its own endpoint is still there.
    assert client.ask() == {"web-2"}
    set_endpoints(node)
    assert client.ask() == {""}
    set_endpoints(node, 3)
    assert client.ask() == {"web-3"}
    assert node.metrics()[f'{CLEANED}{{ip_family="IPv{family}"}}'] >= 4


def test_entries_that_went_stale_while_the_agent_was_away_are_cleaned_too(node: Supervised) -> None:
    client = Client(node, 4)
    set_later = slices("dns", node.ground.pods[1], protocols=["udp"])
    node.write("dns.json", DNS, *slices("dns", node.ground.pods[0], protocols=["udp"]))
    node.start()
    assert client.ask() == {"web-1"}
    node.agent.kill()
    node.write("dns.json", DNS, *set_later)
    node.start()
    assert client.ask() == {"web-2"}


def test_clients_of_other_services_are_left_alone(node: Supervised) -> None:
    other = service("other", "10.96.0.54", protocols=["udp"])
    pods = node.ground.pods
    node.write("other.json", other, *slices("other", *pods, protocols=["udp"]))
    node.start()
    set_endpoints(node, 1)
    chosen = {
        port: server_at(node.ground.client, "10.96.0.54", 80, "udp", source_port=port) for port in range(5000, 5030)
    }
    assert set(chosen.values()) == {"web-1", "web-2", "web-3"}
    for number in (2, 3, 1):
        set_endpoints(node, number)
    again = {port: server_at(node.ground.client, "10.96.0.54", 80, "udp", source_port=port) for port in chosen}
    assert again == chosen


@both_families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_pod_reaches_itself_through_its_service(node: Supervised, protocol: str, family: Family) -> None:
    pod = node.ground.pods[0]
    web = service("web", *VIP.values(), node_port=PORT, protocols=[protocol])  # type: ignore[list-item]
    node.write("web.json", web, *slices("web", pod, protocols=[protocol]))  # type: ignore[list-item]
    node.start()
    for address, port in ((VIP[family], 80), (node.ground.node.address(family), PORT)):
        outcome = connect(pod, address, port, protocol)  # type: ignore[arg-type]
        assert isinstance(outcome, Answered)
        assert outcome.server == "web-1"
        assert outcome.seen[0] == node.ground.node.address(family)
    # Its neighbour is seen as itself.
    neighbour = connect(node.ground.pods[1], VIP[family], 80, protocol)  # type: ignore[arg-type]
    assert isinstance(neighbour, Answered)
    assert neighbour.seen[0] == node.ground.pods[1].address(family)


def test_a_service_without_endpoints_refuses_and_an_address_without_a_service_drops(node: Supervised) -> None:
    node.write("empty.json", service("empty", *VIP.values()))
    node.start()
    for address in VIP.values():
        assert isinstance(connect(node.ground.pods[0], address, 80), Refused)
    for address in ("10.96.9.9", "fd00:10:96::9:9"):
        assert isinstance(connect(node.ground.pods[0], address, 80, timeout=0.1), TimedOut)
