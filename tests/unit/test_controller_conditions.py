"""The condition on Services: True when every ready node holds the newest form."""

from __future__ import annotations

from pointsman.controller.actions import PatchServiceCondition
from pointsman.model.objects import Endpoint, EndpointSlice, ObjectKey
from support.fleet import Cluster, configuration, says, web


def part(*addresses: str, name: str = "web-1", trigger: float = 0.0, ignored: str = "") -> EndpointSlice:
    endpoints = tuple(Endpoint(address, node="node-1") for address in addresses)
    return EndpointSlice("shop", name, "web", endpoints=endpoints, trigger_time=trigger, ignored=ignored)


def cluster_of(*names: str, on: bool = True) -> Cluster:
    cluster = Cluster(*names, configs=[configuration(serviceConditions=on)])
    cluster.settle()
    for name in names:
        cluster.report(name, held=(cluster.version, cluster.version))
    cluster.settle()
    return cluster


def patches(cluster: Cluster) -> list[tuple[str, str, str]]:
    """Ask once; return the names, statuses and messages that are written."""
    return [
        (each.name, each.condition.status if each.condition else "", each.condition.message if each.condition else "")
        for each in cluster.pass_(1)
        if isinstance(each, PatchServiceCondition)
    ]


def everyone_holds(cluster: Cluster) -> None:
    for name in cluster.view.node_proxies:
        cluster.report(name, held=(cluster.version, cluster.version))


def test_it_is_true_when_the_last_node_has_it() -> None:
    cluster = cluster_of("node-1", "node-2", "node-3", "node-4")
    version = cluster.put(web())
    assert patches(cluster) == [("web", "False", "waiting for node-1, node-2 and 2 more")]
    for name in ("node-1", "node-2", "node-3"):
        cluster.report(name, held=(version, 0))
    assert patches(cluster) == []
    cluster.report("node-4", held=(version, 0))
    assert patches(cluster) == [("web", "True", "in the kernel of 4 of 4 ready nodes")]
    assert patches(cluster) == []


def test_a_first_condition_waits_for_all_nodes_to_hear_of_it() -> None:
    cluster = cluster_of("node-1", "node-2", on=False)
    cluster.put(web())
    cluster.put(configuration(generation=2, serviceConditions=True, rollout={"maxUnavailable": 1}))
    assert patches(cluster) == []
    cluster.report("node-1", held=(cluster.version, 0))
    assert patches(cluster) == []
    cluster.settle()
    cluster.report("node-2", held=(cluster.version, 0))
    assert patches(cluster) == [("web", "True", "in the kernel of 2 of 2 ready nodes")]


def test_the_write_itself_is_no_change() -> None:
    cluster = cluster_of("node-1")
    version = cluster.put(web())
    cluster.report("node-1", held=(version, 0))
    assert [status for _, status, _ in patches(cluster)] == ["True"]
    cluster.put(web())  # a newer version of the same form
    assert patches(cluster) == []


def test_endpoints_count_by_their_own_versions() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web())
    slices = cluster.put(part("10.0.0.1"))
    cluster.report("node-1", held=(cluster.version, slices - 1))
    assert [status for _, status, _ in patches(cluster)] == ["False"]
    cluster.report("node-1", held=(cluster.version, slices))
    assert [status for _, status, _ in patches(cluster)] == ["True"]
    cluster.put(part("10.0.0.1", trigger=7.0))
    assert patches(cluster) == []
    everyone_holds(cluster)
    cluster.version += 1
    cluster.view.remove(ObjectKey("EndpointSlice", "shop", "web-1"), cluster.version)
    assert [status for _, status, _ in patches(cluster)] == ["False"]


def test_a_slice_that_proxies_leave_out_does_not_count() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web())
    everyone_holds(cluster)
    assert [status for _, status, _ in patches(cluster)] == ["True"]
    cluster.put(part("10.0.0.1", ignored="FQDN"))
    assert patches(cluster) == []


def test_a_service_that_is_not_served_has_none() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web(ignored="it is headless"))
    assert patches(cluster) == []
    cluster.view.put_condition(ObjectKey("Service", "shop", "web"), "True")
    assert patches(cluster) == [("web", "", "")]
    assert patches(cluster) == []


def test_nothing_unless_it_is_asked_for_and_gone_when_it_is_no_more() -> None:
    cluster = cluster_of("node-1", on=False)
    cluster.put(web())
    everyone_holds(cluster)
    assert patches(cluster) == []
    cluster.put(configuration(generation=2, serviceConditions=True))
    cluster.settle()
    assert cluster.view.catalog.entries["shop/web"].condition == "True"
    cluster.put(configuration(generation=3))
    assert patches(cluster) == [("web", "", "")]


def test_a_restart_writes_nothing_that_stands() -> None:
    cluster = cluster_of("node-1")
    for number in range(5):
        cluster.put(web(f"web-{number}"))
    everyone_holds(cluster)
    assert len(patches(cluster)) == 5
    everyone_holds(cluster)
    cluster.settle()
    cluster.restart_operator()
    for entry in cluster.view.catalog.entries.values():
        entry.judged = -1
        cluster.view.catalog.dirty.update(cluster.view.catalog.entries)
    assert patches(cluster) == []


def test_nodes_that_are_not_ready_are_not_waited_for_and_are_when_they_come_back() -> None:
    cluster = cluster_of("node-1", "node-2")
    cluster.report("node-2", says("Ready", "False", "SyncFailed"), held=(0, 0))
    version = cluster.put(web())
    cluster.report("node-1", held=(version, version))
    assert patches(cluster) == [("web", "True", "in the kernel of 1 of 1 ready nodes")]
    cluster.report("node-2", held=(version - 1, version))
    assert patches(cluster) == [("web", "False", "waiting for node-2")]


def test_while_no_node_is_ready_only_news_is_doubted() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web("old"))
    cluster.put(web("changed"))
    everyone_holds(cluster)
    assert len(patches(cluster)) == 2
    cluster.view.set_silent({"node-1"})
    assert patches(cluster) == []
    cluster.put(web("changed", node_port=30001))
    cluster.put(web("new"))
    message = "no node with spec.serviceConditions is ready"
    assert patches(cluster) == [("changed", "False", message), ("new", "False", message)]
    assert patches(cluster) == []


def test_ten_thousand_at_once_come_in_portions() -> None:
    cluster = cluster_of("node-1")
    for number in range(450):
        cluster.put(web(f"web-{number:03}"))
    everyone_holds(cluster)
    assert [len(patches(cluster)) for _ in range(4)] == [200, 200, 50, 0]
    assert not cluster.memory.judge.is_behind


def test_services_whose_writes_are_refused_keep_no_others_waiting() -> None:
    cluster = cluster_of("node-1")
    for number in range(250):
        cluster.put(web(f"web-{number:03}"))
    asked = [[each.name for each in cluster.memory.judge.judge(cluster.view, cluster.now)] for _ in range(3)]
    assert [(names[0], names[-1]) for names in asked] == [
        ("web-000", "web-199"),
        ("web-200", "web-149"),
        ("web-150", "web-099"),
    ]


def test_a_deleted_service_is_forgotten() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web())
    assert len(patches(cluster)) == 1
    cluster.view.remove(ObjectKey("Service", "shop", "web"))
    assert patches(cluster) == []
    assert not cluster.view.catalog.entries
