"""How a changed configuration reaches live nodes, and what a restart of the operator does to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Held, Load
from support.operated import (
    PROXIES,
    Record,
    config,
    configured,
    message,
    proxy,
    replace,
    restart_operator,
    restore,
    said,
    specs,
    wait_until_complete,
)
from support.scenes import PATIENCE, configuration, kernel
from support.web import PORT, Web, web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from support.scenes import Document

STALL = 120.0
"""Seconds within which a rollout that stands still for one minute is told of."""


@pytest.fixture(scope="module")
def rolled(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "rolled", replicas=3) as running:
        yield running


def is_between(document: Document) -> bool:
    """Tell whether a node was given a form that it does not have in force."""
    status = document.get("status", {})
    behind = status.get("observedGeneration") != document["metadata"]["generation"]
    return behind or said(document, "Ready")[0] != "True" or said(document, "ModeInForce")[0] != "True"


def test_one_node_after_the_other_changes_under_load(cluster: LiveCluster, rolled: Web) -> None:
    proxies = {name: proxy(cluster, name) for name in cluster.nodes}
    record = Record(cluster, PROXIES)
    origin = cluster.nodes["node02"].client
    wanted = configuration(cluster, scheduler="rr", rollout={"maxUnavailable": 1})
    order: list[str] = []
    try:
        with Held(origin, rolled.address, PORT, count=20) as held, Load(origin, rolled.address, PORT) as load:
            load.wait(50)
            cluster.plane.kubectl("apply", "-f", "-", stdin=json.dumps(wanted))
            done = wait_until_complete(cluster)
            load.wait(50)
            assert held.broken() == []
        assert load.spread().failures == []
        assert done["status"]["nodes"] == {"desired": 3, "updated": 3, "ready": 3, "summary": "3/3"}
        assert said(done, "Degraded") == ("False", "AsExpected")
        assert specs(cluster, "scheduler") == dict.fromkeys(cluster.nodes, "rr")
        for event in record.events():
            seen = event["object"]
            name = seen["metadata"]["name"]
            if seen["metadata"]["generation"] != proxies[name]["metadata"]["generation"]:
                order.append(name)
            proxies[name] = seen
            between = [each for each, document in proxies.items() if is_between(document)]
            assert len(between) <= 1, f"between two forms at one time: {between}"
        assert order == sorted(cluster.nodes), "each once, in the order of their names"
    finally:
        restore(cluster)


def test_a_rollout_stops_at_the_node_that_cannot_do_it_and_heals(cluster: LiveCluster, rolled: Web) -> None:
    first, *others = sorted(cluster.nodes)
    origin = cluster.nodes[others[0]].client
    generations = {name: proxy(cluster, name)["metadata"]["generation"] for name in cluster.nodes}
    record = Record(cluster, PROXIES)
    try:
        with Load(origin, rolled.address, PORT) as load:
            replace(cluster, mode="ipvs", fallbackModes=["example.com/absent"], rollout={"maxUnavailable": 1})
            cluster.wait_until(
                lambda: said(proxy(cluster, first), "ModeInForce") == ("False", "ModeNotSupported"),
                "the first node to say that it cannot",
                patience=PATIENCE,
            )
            cluster.wait_until(
                lambda: said(config(cluster), "Progressing") == ("False", "RolloutStalled"),
                "the ProxyConfig to say that it is stuck",
                patience=STALL,
            )
            cluster.wait_until(
                lambda: config(cluster)["status"]["problemCount"] == 1,
                "the endpoints on the node to be reported",
                patience=PATIENCE,
            )
        assert load.spread().failures == []
        stuck = config(cluster)
        assert said(stuck, "Ready") == ("False", "NodesNotReady")
        assert said(stuck, "Degraded") == ("True", "NodesDegraded")
        assert f"1 of 3 nodes: {first}: ModeNotSupported: mode ipvs is not there" in message(stuck, "Degraded")
        assert stuck["status"]["nodes"] == {"desired": 3, "updated": 1, "ready": 0, "summary": "0/3"}
        assert specs(cluster, "mode") == {first: "ipvs"} | dict.fromkeys(others, "nftables")
        # The first one alone was written to. Others may say anew how many Services they have; nothing of them changes.
        written = [event["object"] for event in record.events()]
        assert first in {each["metadata"]["name"] for each in written}
        for each in written:
            if (name := each["metadata"]["name"]) != first:
                assert each["metadata"]["generation"] == generations[name]
                assert not is_between(each)
        (told,) = stuck["status"]["problems"]
        assert told["object"] == f"Node {first}"
        assert "it has 1 ready endpoint, and its agent is not ready: ModeNotSupported" in told["message"]
        events = cluster.plane.kubectl("get", "events", "--field-selector=reason=AgentNotReady")
        assert f"node/{first}" in events
        replace(cluster, mode="ipvs", fallbackModes=["nftables"])
        healed = wait_until_complete(cluster)
        for name in cluster.nodes:
            assert said(proxy(cluster, name), "ModeInForce") == ("True", "FellBack")
        assert healed["status"]["effectiveModes"] == [{"mode": "nftables", "nodes": 3}]
        assert healed["status"].get("problems", []) == []
        assert said(healed, "Degraded") == ("False", "AsExpected")
    finally:
        restore(cluster)
    rolled.until_all(rolled.pods(), patience=PATIENCE)


def test_a_killed_operator_changes_nothing_on_any_node(cluster: LiveCluster, rolled: Web) -> None:
    with configured(cluster, scheduler="rr"):
        record = Record(cluster, PROXIES)
        generations = {name: proxy(cluster, name)["metadata"]["generation"] for name in cluster.nodes}
        before = {name: kernel(node, rolled.address, PORT) for name, node in cluster.nodes.items()}
        origin = cluster.nodes["node02"].client
        with Held(origin, rolled.address, PORT, count=20) as held, Load(origin, rolled.address, PORT) as load:
            load.wait(50)
            restart_operator(cluster)
            load.wait(50)
            assert held.broken() == []
        assert load.spread().failures == []
        after = {name: kernel(node, rolled.address, PORT) for name, node in cluster.nodes.items()}
        assert {name: each.table for name, each in after.items()} == {name: each.table for name, each in before.items()}
        assert all(after[name].connections >= before[name].connections >= 0 for name in cluster.nodes)
        assert after["node02"].connections >= before["node02"].connections + len(load.samples)
        for event in record.events():
            name = event["object"]["metadata"]["name"]
            assert event["type"] == "MODIFIED"
            assert event["object"]["metadata"]["generation"] == generations[name]
    cluster.operators.publish()
    cluster.operators.wait_for_webhook()
