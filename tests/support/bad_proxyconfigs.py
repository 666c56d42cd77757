"""ProxyConfigs that nobody should be able to write: what the API server alone says of each.

One table for two tests: the API server's schema refuses each one, and so does our own reader.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Bad(NamedTuple):
    """A bad `spec`.

    Attributes:
        spec: the spec, with nothing wrong but one thing.
        field: the path that the API server names.
        words: what it has to say there.
    """

    spec: dict[str, object]
    field: str
    words: str


OWN: Final = ", or one of your own as example.com/name"
MODE: Final = f"allowed: nftables, ipvs, iptables, userspace{OWN}"
DURATION: Final = 'allowed: numbers with a unit of ns, us, ms, s, m or h, such as "30s", "50ms" or "1h30m"'
PORTS: Final = 'allowed: ports 1 to 65535, as "30000-32767" or "30000+2767" (first port and how many follow)'
ORDER: Final = "the first port is above the last"
NETWORK: Final = 'allowed: a network as "10.0.0.0/8" or "fd00::/64"'
ADDRESS: Final = 'allowed: "primary", "localhost", "all", or a network as "10.0.0.0/8" or "fd00::/64"'
SHARE: Final = 'allowed: a number of 1 or more, or a share from "1%" to "100%"'


def _selector(**requirement: object) -> dict[str, object]:
    return {"nodeSelector": {"matchExpressions": [requirement]}}


BAD: Final = (
    # Words.
    Bad({"mode": "ipsv"}, "spec.mode", MODE),
    Bad({"mode": ""}, "spec.mode", MODE),
    Bad({"mode": "example.com/"}, "spec.mode", MODE),
    Bad({"mode": "/toy"}, "spec.mode", MODE),
    Bad({"mode": "example/toy"}, "spec.mode", MODE),
    Bad({"mode": "Example.com/toy"}, "spec.mode", MODE),
    Bad({"mode": "example.com/toy\n"}, "spec.mode", MODE),
    Bad({"mode": "example.com/" + "x" * 52}, "spec.mode", "may not be more than 63"),
    Bad({"mode": 7}, "spec.mode", "must be of type string"),
    Bad({"fallbackModes": ["nftables"]}, "spec.fallbackModes", "(spec.mode is nftables)"),
    Bad(
        {"mode": "ipvs", "fallbackModes": ["iptables", "ipvs"]},
        "spec.fallbackModes",
        "allowed: each of nftables, iptables, userspace at most once (spec.mode is ipvs)",
    ),
    Bad(
        {"fallbackModes": ["iptables", "iptables"]},
        "spec.fallbackModes",
        "allowed: each of ipvs, iptables, userspace at most once",
    ),
    Bad({"fallbackModes": ["x"]}, "spec.fallbackModes[0]", MODE),
    Bad({"mode": "example.com/a", "fallbackModes": ["example.com/a"]}, "spec.fallbackModes", "none that is spec.mode"),
    Bad({"mode": "example.com/a", "fallbackModes": ["ipvs", "ipvs"]}, "spec.fallbackModes", "each mode at most once"),
    Bad({"fallbackModes": [f"a.b/{n}" for n in range(9)]}, "spec.fallbackModes", "must have at most 8 items"),
    Bad({"fallbackModes": "ipvs"}, "spec.fallbackModes", "must be of type array"),
    Bad(
        {"scheduler": "lc"},
        "spec.scheduler",
        f"lc is not allowed; allowed: in mode nftables: random, rr, wrr, sh, dh, mh{OWN}",
    ),
    Bad({"mode": "iptables", "scheduler": "rr"}, "spec.scheduler", "allowed: in mode iptables: random"),
    Bad({"mode": "userspace", "scheduler": "random"}, "spec.scheduler", "allowed: in mode userspace: rr"),
    Bad({"mode": "ipvs", "scheduler": "random"}, "spec.scheduler", "allowed: in mode ipvs: rr, wrr, lc, wlc, "),
    Bad({"mode": "ipvs", "scheduler": "example.com/tenth"}, "spec.scheduler", "allowed: in mode ipvs: rr, wrr, lc, "),
    Bad({"scheduler": "example.com/"}, "spec.scheduler", "is not allowed; allowed: in mode nftables"),
    Bad({"scheduler": ""}, "spec.scheduler", "is not allowed; allowed: in mode nftables"),
    Bad({"scheduler": "x" * 64}, "spec.scheduler", "may not be more than 63"),
    Bad({"localDetection": "BridgeInterface"}, "spec.localDetection", 'supported values: "ClusterCIDR", "NodeCIDR"'),
    # Ranges of ports.
    Bad({"nodePortRange": "32767-30000"}, "spec.nodePortRange", ORDER),
    Bad({"nodePortRange": "0-100"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "1-65536"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "65535+1"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "0"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "65536"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "30000 - 32767"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "30000:32767"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": "-1"}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": ""}, "spec.nodePortRange", PORTS),
    Bad({"nodePortRange": 30000}, "spec.nodePortRange", "must be of type string"),
    Bad({"nodePortRanges": [{}]}, "spec.nodePortRanges[0].range", "Required value"),
    Bad({"nodePortRanges": [{"range": "2-1"}]}, "spec.nodePortRanges[0].range", ORDER),
    Bad({"nodePortRanges": [{"range": "80"}] * 65}, "spec.nodePortRanges", "must have at most 64 items"),
    # Networks.
    Bad({"podCIDRs": ["10.0.0.0/33"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["10.0.0.1"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["10.0.0.0/255.0.0.0"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["10.0.0.0/08"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["010.0.0.0/8"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": [" 10.0.0.0/8"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["fe80::1%eth0/64"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["::ffff:10.0.0.0/104"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["fd00::/129"]}, "spec.podCIDRs[0]", NETWORK),
    Bad({"podCIDRs": ["10.0.0.0/8", "10.0.0.0/8"]}, "spec.podCIDRs[1]", "Duplicate value"),
    Bad({"podCIDRs": "10.0.0.0/8"}, "spec.podCIDRs", "must be of type array"),
    Bad({"serviceCIDRs": ["services"]}, "spec.serviceCIDRs[0]", NETWORK),
    Bad({"ipvs": {"excludeCIDRs": ["10.0.0.0"]}}, "spec.ipvs.excludeCIDRs[0]", NETWORK),
    Bad({"nodePortAddresses": ["primary", "10.0.0.1"]}, "spec.nodePortAddresses[1]", ADDRESS),
    Bad({"nodePortAddresses": ["Primary"]}, "spec.nodePortAddresses[0]", ADDRESS),
    Bad({"nodePortAddresses": ["all", "all"]}, "spec.nodePortAddresses[1]", "Duplicate value"),
    # Durations.
    Bad({"syncPeriod": "30"}, "spec.syncPeriod", DURATION),
    Bad({"syncPeriod": 30}, "spec.syncPeriod", "must be of type string"),
    Bad({"syncPeriod": "-1s"}, "spec.syncPeriod", DURATION),
    Bad({"syncPeriod": "1d"}, "spec.syncPeriod", DURATION),
    Bad({"syncPeriod": ""}, "spec.syncPeriod", DURATION),
    Bad({"syncPeriod": "0s", "minSyncPeriod": "0s"}, "spec.syncPeriod", "allowed: a duration above 0s"),
    Bad({"syncPeriod": "0", "minSyncPeriod": "0"}, "spec.syncPeriod", "allowed: a duration above 0s"),
    Bad({"syncPeriod": "2562048h"}, "spec.syncPeriod", "allowed: 2562047h at most"),
    Bad(
        {"syncPeriod": "1s", "minSyncPeriod": "2s"},
        "spec.minSyncPeriod",
        "2s is not allowed; allowed: a duration not above spec.syncPeriod (1s)",
    ),
    Bad({"syncPeriod": "10ms"}, "spec.minSyncPeriod", "not above spec.syncPeriod (10ms)"),
    Bad({"ipvs": {"udpTimeout": "5"}}, "spec.ipvs.udpTimeout", DURATION),
    Bad({"ipvs": {"gracefulTermination": "soon"}}, "spec.ipvs.gracefulTermination", DURATION),
    Bad({"conntrack": {"tcpEstablishedTimeout": "1 h"}}, "spec.conntrack.tcpEstablishedTimeout", DURATION),
    Bad({"ipvs": {"schedulerFlags": ["mh-ports"]}}, "spec.ipvs.schedulerFlags[0]", 'supported values: "mh-fallback", '),
    Bad({"ipvs": {"schedulerFlags": ["sh-port", "sh-port"]}}, "spec.ipvs.schedulerFlags[1]", "Duplicate value"),
    Bad({"ipvs": {"schedulerFlags": "sh-port"}}, "spec.ipvs.schedulerFlags", "must be of type array"),
    # Numbers and switches.
    Bad({"priority": "1"}, "spec.priority", "must be of type integer"),
    Bad({"priority": 1.5}, "spec.priority", "must be of type integer"),
    Bad({"priority": 1_000_000_001}, "spec.priority", "should be less than or equal to 1"),
    Bad({"priority": -1_000_000_001}, "spec.priority", "should be greater than or equal to -1"),
    Bad({"conntrack": {"min": -1}}, "spec.conntrack.min", "should be greater than or equal to 0"),
    Bad({"conntrack": {"maxPerCore": 2**31}}, "spec.conntrack.maxPerCore", "should be less than or equal to 2"),
    Bad({"masqueradeAll": "yes"}, "spec.masqueradeAll", "must be of type boolean"),
    Bad({"serviceConditions": 1}, "spec.serviceConditions", "must be of type boolean"),
    Bad({"rollout": {"maxUnavailable": 0}}, "spec.rollout.maxUnavailable", SHARE),
    Bad({"rollout": {"maxUnavailable": -1}}, "spec.rollout.maxUnavailable", SHARE),
    Bad({"rollout": {"maxUnavailable": "0%"}}, "spec.rollout.maxUnavailable", SHARE),
    Bad({"rollout": {"maxUnavailable": "101%"}}, "spec.rollout.maxUnavailable", SHARE),
    Bad({"rollout": {"maxUnavailable": "3"}}, "spec.rollout.maxUnavailable", SHARE),
    Bad({"rollout": {"maxUnavailable": True}}, "spec.rollout.maxUnavailable", "must be of type integer,string"),
    Bad({"ipvs": []}, "spec.ipvs", "must be of type object"),
    # Selectors.
    Bad({"nodeSelector": {"matchLabels": {"a": 1}}}, "spec.nodeSelector.matchLabels.a", "must be of type string"),
    Bad(_selector(operator="Exists"), "spec.nodeSelector.matchExpressions[0].key", "Required value"),
    Bad(_selector(key="a"), "spec.nodeSelector.matchExpressions[0].operator", "Required value"),
    Bad(_selector(key="a", operator="Is"), "spec.nodeSelector.matchExpressions[0].operator", "supported values"),
    Bad(_selector(key="a", operator="In"), "spec.nodeSelector.matchExpressions[0].values", "one or more values"),
    Bad(
        _selector(key="a", operator="NotIn", values=[]),
        "spec.nodeSelector.matchExpressions[0].values",
        "one or more values",
    ),
    Bad(
        _selector(key="a", operator="Exists", values=["b"]),
        "spec.nodeSelector.matchExpressions[0].values",
        "no values",
    ),
    Bad(
        {
            "nodePortRanges": [
                {"range": "80", "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}
            ]
        },
        "spec.nodePortRanges[0].namespaceSelector.matchExpressions[0].values",
        "one or more values",
    ),
)
"""Everything that one object can have wrong by itself, one thing at a time."""

GOOD: Final[tuple[dict[str, object], ...]] = (
    {},
    {"mode": "ipvs", "fallbackModes": ["nftables", "iptables"], "scheduler": "lblcr"},
    {"mode": "example.com/toy", "fallbackModes": ["nftables", "a.example-b.org/c_d.e-1"], "scheduler": "anything"},
    {"fallbackModes": ["example.com/toy"], "scheduler": "example.com/tenth"},
    {"nodePortRange": "30000+2767"},
    {"nodePortRange": "1-65535"},
    {"nodePortRange": "80"},
    {"nodePortRange": "65534+1"},
    {"nodePortRange": "000080-000443"},
    {"nodePortRanges": [{"range": "80-80", "namespaceSelector": {"matchLabels": {"team": "a"}}}, {"range": "90"}]},
    {"podCIDRs": ["10.1.2.3/8", "10.0.0.0/8", "FD00:0::/64", "::/0", "0.0.0.0/0"]},
    {"podCIDRs": [], "nodePortAddresses": []},
    {"nodePortAddresses": ["localhost", "primary", "192.0.2.7/32", "fd00::1/128"]},
    {"syncPeriod": "1.h", "minSyncPeriod": "0"},
    {"syncPeriod": "1h30m0.5s20ms10us5ns", "minSyncPeriod": "3µs"},
    {"syncPeriod": "2562047h", "minSyncPeriod": "1ns"},
    {"syncPeriod": "1s", "minSyncPeriod": "1000ms"},
    {"priority": -5, "masqueradeAll": True, "localDetection": "NodeCIDR"},
    {"conntrack": {"maxPerCore": 0, "min": 2**31 - 1, "tcpBeLiberal": False, "udpStreamTimeout": "0s"}},
    {"ipvs": {"strictARP": True, "tcpFinTimeout": "2m", "excludeCIDRs": ["192.0.2.0/25"]}},
    {"mode": "ipvs", "scheduler": "mh", "ipvs": {"schedulerFlags": ["sh-port", "mh-port"]}},
    {"rollout": {"maxUnavailable": 1}},
    {"rollout": {"maxUnavailable": "100%"}},
    _selector(key="a", operator="Exists"),
    _selector(key="a", operator="DoesNotExist", values=[]),
    _selector(key="a", operator="NotIn", values=["b", "b"]),
    {"mode": None, "podCIDRs": None, "ipvs": None, "scheduler": None, "nodeSelector": None},
)
"""What may be written."""
