"""ProxyConfig: defaults, what is read, what is refused, and which one a node gets."""

from __future__ import annotations

from itertools import permutations

import pytest
from pydantic import ValidationError

from pointsman.api.errors import validation_problems
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.selection import select
from pointsman.api.values import PortRange


def read(**spec: object) -> ProxyConfigSpec:
    return ProxyConfig.read({"kind": "ProxyConfig", "metadata": {"name": "c"}, "spec": spec}).spec


def refused(document: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        ProxyConfig.read(document)
    return [str(problem) for problem in validation_problems(caught.value)]


def test_defaults_are_a_good_configuration() -> None:
    spec = ProxyConfigSpec()
    assert (spec.mode, spec.scheduler, spec.node_port_range) == ("nftables", None, (30000, 32767))
    assert (spec.sync_period, spec.min_sync_period, spec.ipvs.graceful_termination) == (30.0, 0.05, 900.0)
    assert spec == read() == ProxyConfig.read({"metadata": {"name": "c"}, "spec": None}).spec


def test_names_are_as_the_documentation_writes_them() -> None:
    names = {field.alias for field in ProxyConfigSpec.model_fields.values()}
    assert names == {
        "mode", "fallbackModes", "scheduler", "nodePortRange", "nodePortRanges", "nodePortAddresses", "nodeSelector",
        "priority", "podCIDRs", "serviceCIDRs", "localDetection", "masqueradeAll", "syncPeriod", "minSyncPeriod",
        "ipvs", "iptables", "userspace", "drainTimeout", "conntrack", "serviceConditions", "rollout",
    }  # fmt: skip


def test_values_are_read_and_written_back() -> None:
    written = {
        "mode": "ipvs",
        "fallbackModes": ["nftables"],
        "scheduler": "lc",
        "nodePortRange": "20000-20999",
        "nodePortRanges": [{"namespaceSelector": {"matchLabels": {"team": "a"}}, "range": "20000-20099"}],
        "nodePortAddresses": ["localhost", "10.0.0.0/8"],
        "podCIDRs": ["fd00::/64"],
        "masqueradeAll": True,
        "syncPeriod": "1m30s",
        "ipvs": {"strictARP": True, "excludeCIDRs": ["192.0.2.0/24"], "tcpTimeout": "15m"},
        "conntrack": {"maxPerCore": 0, "udpTimeout": "30s"},
        "rollout": {"maxUnavailable": 3},
    }
    spec = read(**written)
    assert spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) == written
    assert spec.node_port_ranges[0].range == PortRange(20000, 20099)
    assert spec.ipvs.tcp_timeout == 900.0


def test_networks_come_out_canonical() -> None:
    assert read(podCIDRs=["10.1.2.3/8", "FD00:0::/64"]).pod_cidrs == ("10.0.0.0/8", "fd00::/64")


def test_nulls_are_absent_and_unknown_fields_are_ignored() -> None:
    nulls = {"priority": None, "podCIDRs": None, "ipvs": {"strictARP": None}, "nodePortAddresses": None}
    assert read(**nulls, colour="red") == ProxyConfigSpec()


def test_node_port_addresses_default_by_mode() -> None:
    assert read(nodePortAddresses=[]).node_port_addresses is None
    assert read().node_port_addresses_in("nftables") == ("primary",)
    assert read().node_port_addresses_in("ipvs") == ("all",)
    assert read(nodePortAddresses=["all"]).node_port_addresses_in("nftables") == ("all",)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("iptables",)),
        ({"mode": "ipvs"}, ("nftables", "iptables")),
        ({"mode": "ipvs", "fallbackModes": []}, ("nftables", "iptables")),
        ({"mode": "iptables"}, ("nftables",)),
        ({"mode": "ipvs", "fallbackModes": ["userspace"]}, ("userspace",)),
    ],
)
def test_fallbacks_are_there_when_nobody_says_any(spec: dict[str, object], expected: tuple[str, ...]) -> None:
    assert read(**spec).fallback_modes_in_force() == expected


def test_scheduler_flags_come_out_sorted() -> None:
    assert read(ipvs={"schedulerFlags": ["sh-port", "mh-port"]}).ipvs.scheduler_flags == ("mh-port", "sh-port")


def test_python_code_says_seconds() -> None:
    assert ProxyConfigSpec(sync_period=3, min_sync_period=0).sync_period == 3.0
    assert ProxyConfig(name="c", spec=ProxyConfigSpec(priority=1)).spec.priority == 1


DURATION = 'numbers with a unit of ns, us, ms, s, m or h, such as "30s", "50ms" or "1h30m"'
MODES_ALLOWED = "nftables, ipvs, iptables, userspace, or one of your own as example.com/name"
PORTS = 'ports 1 to 65535, as "30000-32767" or "30000+2767" (first port and how many follow)'
NETWORK = 'a network as "10.0.0.0/8" or "fd00::/64"'


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"mode": "ipsv"}, f"spec.mode: 'ipsv' is not allowed; allowed: {MODES_ALLOWED}"),
        (
            {"fallbackModes": ["ipvs", "x"]},
            f"spec.fallbackModes[1]: 'x' is not allowed; allowed: {MODES_ALLOWED}",
        ),
        (
            {"mode": "ipvs", "fallbackModes": ["ipvs"]},
            (
                "spec.fallbackModes: ['ipvs'] is not allowed; "
                "allowed: each of nftables, iptables, userspace at most once (spec.mode is ipvs)"
            ),
        ),
        (
            {"fallbackModes": ["ipvs", "ipvs"]},
            (
                "spec.fallbackModes: ['ipvs', 'ipvs'] is not allowed; "
                "allowed: each of ipvs, iptables, userspace at most once (spec.mode is nftables)"
            ),
        ),
        (
            {"scheduler": "lc"},
            (
                "spec.scheduler: 'lc' is not allowed; allowed: in mode nftables: random, rr, wrr, sh, dh, mh, "
                "or one of your own as example.com/name"
            ),
        ),
        ({"scheduler": 1}, "spec.scheduler: 1 is not allowed; allowed: text"),
        ({"nodePortRange": "32767-30000"}, f"spec.nodePortRange: '32767-30000' is not allowed; allowed: {PORTS}"),
        ({"nodePortRange": 30000}, f"spec.nodePortRange: 30000 is not allowed; allowed: {PORTS}"),
        ({"nodePortRanges": [{}]}, "spec.nodePortRanges[0].range: is missing; allowed: a value"),
        (
            {"nodePortAddresses": ["primary", "10.0.0.1"]},
            (
                "spec.nodePortAddresses[1]: '10.0.0.1' is not allowed; "
                f'allowed: "primary", "localhost", "all", or {NETWORK}'
            ),
        ),
        ({"podCIDRs": ["10.0.0.0/33"]}, f"spec.podCIDRs[0]: '10.0.0.0/33' is not allowed; allowed: {NETWORK}"),
        ({"podCIDRs": "10.0.0.0/8"}, "spec.podCIDRs: '10.0.0.0/8' is not allowed; allowed: a list"),
        (
            {"localDetection": "BridgeInterface"},
            "spec.localDetection: 'BridgeInterface' is not allowed; allowed: ClusterCIDR or NodeCIDR",
        ),
        ({"masqueradeAll": "yes"}, "spec.masqueradeAll: 'yes' is not allowed; allowed: true or false"),
        ({"priority": "1"}, "spec.priority: '1' is not allowed; allowed: a whole number"),
        ({"priority": 1.5}, "spec.priority: 1.5 is not allowed; allowed: a whole number"),
        ({"syncPeriod": 30}, f"spec.syncPeriod: 30 is not allowed; allowed: {DURATION}"),
        ({"syncPeriod": "0s"}, "spec.syncPeriod: '0s' is not allowed; allowed: a duration above 0s"),
        (
            {"syncPeriod": "1s", "minSyncPeriod": "2s"},
            "spec.minSyncPeriod: '2s' is not allowed; allowed: a duration not above spec.syncPeriod (1s)",
        ),
        ({"ipvs": []}, "spec.ipvs: [] is not allowed; allowed: a mapping"),
        ({"ipvs": {"udpTimeout": "-1s"}}, f"spec.ipvs.udpTimeout: '-1s' is not allowed; allowed: {DURATION}"),
        ({"conntrack": {"min": -1}}, "spec.conntrack.min: -1 is not allowed; allowed: a whole number of 0 or more"),
        (
            {"rollout": {"maxUnavailable": "0%"}},
            (
                "spec.rollout.maxUnavailable: '0%' is not allowed; "
                'allowed: a number of 1 or more, or a share from "1%" to "100%"'
            ),
        ),
        (
            {"nodeSelector": {"matchLabels": {"a": 1}}},
            "spec.nodeSelector.matchLabels.a: 1 is not allowed; allowed: text",
        ),
        (
            {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            (
                "spec.nodeSelector.matchExpressions[0].values: [] is not allowed; "
                "allowed: one or more values, as the operator is In"
            ),
        ),
        (
            {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            (
                "spec.nodeSelector.matchExpressions[0].values: ['b'] is not allowed; "
                "allowed: no values, as the operator is Exists"
            ),
        ),
        (
            {"nodeSelector": {"matchExpressions": [{"operator": "Is"}]}},
            "spec.nodeSelector.matchExpressions[0].key: is missing; allowed: a value",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_value_and_what_is_allowed(spec: object, problem: str) -> None:
    assert refused({"metadata": {"name": "c"}, "spec": spec})[0] == problem


def test_everything_wrong_is_named_at_once() -> None:
    spec = {"mode": "x", "scheduler": "anything", "syncPeriod": "x", "masqueradeAll": 1}
    fields = [line.split(":")[0] for line in refused({"metadata": {"name": "c"}, "spec": spec})]
    assert fields == ["spec.mode", "spec.masqueradeAll", "spec.syncPeriod"]


def test_it_needs_a_name_and_a_mapping() -> None:
    assert refused({"metadata": {}}) == ["metadata.name: is missing; allowed: a value"]
    assert refused({"metadata": {"name": 7}}) == ["metadata.name: 7 is not allowed; allowed: text"]
    assert refused({"metadata": {"name": "c"}, "spec": 7}) == ["spec: 7 is not allowed; allowed: a mapping"]


def test_a_long_value_is_cut() -> None:
    (line,) = refused({"metadata": {"name": "c"}, "spec": {"mode": "x" * 1000}})
    assert len(line) < 200


def config(name: str, priority: int = 0, **labels: str) -> ProxyConfig:
    spec = {"priority": priority, **({"nodeSelector": {"matchLabels": labels}} if labels else {})}
    return ProxyConfig.read({"metadata": {"name": name}, "spec": spec})


def test_the_highest_priority_wins_and_then_the_name() -> None:
    configs = [config("b"), config("a"), config("edge", 5, role="edge"), config("c", -1)]
    for order in permutations(configs):
        assert getattr(select(order, {}), "name", None) == "a"
        assert getattr(select(order, {"role": "edge"}), "name", None) == "edge"


def test_no_configuration_matches() -> None:
    assert select([], {}) is None
    assert select([config("a", role="edge")], {"role": "web"}) is None
