"""What is wrong in the cluster, in the status of ProxyConfigs and as events."""

from __future__ import annotations

import re
from time import thread_time

from pointsman.controller.actions import SendEvent
from pointsman.controller.reconcile import next_due
from pointsman.model.objects import Endpoint, Endpoints, EndpointSlice, Namespace, ObjectKey, Service, ServicePort
from support.fleet import Cluster, configuration, says, web


def cluster_of(*names: str, **spec: object) -> Cluster:
    cluster = Cluster(*names, configs=[configuration(**spec)])
    cluster.settle()
    for name in names:
        cluster.report(name)
    cluster.settle()
    return cluster


def problems(cluster: Cluster, config: str = "default") -> list[tuple[str, str, str]]:
    cluster.settle()
    return [(each.object, each.field, each.message) for each in cluster.config(config).status.problems]


def events(cluster: Cluster) -> list[SendEvent]:
    return [each for each in cluster.pass_(1.5) if isinstance(each, SendEvent)]


def test_node_ports_outside_of_the_range() -> None:
    cluster = cluster_of("node-1", nodePortRange="30000-31000")
    cluster.put(web("good", node_port=30500))
    cluster.put(web("bad", node_port=31500), uid="uid-bad")
    (event,) = events(cluster)
    assert (event.regarding, event.uid) == (ObjectKey("Service", "shop", "bad"), "uid-bad")
    assert event.reason == "NodePortOutOfRange"
    assert event.message.startswith("spec.ports[0].nodePort: 31500 is outside of the range 30000-31000")
    assert problems(cluster) == [
        (
            "Service shop/bad",
            "spec.ports[0].nodePort",
            "31500 is outside of the range 30000-31000; it is served all the same",
        )
    ]
    cluster.put(web("bad", node_port=30501))
    assert problems(cluster) == []


def test_a_namespace_has_its_own_range_and_health_check_ports_count() -> None:
    selector = {"matchLabels": {"team": "shop"}}
    cluster = cluster_of("node-1", nodePortRanges=[{"namespaceSelector": selector, "range": "40000-41000"}])
    cluster.put(web(node_port=40500))
    assert len(problems(cluster)) == 1
    cluster.put(Namespace("shop", (("team", "shop"),)))
    assert problems(cluster) == []
    cluster.put(Service("shop", "lb", "LoadBalancer", ports=(ServicePort(80),), health_check_node_port=32000))
    assert [field for _, field, _ in problems(cluster)] == ["spec.healthCheckNodePort"]


def test_schedulers_that_a_nodes_mode_does_not_have() -> None:
    cluster = cluster_of("node-1", "node-2", mode="ipvs", fallbackModes=["nftables"])
    for name in ("node-1", "node-2"):
        cluster.report(name, mode="ipvs")
    cluster.put(web("least", scheduler="lc"))
    assert problems(cluster) == []
    cluster.report("node-2", says("ModeInForce", "True", "FellBack"), mode="nftables")
    ((name, field, message),) = problems(cluster)
    assert (name, field) == ("Service shop/least", "metadata.annotations[pointsman.dev/scheduler]")
    assert message.startswith('"lc" is no scheduler of mode nftables (has random, rr, wrr, sh, dh, mh; used is random)')
    cluster.put(web("least", scheduler="fastest"))
    ((_, _, message),) = problems(cluster)
    assert "used is the ProxyConfig's)" in message


def test_endpoints_on_a_node_whose_agent_is_not_ready_for_a_minute() -> None:
    cluster = cluster_of("node-1", "node-2")
    for number in range(2):
        endpoints = tuple(Endpoint(f"10.0.{number}.{host}", node="node-2") for host in range(1, 4))
        cluster.put(EndpointSlice("shop", f"web-{number}", "web", endpoints=endpoints))
    cluster.put(Endpoints("shop", "own", (EndpointSlice("shop", "own 4", "own", endpoints=endpoints[:1]),)))
    cluster.put(Endpoints("shop", "web", (EndpointSlice("shop", "web 4", "web", endpoints=endpoints),)))
    cluster.report("node-2", says("Ready", "False", "SyncFailed", "the kernel took nothing", at=cluster.now))
    assert problems(cluster) == []
    due = next_due(cluster.memory, cluster.now)
    assert due is not None
    (event,) = [each for each in cluster.pass_(due) if isinstance(each, SendEvent)]
    assert (event.regarding, event.uid) == (ObjectKey("Node", "", "node-2"), "uid-node-2")
    ((name, _, message),) = problems(cluster)
    assert name == "Node node-2"
    assert message.startswith("it has 7 ready endpoints, and its agent is not ready: SyncFailed: the kernel")
    cluster.restart_operator()
    assert len(problems(cluster)) == 1
    cluster.report("node-2")
    assert problems(cluster) == []


def test_a_configuration_that_no_node_gets() -> None:
    cluster = cluster_of("node-1", priority=5)
    cluster.put(configuration("weak"))
    assert problems(cluster, "weak") == [
        (
            "ProxyConfig weak",
            "spec.priority",
            "no node gets it: ProxyConfig default wins on every node that it selects",
        )
    ]
    cluster.put(configuration("nobody", nodeSelector={"matchLabels": {"no": "body"}}))
    ((_, field, message),) = problems(cluster, "nobody")
    assert (field, message) == ("spec.nodeSelector", "it selects none of the cluster's nodes")


def test_an_event_is_sent_once_and_again_when_it_is_forgotten() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web(node_port=4000))
    (first,) = events(cluster)
    cluster.put(web("other"))
    assert events(cluster) == []
    cluster.restart_operator()
    (again,) = events(cluster)
    assert again.key == first.key
    cluster.now += 4000
    cluster.put(web("another"))
    assert [each.key for each in events(cluster)] == [first.key]


def test_fifty_are_listed_all_are_counted_and_told_in_portions() -> None:
    cluster = cluster_of("node-1")
    for number in range(70):
        cluster.put(web(f"web-{number:02}", node_port=1000 + number))
    assert [len(events(cluster)) for _ in range(5)] == [20, 20, 20, 10, 0]
    status = cluster.config().status
    assert (len(status.problems), status.problem_count) == (50, 70)
    assert status.problems[0].object == "Service shop/web-00"


def test_a_look_is_taken_once_a_second_at_most() -> None:
    cluster = cluster_of("node-1")
    cluster.put(web(node_port=4000))
    cluster.pass_(2)
    cluster.put(web("second", node_port=4001))
    cluster.pass_(0.3)
    due = next_due(cluster.memory, cluster.now)
    assert due is not None
    assert 0 < due < 0.8
    cluster.pass_(due)
    cluster.settle()
    assert cluster.config().status.problem_count == 2


def test_ten_thousand_services_take_milliseconds() -> None:
    """The bound is wide for machines that share their cores; the target is 50 ms of this thread's own time."""
    cluster = cluster_of("node-1")
    for number in range(10_000):
        cluster.put(web(f"web-{number}", node_port=30000 + number % 2768, scheduler="rr"))
    cluster.pass_(2)
    cluster.put(web("one-more"))
    start = thread_time()
    cluster.pass_(2)
    assert thread_time() - start < 0.5


def test_schedulers_that_only_nodes_know_are_left_to_them() -> None:
    cluster = cluster_of("node-1", mode="example.com/toy")
    cluster.report("node-1", mode="example.com/toy")
    cluster.put(web("own", scheduler="example.com/own"))
    cluster.put(web("quick", scheduler="quickest"))
    assert problems(cluster) == []
    cluster.report("node-1", mode="ipvs")
    found = [re.sub(r"has [^;]*", "has …", message) for _, _, message in problems(cluster)]
    assert [message.partition(")")[0] for message in found] == [
        '"example.com/own" is no scheduler of mode ipvs (has …; used is rr',
        '"quickest" is no scheduler of mode ipvs (has …; used is the ProxyConfig\'s',
    ]
