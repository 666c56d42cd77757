from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.lab.cluster import read_manifests
from pointsman.lab.layout import PlannedPod, PlannedServer, lay_out
from pointsman.lab.namespaces import LabError
from pointsman.lab.tour import MANIFESTS
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Node, Service

if TYPE_CHECKING:
    from pathlib import Path


def piece(*endpoints: Endpoint, ports: tuple[int, ...] = (80,), family: int = 4) -> EndpointSlice:
    numbers = tuple(EndpointPort(port) for port in ports)
    return EndpointSlice("default", f"s{len(endpoints)}", "s", 6 if family == 6 else 4, numbers, endpoints)


def test_the_tours_own_manifests_are_flawless_and_have_three_nodes_and_two_pods() -> None:
    objects, problems = read_manifests(MANIFESTS)
    assert problems == ()
    layout = lay_out(objects)
    assert [node.name for node in layout.nodes] == ["master", "node01", "node02"]
    assert layout.nodes[0].addresses == ("172.16.0.5",)
    assert layout.nodes[0].client == ("192.168.0.254",)
    assert layout.pods == (
        PlannedPod("nginx-a", "192.168.0.15", "master"),
        PlannedPod("nginx-b", "192.168.1.3", "node01"),
    )
    assert layout.servers == (PlannedServer("192.168.0.15", 80, "tcp"), PlannedServer("192.168.1.3", 80, "tcp"))


def test_nodes_are_made_for_node_names_without_a_node() -> None:
    layout = lay_out([Node("b", addresses=("10.0.0.1",)), piece(Endpoint("10.1.0.1", node="a"))])
    assert [node.name for node in layout.nodes] == ["b", "a"]
    assert layout.nodes[1].addresses == ("172.31.255.2", "fd00:172:31:255::2")
    assert len(layout.nodes[1].client) == 2


def test_without_any_node_there_is_one() -> None:
    layout = lay_out([piece(Endpoint("10.1.0.1"))])
    assert [node.name for node in layout.nodes] == ["node-1"]
    assert layout.pods == (PlannedPod("pod-10-1-0-1", "10.1.0.1", "node-1"),)


def test_an_endpoint_with_a_nodes_address_has_no_pod_but_a_server() -> None:
    layout = lay_out([Node("a", addresses=("10.0.0.1",)), piece(Endpoint("10.0.0.1", node="a"), ports=(6443,))])
    assert layout.pods == ()
    assert layout.servers == (PlannedServer("10.0.0.1", 6443, "tcp"),)


def test_names_are_unique() -> None:
    layout = lay_out(
        [piece(Endpoint("10.1.0.1", pod="x", node="x"), Endpoint("10.1.0.2", pod="x"), Endpoint("10.1.0.1"))]
    )
    assert [pod.name for pod in layout.pods] == ["x-2", "x-2-2"]


def test_a_client_pod_takes_no_endpoints_address() -> None:
    node = Node("a", addresses=("10.0.0.1",), pod_cidrs=("10.1.0.0/29", "fd00::/125"))
    layout = lay_out([node, piece(Endpoint("10.1.0.6")), piece(Endpoint("fd00::6"), family=6)])
    assert layout.nodes[0].client == ("10.1.0.5", "fd00::5")


def test_addresses_of_load_balancers_and_external_ips_are_led_to_a_node() -> None:
    service = Service("default", "s", external_ips=("1.2.3.4",), load_balancer_ips=("5.6.7.8", "10.0.0.1"))
    ignored = Service("default", "t", external_ips=("9.9.9.9",), ignored="headless")
    assert lay_out([Node("a", addresses=("10.0.0.1",)), service, ignored]).outside == ("1.2.3.4", "5.6.7.8")


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nothing-here"):
        read_manifests(tmp_path / "nothing-here")


@pytest.mark.parametrize(("text", "said"), [(None, "put Services"), ("- broken: [", "a.yaml")])
def test_a_directory_without_an_object_is_no_lab(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LabError, match=f"(?s)has no object to use.*{said}"):
        read_manifests(tmp_path)
