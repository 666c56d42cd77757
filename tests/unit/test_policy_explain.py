from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Node, Service, ServicePort
from pointsman.policy.explain import Explanation, explain
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from pointsman.api.names import Mode
    from pointsman.model.plan import Transport

CLUSTER_IP, LB, EXTERNAL, NODE_IP = "10.96.0.1", "1.2.3.4", "192.0.2.1", "192.168.0.2"
POD, CLIENT = "10.0.0.77", "203.0.113.2"
HERE = Endpoint("10.0.0.1", node="here")
THERE = Endpoint("10.0.0.2", node="there")
SERVICE = {
    "cluster_ips": (CLUSTER_IP,),
    "type": "LoadBalancer",
    "external_ips": (EXTERNAL,),
    "load_balancer_ips": (LB,),
    "ports": (ServicePort(80, node_port=30080),),
}


def planner(
    *endpoints: Endpoint,
    spec: dict[str, Any] | None = None,
    mode: Mode = "nftables",
    port: str = "",
    weight: int | None = None,
    **more: object,
) -> Planner:
    config = ProxyConfigSpec.model_validate(
        {"podCIDRs": ["10.0.0.0/16"], "serviceCIDRs": ["10.96.0.0/12"]} if spec is None else spec
    )
    made = Planner("here", config=config, mode=mode)
    zone = (("topology.kubernetes.io/zone", "a"),)
    made.put(Node("here", labels=zone, addresses=(NODE_IP,)))
    made.put(Service("ns", "web", **(SERVICE | more)))
    made.put(EndpointSlice("ns", "web-1", "web", 4, (EndpointPort(8080, port),), endpoints, weight=weight))
    made.take()
    return made


def ask(
    made: Planner, source: str, destination: str = CLUSTER_IP, port: int = 80, protocol: Transport = "tcp"
) -> Explanation:
    return explain(made, source, destination, port, protocol)


@pytest.mark.parametrize(
    ("destination", "port", "kind"),
    [
        (CLUSTER_IP, 80, "cluster IP"),
        (LB, 80, "load balancer IP"),
        (EXTERNAL, 80, "external IP"),
        (NODE_IP, 30080, "node port"),
    ],
)
def test_kinds_of_addresses(destination: str, port: int, kind: str) -> None:
    found = ask(planner(HERE), CLIENT, destination, port)
    assert (found.address_kind, found.verdict, found.service_port) == (kind, "forwarded", "ns/web")


@pytest.mark.parametrize(
    ("source", "expected"), [(POD, "pod"), (NODE_IP, "node"), ("127.0.0.1", "node"), (CLIENT, "outside")]
)
def test_source_classes(source: str, expected: str) -> None:
    assert ask(planner(HERE), source).source_class == expected


@pytest.mark.parametrize(
    ("source", "destination", "more", "expected", "why"),
    [
        (POD, CLUSTER_IP, {}, "no", "keeps its address"),
        (CLIENT, CLUSTER_IP, {}, "yes", "pod networks"),
        (NODE_IP, CLUSTER_IP, {}, "yes", "pod networks"),
        (CLIENT, CLUSTER_IP, {"spec": {}}, "no", "no pod networks are known"),
        (POD, CLUSTER_IP, {"spec": {"masqueradeAll": True}}, "yes", "masqueradeAll"),
        (POD, LB, {}, "yes", "another node"),
        (CLIENT, LB, {"external_local": True}, "no", "keeps its address"),
        (POD, LB, {"external_local": True}, "no", "keeps its address"),
        (NODE_IP, LB, {"external_local": True}, "yes", "this node itself"),
        ("10.0.0.1", CLUSTER_IP, {}, "when it reaches itself", "hairpin"),
        ("10.0.0.1", CLUSTER_IP, {"internal_local": True}, "yes", "hairpin"),
    ],
)
def test_masquerade(source: str, destination: str, more: dict[str, Any], expected: str, why: str) -> None:
    found = ask(planner(HERE, THERE, **more), source, destination)
    assert found.masqueraded == expected
    assert why in found.masquerade_why


def test_external_local_policy_by_client() -> None:
    made = planner(HERE, THERE, external_local=True)
    inside, outside = ask(made, POD, LB), ask(made, CLIENT, LB)
    assert (inside.policy, outside.policy) == ("Cluster", "Local")
    assert "a pod of this cluster reaches all endpoints" in inside.policy_why
    assert [e.address for e in inside.endpoints if e.used] == ["10.0.0.1", "10.0.0.2"]
    assert [(e.address, e.used) for e in outside.endpoints] == [("10.0.0.1", True), ("10.0.0.2", False)]
    assert "it is on node there" in outside.endpoints[1].why


@pytest.mark.parametrize(
    ("left_out", "why"),
    [
        (Endpoint("10.0.0.9", ready=False, serving=False), "it is not ready"),
        (Endpoint("10.0.0.9", ready=False, serving=False, terminating=True), "serves no more"),
        (Endpoint("10.0.0.9", ready=False, serving=True, terminating=True), "it is terminating, and others are ready"),
    ],
)
def test_reasons_by_condition(left_out: Endpoint, why: str) -> None:
    found = ask(planner(HERE, left_out), POD)
    (reason,) = [e for e in found.endpoints if not e.used]
    assert reason.address == "10.0.0.9"
    assert why in reason.why


def test_reasons_by_hint() -> None:
    near = Endpoint("10.0.0.1", zone_hints=("a",))
    far = Endpoint("10.0.0.2", zone_hints=("b", "c"))
    found = ask(planner(near, far), POD)
    assert [e.why for e in found.endpoints] == [
        "it is ready, and hinted for zone a",
        "it is hinted for zone b, c; others are hinted for a, this node's",
    ]


def test_reasons_by_weight_and_port() -> None:
    drained = ask(planner(HERE, weight=0), POD)
    assert drained.verdict == "rejected"
    assert "all have weight 0" in drained.why
    assert "weight is 0" in drained.endpoints[0].why
    other_port = ask(planner(HERE, port="https"), POD)
    assert other_port.verdict == "rejected"
    assert other_port.endpoints[0].why == "EndpointSlice web-1 has no port without a name for TCP"


def test_a_terminating_endpoint_stands_in() -> None:
    found = ask(planner(Endpoint("10.0.0.9", ready=False, serving=True, terminating=True)), POD)
    assert found.verdict == "forwarded"
    assert "no endpoint is ready" in found.endpoints[0].why


def test_empty() -> None:
    assert ask(planner(), POD).verdict == "rejected"
    dropped = ask(planner(THERE, internal_local=True), POD)
    assert dropped.verdict == "dropped"
    assert "the policy is Local" in dropped.why


def test_source_ranges() -> None:
    made = planner(HERE, source_ranges=("203.0.113.0/31",))
    assert ask(made, "203.0.113.1", LB).verdict == "forwarded"
    refused = ask(made, CLIENT, LB)
    assert refused.verdict == "dropped"
    assert "203.0.113.0/31" in refused.why
    assert ask(made, CLIENT, EXTERNAL).verdict == "forwarded"


@pytest.mark.parametrize(
    ("destination", "port", "protocol", "verdict", "why"),
    [
        (CLUSTER_IP, 81, "tcp", "rejected", "has no port 81/tcp"),
        (CLUSTER_IP, 80, "udp", "rejected", "has no port 80/udp"),
        ("10.97.0.1", 80, "tcp", "dropped", "no Service has"),
        (EXTERNAL, 81, "tcp", "untouched", "belongs to Service ns/web"),
        ("8.8.8.8", 53, "udp", "untouched", "no Service's address"),
        (NODE_IP, 22, "tcp", "untouched", "no Service's address"),
    ],
)
def test_not_a_frontend(destination: str, port: int, protocol: Transport, verdict: str, why: str) -> None:
    found = ask(planner(HERE), POD, destination, port, protocol)
    assert (found.verdict, found.frontend, found.endpoints) == (verdict, None, ())
    assert why in found.why


@pytest.mark.parametrize(("port", "destination"), [(81, CLUSTER_IP), (80, "10.97.0.1")])
@pytest.mark.parametrize("mode", ["nftables", "ipvs", "userspace", "iptables"])
def test_mode_iptables_leaves_alone_what_no_port_is_behind(mode: Mode, port: int, destination: str) -> None:
    found = ask(planner(HERE, mode=mode), POD, destination, port)
    assert (found.verdict == "untouched", "mode iptables" in found.why) == (mode == "iptables", mode == "iptables")


@pytest.mark.parametrize(
    ("mode", "endpoint", "more", "verdict", "why"),
    [
        ("nftables", HERE, {}, "forwarded", "1 endpoint answers"),
        ("userspace", HERE, {}, "rejected", "has no SCTP"),
        ("userspace", THERE, {"internal_local": True}, "dropped", "the policy is Local"),
    ],
)
def test_the_proxy_refuses_sctp(
    mode: Mode, endpoint: Endpoint, more: dict[str, Any], verdict: str, why: str
) -> None:  # fmt: skip
    made = planner(mode=mode, ports=(ServicePort(80, protocol="sctp"),), **more)
    made.put(EndpointSlice("ns", "web-1", "web", 4, (EndpointPort(8080, protocol="sctp"),), (endpoint,)))
    made.take()
    found = ask(made, POD, protocol="sctp")
    assert (found.verdict, found.masqueraded) == (verdict, "no")
    assert why in found.why


@pytest.mark.parametrize(
    ("spec", "destination", "note"),
    [
        ({}, "127.0.0.1", "nobody but the node itself reaches its loopback"),
        ({}, "192.168.1.2", "answer on 192.168.0.2/32 alone"),
        ({"nodePortAddresses": ["all"]}, "192.168.1.2", "no address of this node"),
    ],
)
def test_node_ports_elsewhere(spec: dict[str, Any], destination: str, note: str) -> None:
    found = ask(planner(HERE, spec=spec), CLIENT, destination, 30080)
    assert found.verdict == "untouched"
    assert any(note in text for text in found.notes)


LOOPBACK: Final = {"nodePortAddresses": ["primary", "localhost"]}
OPTED_IN: Final = {"nodePortAddresses": ["localhost"], "iptables": {"localhostNodePorts": True}}


@pytest.mark.parametrize(
    ("mode", "spec", "destination", "note"),
    [
        ("nftables", {}, "127.0.0.1", 'without "localhost" in spec.nodePortAddresses'),
        ("nftables", {"nodePortAddresses": ["127.0.0.0/8"]}, "127.0.0.1", 'without "localhost"'),
        ("nftables", LOOPBACK, "127.0.0.1", ""),
        ("nftables", LOOPBACK, "127.0.0.2", "serves TCP and UDP at 127.0.0.1 and ::1 alone"),
        ("userspace", {}, "127.0.0.1", 'without "localhost"'),
        ("userspace", LOOPBACK, "127.0.0.2", ""),
        ("iptables", {}, "127.0.0.1", "without spec.iptables.localhostNodePorts"),
        ("iptables", {"nodePortAddresses": ["localhost"]}, "127.0.0.1", "without spec.iptables.localhostNodePorts"),
        ("iptables", {"iptables": {"localhostNodePorts": True}}, "127.0.0.1", ""),
        ("iptables", OPTED_IN, "127.0.0.1", ""),
        (
            "iptables",
            OPTED_IN | {"nodePortAddresses": ["primary"]},
            "127.0.0.1",
            "where spec.nodePortAddresses leaves it out",
        ),
        (
            "iptables",
            OPTED_IN | {"nodePortAddresses": ["127.0.0.0/30"]},
            "127.0.0.9",
            "nodePortAddresses leaves it out",
        ),
        ("ipvs", LOOPBACK, "127.0.0.1", "do not answer on loopback in mode ipvs"),
        ("example.com/toy", LOOPBACK, "127.0.0.1", ""),
        ("example.com/toy", {"nodePortAddresses": ["all"]}, "127.0.0.1", "do not answer on loopback"),
    ],
)
def test_node_ports_on_loopback_follow_the_mode_and_its_settings(
    mode: Mode, spec: dict[str, Any], destination: str, note: str
) -> None:
    found = ask(planner(HERE, spec=spec, mode=mode), "127.0.0.1", destination, 30080)
    assert (found.verdict, bool(found.notes)) == (("untouched", True) if note else ("forwarded", False))
    assert any(note in text for text in found.notes) or not note


def test_node_ports_on_ipv6s_loopback() -> None:
    def asked(mode: Mode, spec: dict[str, Any]) -> Explanation:
        made = planner(spec=spec, mode=mode, cluster_ips=("fd00:10:96::1",))
        made.put(EndpointSlice("ns", "web-6", "web", 6, (EndpointPort(8080),), (Endpoint("fd00::1", node="here"),)))
        made.take()
        return ask(made, "::1", "::1", 30080)

    assert asked("nftables", LOOPBACK).verdict == "forwarded"
    assert "over IPv6 in mode iptables" in asked("iptables", OPTED_IN).notes[0]


@pytest.mark.parametrize(
    ("mode", "spec", "source", "destination"),
    [
        ("userspace", None, POD, CLUSTER_IP),
        ("userspace", None, "10.0.0.1", CLUSTER_IP),
        ("nftables", LOOPBACK, "127.0.0.1", "127.0.0.1"),
    ],
)
def test_behind_the_proxy_in_the_agent_an_endpoint_sees_the_node(
    mode: Mode, spec: dict[str, Any] | None, source: str, destination: str
) -> None:
    port = 80 if destination == CLUSTER_IP else 30080
    found = ask(planner(HERE, THERE, spec=spec, mode=mode), source, destination, port)
    assert (found.verdict, found.masqueraded) == ("forwarded", "yes")
    assert "the proxy in the agent" in found.masquerade_why


def test_unknown_node_addresses_are_assumed() -> None:
    made = planner(HERE, spec={"nodePortAddresses": ["all"]})
    made.put(Node("here"))
    made.take()
    found = ask(made, CLIENT, "192.168.1.2", 30080)
    assert found.verdict == "forwarded"
    assert any("taken for an address of this node" in text for text in found.notes)


def test_pods_cannot_be_told_without_their_networks() -> None:
    found = ask(planner(HERE, spec={}), POD)
    assert found.source_class == "outside"
    assert any("no pod networks are known" in text for text in found.notes)


def test_families_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different IP families"):
        ask(planner(HERE), "fd00::1")
