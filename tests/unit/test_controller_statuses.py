"""What ProxyConfigs and NodeProxies say of themselves."""

from __future__ import annotations

from pointsman.api.timestamps import rfc3339, unix_seconds
from pointsman.controller.actions import PatchNodeProxyStatus, PatchProxyConfigStatus, UpdateNodeProxy
from pointsman.controller.reconcile import next_due, reconcile
from support.fleet import START, Cluster, configuration, says

BAD = says("ModeInForce", "False", "ModeNotSupported", "mode ipvs is not there")


def ready_cluster(*names: str) -> Cluster:
    cluster = Cluster(*names, configs=[configuration()])
    cluster.settle()
    for name in names:
        cluster.report(name)
    cluster.settle()
    cluster.done.clear()
    return cluster


def change(cluster: Cluster, **spec: object) -> None:
    old = cluster.config()
    cluster.put(configuration(generation=old.generation + 1, **spec).model_copy(update={"status": old.status}))


def test_modes_are_counted_in_an_order_of_their_own() -> None:
    cluster = ready_cluster("node-1", "node-2", "node-3", "node-4")
    for name, mode in (("node-1", "example.com/toy"), ("node-2", "userspace"), ("node-3", "example.com/toy")):
        cluster.report(name, mode=mode)
    cluster.settle()
    modes = [(each.mode, each.nodes) for each in cluster.config().status.effective_modes]
    assert modes == [("nftables", 1), ("userspace", 1), ("example.com/toy", 2)]


def test_all_nodes_ready() -> None:
    status = ready_cluster("node-1", "node-2").config().status
    assert status.nodes.model_dump() == {"desired": 2, "updated": 2, "ready": 2, "summary": "2/2"}
    assert [(each.mode, each.nodes) for each in status.effective_modes] == [("nftables", 2)]
    assert [(each.type, each.status, each.reason) for each in status.conditions] == [
        ("Ready", "True", "AllNodesReady"),
        ("Progressing", "False", "Complete"),
        ("Degraded", "False", "AsExpected"),
    ]
    assert status.observed_generation == 1
    assert {each.observed_generation for each in status.conditions} == {1}


def test_nothing_is_written_when_nothing_changed() -> None:
    cluster = ready_cluster("node-1")
    assert cluster.pass_(3600) == ()
    cluster.restart_operator()
    assert cluster.pass_(1) == ()
    assert next_due(cluster.memory, cluster.now) is None


def test_no_nodes() -> None:
    cluster = Cluster("node-1", configs=[configuration(nodeSelector={"matchLabels": {"no": "body"}})])
    cluster.settle()
    assert cluster.conditions()["Ready"] == ("False", "NoNodes")
    assert cluster.conditions()["Progressing"] == ("False", "Complete")
    assert cluster.config().status.nodes.summary == "0/0"


def test_a_time_moves_only_when_the_status_flips() -> None:
    cluster = ready_cluster("node-1", "node-2")
    before = {each.type: each for each in cluster.config().status.conditions}
    change(cluster, scheduler="rr")
    cluster.settle()
    after = {each.type: each for each in cluster.config().status.conditions}
    assert after["Ready"].status == "False"
    assert after["Ready"].last_transition_time > before["Ready"].last_transition_time
    assert after["Degraded"].last_transition_time == before["Degraded"].last_transition_time
    assert after["Degraded"].observed_generation == 2


def test_a_rollout_that_stands_still_is_stalled_after_a_minute_and_names_the_node() -> None:
    cluster = ready_cluster("node-1", "node-2")
    change(cluster, mode="iptables")
    cluster.settle()
    cluster.report("node-1", BAD)
    cluster.settle()
    assert cluster.conditions()["Progressing"] == ("True", "RollingOut")
    due = next_due(cluster.memory, cluster.now)
    assert due is not None
    assert 50 < due <= 60
    cluster.pass_(due)
    cluster.settle()
    assert cluster.conditions()["Progressing"] == ("False", "RolloutStalled")
    assert cluster.conditions()["Degraded"] == ("True", "NodesDegraded")
    assert "node-1: ModeNotSupported: mode ipvs is not there" in cluster.message("Degraded")
    assert cluster.config().status.nodes.summary == "0/2"
    cluster.restart_operator()
    assert cluster.pass_(1) == ()  # what was said stands
    cluster.report("node-1", mode="iptables")
    cluster.settle()
    assert cluster.conditions()["Progressing"] == ("True", "RollingOut")
    assert cluster.conditions()["Degraded"] == ("False", "AsExpected")


def test_a_node_that_comes_and_goes_is_no_progress() -> None:
    cluster = ready_cluster("node-1", "node-2", "node-3")
    change(cluster, scheduler="rr", rollout={"maxUnavailable": 1})
    cluster.settle()
    for _ in range(20):
        cluster.report("node-1", says("Ready", "False", "SyncFailed", "no"))
        cluster.report("node-3", says("Ready", "False", "SyncFailed", "no"))
        cluster.pass_(2)
        cluster.report("node-3")
        cluster.pass_(2)
    assert cluster.conditions()["Progressing"] == ("False", "RolloutStalled")


def test_a_node_that_fails_later_does_not_bring_the_rollout_back() -> None:
    cluster = ready_cluster("node-1", "node-2")
    cluster.report("node-2", says("Ready", "False", "SyncFailed", "the kernel took nothing"))
    cluster.settle()
    cluster.pass_(100)
    assert cluster.conditions()["Ready"] == ("False", "NodesNotReady")
    assert cluster.conditions()["Progressing"] == ("False", "Complete")
    assert cluster.conditions()["Degraded"] == ("True", "NodesDegraded")
    assert "node-2: SyncFailed: the kernel took nothing" in cluster.message("Ready")


def test_an_agent_that_writes_again_is_not_silent_until_somebody_looks() -> None:
    cluster = ready_cluster("node-1", "node-2")
    cluster.view.set_silent({"node-1", "node-2"})
    cluster.settle()
    cluster.done.clear()
    cluster.report("node-2")
    cluster.settle()
    assert not any(isinstance(action, PatchNodeProxyStatus) for action in cluster.done), "its word stands"
    assert cluster.view.silent == {"node-1"}
    assert cluster.config().status.nodes.summary == "1/2"
    cluster.view.set_silent({"node-1", "node-2"})
    cluster.settle()
    assert [action.node for action in cluster.done if isinstance(action, PatchNodeProxyStatus)] == ["node-2"]


def test_a_silent_agent_is_unknown_and_comes_back() -> None:
    cluster = ready_cluster("node-1", "node-2")
    cluster.view.set_silent({"node-2"})
    (patch, *_) = cluster.pass_(1)
    assert isinstance(patch, PatchNodeProxyStatus)
    assert [(each.type, each.status, each.reason) for each in patch.conditions] == [
        ("Ready", "Unknown", "AgentSilent"),
        ("ModeInForce", "True", "AsConfigured"),
    ]
    cluster.settle()
    assert not [each for each in cluster.pass_(5) if isinstance(each, PatchNodeProxyStatus)]
    assert cluster.conditions()["Degraded"] == ("True", "NodesDegraded")
    assert cluster.message("Degraded") == "1 of 2 nodes: node-2: no sign of life from its agent"
    cluster.view.set_silent(())
    cluster.report("node-2")
    cluster.settle()
    assert cluster.conditions()["Ready"] == ("True", "AllNodesReady")


def test_a_status_is_written_once_a_second_at_most() -> None:
    cluster = ready_cluster("node-1")
    cluster.report("node-1", says("Ready", "False", "SyncFailed", "one"))
    assert [type(each) for each in cluster.pass_(1)] == [PatchProxyConfigStatus]
    cluster.report("node-1")
    assert cluster.pass_(0.2) == ()
    due = next_due(cluster.memory, cluster.now)
    assert due is not None
    assert 0.7 < due < 0.9
    assert [type(each) for each in cluster.pass_(due + 0.01)] == [PatchProxyConfigStatus]


def test_times_are_read_as_they_are_written() -> None:
    assert rfc3339(START) == "2023-11-14T22:13:20Z"
    assert unix_seconds(rfc3339(START)) == START
    assert unix_seconds("2023-11-14T22:13:20") is None
    assert unix_seconds("yesterday") is None


def test_a_node_proxy_that_somebody_else_wrote_is_corrected_and_nothing_is_stalled() -> None:
    cluster = ready_cluster("node-1", "node-2")
    cluster.now += 7200
    proxy = cluster.view.node_proxies["node-2"]
    other = proxy.spec.model_copy(update={"scheduler": "rr"})
    cluster.put(proxy.model_copy(update={"spec": other, "generation": 2}))
    assert [type(each) for each in cluster.pass_(1)] == [UpdateNodeProxy, PatchProxyConfigStatus]
    assert cluster.conditions()["Progressing"] == ("True", "RollingOut")
    cluster.report("node-2")
    cluster.settle()
    assert cluster.conditions()["Progressing"] == ("False", "Complete")


def test_a_write_without_effect_is_not_repeated_without_end() -> None:
    """The API server has CRDs of another release, and drops a field."""
    cluster = ready_cluster("node-1")
    change(cluster, scheduler="rr")

    def said(seconds: float) -> list[UpdateNodeProxy]:
        cluster.now += seconds
        actions = reconcile(cluster.view, cluster.memory, cluster.now)
        return [each for each in actions if isinstance(each, UpdateNodeProxy)]

    assert len(said(1)) == 1
    assert said(0.1) == []
    due = next_due(cluster.memory, cluster.now)
    assert due is not None
    assert 0 < due < 5
    assert len(said(5)) == 1
