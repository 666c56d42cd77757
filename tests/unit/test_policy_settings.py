from __future__ import annotations

from typing import Any

import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.model.objects import Node, ServiceCIDR
from pointsman.policy.settings import node_settings, settings_problems

ADDRESSES = ("192.168.0.2", "192.168.1.2", "2001:db8::1")
NODE = Node("n", addresses=ADDRESSES, pod_cidrs=("10.1.0.0/24",))


def _spec(**fields: object) -> ProxyConfigSpec:
    return ProxyConfigSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("192.168.0.2/32", "2001:db8::1/128")),
        ({"nodePortAddresses": ["primary"]}, ("192.168.0.2/32", "2001:db8::1/128")),
        ({"nodePortAddresses": ["all"]}, ("0.0.0.0/0", "::/0")),
        ({"nodePortAddresses": ["10.0.0.0/8", "primary"]}, ("10.0.0.0/8", "192.168.0.2/32", "2001:db8::1/128")),
        ({"nodePortAddresses": ["localhost"]}, ()),
        ({"nodePortAddresses": ["localhost"], "mode": "iptables"}, ()),
        ({"mode": "ipvs"}, ("192.168.0.2/32", "2001:db8::1/128")),
    ],
)
def test_node_port_networks(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    """They follow the mode in force, whatever the configuration asks for."""
    assert node_settings(_spec(**fields), NODE, ADDRESSES, []).node_port_cidrs == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, ("0.0.0.0/0", "::/0")), ({"nodePortAddresses": ["localhost"]}, ("127.0.0.0/8", "::1/128"))],
)
def test_node_port_networks_of_another_mode_in_force(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert node_settings(_spec(**fields), NODE, ADDRESSES, [], mode="iptables").node_port_cidrs == expected


def test_pod_networks() -> None:
    spec = _spec(podCIDRs=["10.0.0.0/8", "fd00::/64", "10.1.0.0/16"])
    assert node_settings(spec, NODE, ADDRESSES, []).pod_cidrs == ("10.0.0.0/8", "fd00::/64")
    by_node = _spec(podCIDRs=["10.0.0.0/8"], localDetection="NodeCIDR")
    assert node_settings(by_node, NODE, ADDRESSES, []).pod_cidrs == ("10.1.0.0/24",)
    assert node_settings(by_node, None, (), []).pod_cidrs == ()


def test_service_cidr_objects_override_the_configuration() -> None:
    spec = _spec(serviceCIDRs=["10.96.0.0/12"])
    assert node_settings(spec, NODE, ADDRESSES, []).service_cidrs == ("10.96.0.0/12",)
    objects = [ServiceCIDR("b", ("fd00:96::/112",)), ServiceCIDR("a", ("172.30.0.0/16",))]
    assert node_settings(spec, NODE, ADDRESSES, objects).service_cidrs == ("172.30.0.0/16", "fd00:96::/112")


def test_invalid_packets_pass_when_tracking_is_liberal() -> None:
    assert node_settings(_spec(), NODE, ADDRESSES, []).drop_invalid
    assert not node_settings(_spec(conntrack={"tcpBeLiberal": True}), NODE, ADDRESSES, []).drop_invalid


@pytest.mark.parametrize(
    ("fields", "addresses", "node_ports", "expected"),
    [
        ({}, ADDRESSES, True, []),
        ({}, (), True, ["Node n"]),
        ({}, (), False, []),
        ({"nodePortAddresses": ["localhost"]}, ADDRESSES, False, ["ProxyConfig c"]),
        ({"mode": "ipvs", "scheduler": "rr"}, ADDRESSES, True, ["ProxyConfig c"]),
        ({"mode": "ipvs", "scheduler": "lc"}, ADDRESSES, True, ["ProxyConfig c", "ProxyConfig c"]),
        ({"mode": "ipvs", "fallbackModes": ["nftables"]}, ADDRESSES, True, []),
    ],
)
def test_problems(
    fields: dict[str, Any], addresses: tuple[str, ...], node_ports: bool, expected: list[str]  # noqa: FBT001 (of the table)
) -> None:  # fmt: skip
    found = settings_problems(
        _spec(**fields), addresses, configured_by="ProxyConfig c", node_name="n", node_ports=node_ports
    )
    assert [problem.object for problem in found] == expected


def test_a_scheduler_of_another_mode_is_told_with_the_one_that_is_used() -> None:
    spec = _spec(mode="ipvs", scheduler="lc")
    found = settings_problems(spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False)
    assert [problem.field for problem in found] == ["spec.mode", "spec.scheduler"]
    assert '"lc" is no scheduler of mode nftables, which is in force; "random" is used' in str(found[1])
    assert not settings_problems(
        spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False, mode="ipvs"
    )
