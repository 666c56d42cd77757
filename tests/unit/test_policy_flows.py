"""Upstream's packet flows, decided from the plan alone. The kernel tier sends the same ones as real packets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.model.objects import ObjectKey
from pointsman.model.parse import parse
from pointsman.policy.explain import explain
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = json.loads((Path(__file__).parents[1] / "vectors" / "packet_flows.json").read_text())
CONTEXT = DATA["context"]
MODE = "nftables"
VERDICTS = {"dnat": "forwarded", "reject": "rejected", "drop": "dropped", "none": "untouched", "accept": "untouched"}


def _config(wanted: dict[str, Any]) -> ProxyConfigSpec:
    detector = CONTEXT["localDetector"]
    spec: dict[str, Any] = {
        "masqueradeAll": wanted.get("masqueradeAll", CONTEXT["masqueradeAll"]),
        "serviceCIDRs": [CONTEXT["serviceCIDRs"][family] for family in ("IPv4", "IPv6")],
    }
    if wanted.get("localDetector", True):
        spec["podCIDRs"] = [detector["IPv4"], detector["IPv6"]]
    if wanted.get("nodePortAddresses"):
        spec["nodePortAddresses"] = wanted["nodePortAddresses"]
    return ProxyConfigSpec.model_validate(spec)


def _local_addresses() -> tuple[str, ...]:
    return tuple(address.partition("/")[0] for address in CONTEXT["localAddresses"]["eth0"])


def _planner(objects: dict[str, Any], config: dict[str, Any]) -> Planner:
    planner = Planner(CONTEXT["nodeName"], config=_config(config), addresses=_local_addresses())
    items = [*objects["services"], *objects["endpointSlices"]]
    parsed = parse(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode(), "vectors")
    assert not parsed.problems
    for obj in parsed.objects:
        planner.put(obj)
    planner.take()
    return planner


def _modes(part: dict[str, Any], default: list[str]) -> list[str]:
    return part.get("backends", default)


def _flows(suite: dict[str, Any], flows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    modes = _modes(suite, [MODE])
    yield from (flow for flow in flows if MODE in _modes(flow, modes))


def _check(planner: Planner, flow: dict[str, Any]) -> None:
    found = explain(planner, flow["sourceIP"], flow["destIP"], flow["destPort"], flow["protocol"])
    assert found.verdict == VERDICTS[flow["output"]["verdict"]], found.why
    if found.verdict == "forwarded":
        used = [
            f"[{e.address}]:{e.port}" if ":" in e.address else f"{e.address}:{e.port}"
            for e in found.endpoints
            if e.used
        ]
        assert sorted(used) == sorted(flow["output"]["endpoints"])
    assert (found.masqueraded != "no") == flow["masq"], found.masquerade_why


@pytest.mark.parametrize("suite", DATA["suites"], ids=lambda suite: suite["id"])
def test_upstream_flows(suite: dict[str, Any]) -> None:
    planner = _planner(suite["objects"], suite["config"])
    for flow in _flows(suite, suite["flows"]):
        _check(planner, flow)
    for text in suite.get("after", {}).get("delete", ()):
        kind, _, name = text.partition(" ")
        planner.remove(ObjectKey(kind, *name.split("/")))
    planner.take()
    for flow in _flows(suite, suite.get("after", {}).get("flows", [])):
        _check(planner, flow)


@pytest.mark.parametrize("vector", DATA["local_ready_endpoint_vectors"], ids=lambda vector: vector["id"])
def test_health_check_counts_ready_local_addresses(vector: dict[str, Any]) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "ns1", "name": "svc1"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "172.30.1.1",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30000,
            "ports": [{"port": 80}],
        },
    }
    planner = _planner({"services": [service], "endpointSlices": vector["slices"]}, {})
    assert planner.health_checks["ns1/svc1"].local_endpoints == vector["expect"]["distinctReadyLocalIPs"]
    planner.remove(ObjectKey("Service", "ns1", "svc1"))
    planner.take()
    assert not planner.health_checks


@pytest.mark.parametrize("vector", DATA["no_local_endpoints_metric_vectors"], ids=lambda vector: vector["id"])
@pytest.mark.parametrize("on_this_node", [True, False])
def test_no_local_endpoints(vector: dict[str, Any], *, on_this_node: bool) -> None:
    objects = json.loads(json.dumps(vector["objects"]))
    if not on_this_node:
        for part in objects["endpointSlices"]:
            part["endpoints"] = [e for e in part["endpoints"] if e["nodeName"] != CONTEXT["nodeName"]]
    counts = _planner(objects, {}).counts
    spec = objects["services"][0]["spec"]
    internal = not on_this_node and spec.get("internalTrafficPolicy") == "Local"
    external = not on_this_node and spec.get("externalTrafficPolicy") == "Local"
    assert (counts.no_local_endpoints_internal, counts.no_local_endpoints_external) == (internal, external)
    if on_this_node:
        expected = vector["expect"]["kubeproxy_sync_proxy_rules_no_local_endpoints_total"]
        assert (internal, external) == (expected["internal"], expected["external"])
