"""Upstream's packet flows through the rules in memory. The kernel tier sends the same ones as real packets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.dataplane.iptables.ruleset import Ruleset
from pointsman.model.objects import ObjectKey
from pointsman.model.parse import parse
from pointsman.policy.planner import Planner
from support.iptables_memory import Memory, Packet, Tracer
from support.packet_flows import CONTEXT, VECTORS, configuration

if TYPE_CHECKING:
    from pointsman.model.plan import Family

SUITES = [suite for suite in VECTORS["suites"] if "iptables" in suite.get("backends", ["iptables"])]
OWN = {address.partition("/")[0] for group in CONTEXT["localAddresses"].values() for address in group}
NODE = tuple(address.partition("/")[0] for address in CONTEXT["localAddresses"]["eth0"])


def traced(planner: Planner, family: Family) -> Tracer:
    memory, plan = Memory(), planner.plan
    answers = {frontend: answer for frontend, answer in plan.answers.items() if frontend.family == family}
    memory.restore(Ruleset(family).adoption(answers, plan.settings, memory.held()).text)
    return Tracer(memory, OWN)


def check(tracer: Tracer, flow: dict[str, Any]) -> None:
    found = tracer.fate(Packet(flow["sourceIP"], flow["destIP"], flow["protocol"], flow["destPort"]))
    wanted = flow["output"]
    assert (found.verdict, found.endpoints, found.masqueraded) == (
        wanted["verdict"],
        frozenset(wanted["endpoints"]),
        flow["masq"],
    ), flow["name"]


def check_all(planner: Planner, flows: list[dict[str, Any]]) -> None:
    chosen = [flow for flow in flows if "iptables" in flow.get("backends", ["iptables"])]
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        tracer = traced(planner, family)
        for flow in chosen:
            if (":" in flow["destIP"]) == (family == 6):
                check(tracer, flow)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite["id"])
def test_upstream_flows(suite: dict[str, Any]) -> None:
    config = configuration(suite["config"], "iptables")
    planner = Planner(CONTEXT["nodeName"], config=config, addresses=NODE, mode="iptables")
    items = [*suite["objects"]["services"], *suite["objects"]["endpointSlices"]]
    for obj in parse(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()).objects:
        planner.put(obj)
    planner.take()
    check_all(planner, suite["flows"])
    after = suite.get("after", {})
    for text in after.get("delete", ()):
        kind, _, name = text.partition(" ")
        planner.remove(ObjectKey(kind, *name.split("/")))
    planner.take()
    check_all(planner, after.get("flows", []))
