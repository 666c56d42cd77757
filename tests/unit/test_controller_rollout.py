"""A changed configuration goes node by node, and stops at a node that does not come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.controller.actions import CreateNodeProxy, DeleteNodeProxy, UpdateNodeProxy
from pointsman.controller.nodes import fleets
from pointsman.controller.rollout import budget, roll_out
from pointsman.model.objects import ObjectKey
from support.fleet import Cluster, configuration, says

if TYPE_CHECKING:
    from random import Random

BAD = says("ModeInForce", "False", "ModeNotSupported", "mode ipvs is not there")


def ready_cluster(count: int, max_unavailable: int | str = 1) -> Cluster:
    cluster = Cluster(
        *(f"node-{index}" for index in range(count)),
        configs=[configuration(rollout={"maxUnavailable": max_unavailable})],
    )
    cluster.settle()
    for name in cluster.view.nodes:
        cluster.report(name)
    cluster.settle()
    cluster.done.clear()
    return cluster


def change(cluster: Cluster, scheduler: str = "rr", max_unavailable: int | str = 1) -> None:
    old = cluster.config()
    new = configuration(generation=old.generation + 1, scheduler=scheduler, rollout={"maxUnavailable": max_unavailable})
    cluster.put(new.model_copy(update={"status": old.status}))


def updates(cluster: Cluster) -> list[str]:
    return [action.node for action in cluster.done if isinstance(action, UpdateNodeProxy)]


@pytest.mark.parametrize(
    ("max_unavailable", "nodes", "expected"),
    [(1, 3, 1), (5, 3, 5), ("10%", 3, 1), ("10%", 11, 2), ("50%", 4, 2), ("100%", 7, 7), ("1%", 0, 1)],
)
def test_the_budget_is_rounded_up_and_never_nothing(max_unavailable: int | str, nodes: int, expected: int) -> None:
    assert budget(max_unavailable, nodes) == expected


def test_new_nodes_get_their_configuration_at_once() -> None:
    cluster = Cluster("node-1", "node-2", configs=[configuration()])
    actions = [each for each in cluster.pass_() if isinstance(each, CreateNodeProxy)]
    assert [(each.node, each.node_uid) for each in actions] == [("node-1", "uid-node-1"), ("node-2", "uid-node-2")]
    assert actions[0].spec.proxy_config == "default"


def test_nothing_is_done_before_everything_is_known() -> None:
    cluster = ready_cluster(2)
    cluster.view.listed.discard("Node")
    cluster.view.nodes.clear()
    assert cluster.pass_(5) == ()


def test_a_node_proxy_without_a_node_or_a_configuration_goes() -> None:
    cluster = ready_cluster(2)
    cluster.put(configuration(generation=2, nodeSelector={"matchLabels": {"proxy": "yes"}}))
    cluster.add_node("node-1", proxy="yes")
    assert not [each for each in cluster.pass_() if isinstance(each, DeleteNodeProxy)]  # it may come back in a moment
    assert [each.node for each in cluster.pass_(10.0) if isinstance(each, DeleteNodeProxy)] == ["node-0"]


def test_a_replaced_configuration_is_a_change_like_any_other() -> None:
    cluster = ready_cluster(3)
    cluster.version += 1
    cluster.view.remove(ObjectKey("ProxyConfig", "", "default"), cluster.version)
    cluster.pass_(1.0)
    cluster.put(configuration(scheduler="rr", rollout={"maxUnavailable": 1}))
    cluster.settle()
    assert updates(cluster) == ["node-0"]
    assert not [each for each in cluster.done if isinstance(each, DeleteNodeProxy)]


def test_nodes_where_no_agent_has_ever_worked_hold_up_no_others() -> None:
    cluster = ready_cluster(2)
    cluster.add_node("node-2")
    cluster.settle()
    change(cluster)
    cluster.settle()
    assert updates(cluster) == ["node-0", "node-2"]


def test_nodes_are_changed_one_after_the_other() -> None:
    cluster = ready_cluster(3)
    change(cluster)
    cluster.settle()
    assert updates(cluster) == ["node-0"]
    cluster.report("node-0")
    cluster.settle()
    assert updates(cluster) == ["node-0", "node-1"]
    cluster.report("node-1")
    cluster.settle()
    cluster.report("node-2")
    cluster.settle()
    assert updates(cluster) == ["node-0", "node-1", "node-2"]
    assert cluster.conditions()["Progressing"] == ("False", "Complete")


def test_a_node_that_cannot_do_it_stops_the_rollout() -> None:
    cluster = ready_cluster(3)
    change(cluster)
    cluster.settle()
    cluster.report("node-0", BAD)
    cluster.settle()
    assert updates(cluster) == ["node-0"]
    change(cluster, "wrr")
    cluster.settle()
    assert updates(cluster) == ["node-0", "node-0"]  # it has nothing to lose
    cluster.report("node-0")
    cluster.settle()
    assert updates(cluster) == ["node-0", "node-0", "node-1"]


def test_a_silent_node_takes_a_place_in_the_budget() -> None:
    cluster = ready_cluster(3)
    cluster.view.set_silent({"node-2"})
    change(cluster)
    cluster.settle()
    assert updates(cluster) == []
    cluster.view.set_silent(set())
    cluster.settle()
    assert updates(cluster) == []  # heard again, but it has not said yet how it is
    cluster.report("node-2")
    cluster.settle()
    assert updates(cluster) == ["node-0"]


def test_the_same_view_gives_the_same_answer() -> None:
    cluster = ready_cluster(5, "50%")
    change(cluster, max_unavailable="50%")
    first = tuple(roll_out(cluster.view, fleets(cluster.view)))
    assert first == tuple(roll_out(cluster.view, fleets(cluster.view)))
    assert [action.node for action in first] == ["node-0", "node-1", "node-2"]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 7),
    max_unavailable=st.one_of(st.integers(1, 8), st.sampled_from(["1%", "34%", "50%", "100%"])),
    bad=st.sets(st.integers(0, 6)),
    down=st.sets(st.integers(0, 6)),
    order=st.randoms(use_true_random=False),
)
def test_no_more_nodes_are_taken_down_than_allowed(
    count: int, max_unavailable: int | str, bad: set[int], down: set[int], order: Random
) -> None:
    """Some nodes are unavailable before, some never come back; the others obey, in any order."""
    cluster = ready_cluster(count, max_unavailable)
    allowed = budget(max_unavailable, count)
    before = {f"node-{index}" for index in down if index < count}
    broken = {f"node-{index}" for index in bad if index < count}
    for name in sorted(before):
        cluster.report(name, says("Ready", "False", "SyncFailed"))
    change(cluster, max_unavailable=max_unavailable)
    for _ in range(4 * count + 4):
        cluster.pass_(1)
        (fleet,) = fleets(cluster.view)
        unavailable = {node.name for node in fleet.nodes if node.unavailable}
        assert len(unavailable) <= max(allowed, len(before))
        waiting = sorted(
            node.name for node in fleet.nodes if node.updated and node.unavailable and node.name not in broken
        )
        if waiting:
            cluster.report(order.choice(waiting))
    (fleet,) = fleets(cluster.view)
    if len(broken) < allowed:
        assert all(node.updated for node in fleet.nodes)
    else:
        stuck = [node.name for node in fleet.nodes if node.updated and node.unavailable]
        assert set(stuck) <= broken
        assert all(node.ready or node.name in broken or not node.unavailable for node in fleet.nodes)
    assert len(set(updates(cluster))) == len(updates(cluster))
