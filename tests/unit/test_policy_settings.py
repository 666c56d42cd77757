from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.model.objects import Node, ServiceCIDR
from pointsman.model.plan import IpvsSettings
from pointsman.policy.settings import node_settings, settings_problems

if TYPE_CHECKING:
    from pointsman.api.names import Mode

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


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, ("0.0.0.0/0", "::/0")), ({"nodePortAddresses": ["localhost", "10.0.0.0/8"]}, ("10.0.0.0/8",))],
)
def test_node_port_networks_in_mode_ipvs(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert node_settings(_spec(**fields), NODE, ADDRESSES, [], mode="ipvs").node_port_cidrs == expected


@pytest.mark.parametrize(
    ("mode", "fields", "expected"),
    [
        ("nftables", {}, False),
        ("nftables", {"nodePortAddresses": ["all"]}, False),
        ("nftables", {"nodePortAddresses": ["primary", "localhost"]}, True),
        ("userspace", {}, False),
        ("userspace", {"nodePortAddresses": ["all", "localhost"]}, True),
        ("iptables", {"nodePortAddresses": ["localhost"]}, False),
        ("ipvs", {"nodePortAddresses": ["localhost"]}, False),
    ],
)
def test_the_proxy_serves_loopback_where_it_is_asked_for(mode: Mode, fields: dict[str, Any], expected: bool) -> None:  # noqa: FBT001 (of the table)
    found = node_settings(_spec(**fields), NODE, ADDRESSES, [], mode=mode)
    assert found.localhost_node_ports is expected
    if mode in {"nftables", "userspace"}:
        assert not {"127.0.0.0/8", "::1/128"} & set(found.node_port_cidrs)


def test_what_ipvs_needs_to_know() -> None:
    spec = _spec(
        syncPeriod="10s",
        ipvs={"excludeCIDRs": ["192.0.2.1/24", "fd00::/64"], "gracefulTermination": "1m", "tcpTimeout": "1h",
              "tcpFinTimeout": "10s", "udpTimeout": "20s"},
    )  # fmt: skip
    made = node_settings(spec, NODE, ADDRESSES, [], mode="ipvs")
    assert made.sync_period == 10.0
    assert made.ipvs == IpvsSettings(("192.0.2.0/24", "fd00::/64"), 60.0, 3600.0, 10.0, 20.0)
    assert node_settings(_spec(), NODE, ADDRESSES, [], mode="ipvs").ipvs == IpvsSettings()


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
        ({"nodePortAddresses": ["localhost"]}, ADDRESSES, False, []),
        ({"mode": "ipvs", "scheduler": "rr"}, ADDRESSES, True, []),
        ({"mode": "ipvs", "scheduler": "lc"}, ADDRESSES, True, ["ProxyConfig c"]),
        ({"mode": "ipvs", "fallbackModes": ["iptables"]}, ADDRESSES, True, ["ProxyConfig c"]),
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
    assert [problem.field for problem in found] == ["spec.scheduler"]
    assert '"lc" is not there in mode nftables, which is in force; "random" is used' in str(found[0])
    assert "bring mode ipvs in force on this node" in found[0].remedy
    assert not settings_problems(
        spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False, mode="ipvs"
    )


def test_a_kernel_without_the_configured_scheduler_is_told() -> None:
    """Also without the default, which nobody wrote."""
    for fields, schedulers, message in (
        ({"mode": "ipvs", "scheduler": "lc"}, ("rr", "wlc"), '"lc" is not there in mode ipvs'),
        ({"mode": "ipvs"}, ("wrr",), '"rr" is not there in mode ipvs, which is in force; "wrr" is used'),
    ):
        (found,) = settings_problems(
            _spec(**fields),
            ADDRESSES,
            configured_by="ProxyConfig c",
            node_name="n",
            node_ports=False,
            mode="ipvs",
            schedulers=schedulers,
        )
        assert message in found.message
        assert "modprobe ip_vs_" in found.remedy


def test_a_mode_that_nobody_asked_for_is_told() -> None:
    spec = _spec(mode="ipvs", fallbackModes=["iptables"])
    (found,) = settings_problems(spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False)
    assert found.message == "this node supports none of ipvs, iptables; nftables is in force"


def test_loopback_is_not_served_in_mode_ipvs() -> None:
    spec = _spec(mode="ipvs", nodePortAddresses=["localhost"])
    (found,) = settings_problems(
        spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False, mode="ipvs"
    )
    assert "not served in mode ipvs" in found.message


@pytest.mark.parametrize(
    ("addresses", "opted_in", "field"),
    [
        (None, False, None),
        (None, True, None),
        (["primary"], False, None),
        (["primary", "localhost"], False, "spec.nodePortAddresses"),
        (["primary", "localhost"], True, None),
        (["0.0.0.0/0"], True, None),
        (["127.0.0.1/32"], True, None),
        (["primary"], True, "spec.iptables.localhostNodePorts"),
        (["10.0.0.0/8", "::/0"], True, "spec.iptables.localhostNodePorts"),
    ],
)
def test_loopback_in_mode_iptables_takes_both_fields(
    addresses: list[str] | None, opted_in: bool, field: str | None  # noqa: FBT001 (of the table)
) -> None:  # fmt: skip
    spec = _spec(mode="iptables", nodePortAddresses=addresses, iptables={"localhostNodePorts": opted_in})
    problems = settings_problems(
        spec, ADDRESSES, configured_by="ProxyConfig c", node_name="n", node_ports=False, mode="iptables"
    )
    assert [problem.field for problem in problems] == ([field] if field else [])
    served = node_settings(spec, NODE, ADDRESSES, [], mode="iptables").iptables.localhost_node_ports
    assert served is (opted_in and field is None)
