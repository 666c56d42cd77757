"""Where frontends are, and which networks have to be local."""

from __future__ import annotations

import ipaddress

import pytest

from pointsman.dataplane.ipvs.spots import Places
from pointsman.model.plan import NODE_PORT, Frontend, IpvsSettings, NodeSettings

NODE = ("127.0.0.1", "192.168.0.2", "192.168.1.2", "fd00::2", "fe80::1", "::1")
PORT = Frontend(4, NODE_PORT, "tcp", 30080)


def places(*addresses: str, **settings: object) -> Places:
    found = NodeSettings(**({"node_port_cidrs": ("0.0.0.0/0", "::/0"), "service_cidrs": ("10.96.0.0/12",)} | settings))  # type: ignore[arg-type]
    return Places(found, map(ipaddress.ip_address, addresses or NODE))


def where(made: Places, frontend: Frontend) -> list[str]:
    return [spot.address for spot in made.of(frontend)]


def test_a_node_port_is_at_each_address_but_loopback_and_link_local() -> None:
    assert where(places(), PORT) == ["192.168.0.2", "192.168.1.2"]
    assert where(places(), Frontend(6, NODE_PORT, "tcp", 30080)) == ["fd00::2"]


def test_node_port_addresses_choose() -> None:
    assert where(places(node_port_cidrs=("192.168.1.0/24",)), PORT) == ["192.168.1.2"]


def test_others_may_have_servers_in_excluded_networks() -> None:
    made = places(ipvs=IpvsSettings(exclude_cidrs=("192.168.1.0/24", "10.96.0.0/24")))
    assert where(made, PORT) == ["192.168.0.2", "192.168.1.2"]
    assert [made.is_excluded(a) for a in ("192.168.0.2", "192.168.1.2", "10.96.0.1")] == [False, True, True]


def test_a_network_of_cluster_ips_is_one_route() -> None:
    assert places().routes(4, ["10.96.0.1", "10.100.0.1"]) == {"10.96.0.0/12"}


def test_addresses_outside_have_routes_of_their_own() -> None:
    assert places().routes(4, ["10.96.0.1", "203.0.113.1"]) == {"10.96.0.0/12", "203.0.113.1/32"}
    assert places().routes(6, ["fd00:96::1"]) == {"fd00:96::1/128"}
    assert places().lone_route(4, "10.96.0.1") == ""


@pytest.mark.parametrize(
    ("addresses", "pods"),
    [(("10.96.0.5",), ()), (("192.168.0.2",), ("10.100.0.0/16",)), (("192.168.0.2",), ("10.0.0.0/8",))],
)
def test_a_network_with_a_node_or_pods_in_it_is_not_routed_as_a_whole(
    addresses: tuple[str, ...], pods: tuple[str, ...]
) -> None:
    made = places(*addresses, pod_cidrs=pods)
    assert made.routes(4, ["10.96.0.1"]) == {"10.96.0.1/32"}
    assert made.settings.service_cidrs == ()
    assert made.settings.pod_cidrs == pods


def test_only_addresses_that_matter_make_a_difference() -> None:
    assert places() == places(*NODE, "fe80::2")
    assert places() != places(*NODE, "192.168.2.2")
    assert places() != places(node_port_cidrs=())
