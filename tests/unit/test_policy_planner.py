from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.schedulers import SCHEDULERS
from pointsman.model.objects import (
    Endpoint,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    Namespace,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServiceCIDR,
    ServicePort,
)
from pointsman.model.parse import key_of
from pointsman.model.plan import NODE_PORT, Delta, Frontend, NodeSettings, Plan, apply, difference
from pointsman.policy.counts import Counts, HealthCheck
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from pointsman.model.parse import Object

VIP = Frontend(4, "10.96.0.1", "tcp", 80)


def service(name: str = "web", ip: str = "10.96.0.1", **more: object) -> Service:
    return Service("ns", name, **({"cluster_ips": (ip,), "ports": (ServicePort(80),)} | more))


def part(name: str = "web-1", owner: str = "web", *ips: str, **more: object) -> EndpointSlice:
    endpoints = tuple(Endpoint(ip, node="here", pod=f"pod-{ip}") for ip in ips or ("10.0.0.1",))
    return EndpointSlice("ns", name, owner, 4, (EndpointPort(8080),), endpoints, **more)


def config(name: str = "c", priority: int = 0, **spec: object) -> ProxyConfig:
    return ProxyConfig.read({"metadata": {"name": name}, "spec": {"priority": priority, **spec}})


def planner(*objects: Object) -> Planner:
    made = Planner("here", addresses=("192.168.0.2",))
    for obj in objects:
        made.put(obj)
    made.take()
    return made


def backends(of: Planner, frontend: Frontend = VIP) -> list[tuple[str, int]]:
    return [(b.address, b.weight) for b in of.answers[frontend].pool.backends]


def test_nothing_at_first() -> None:
    made = Planner("here")
    assert made.take() == Delta({})
    assert made.plan == Plan({}, NodeSettings())


def test_the_first_delta_is_the_whole_plan() -> None:
    made = Planner("here", addresses=("192.168.0.2",))
    made.put(service())
    made.put(part())
    delta = made.take()
    assert delta == difference(Plan({}), made.plan)
    assert delta.settings is not None
    assert not made.take()


def test_equal_objects_are_no_change() -> None:
    made = planner(service(), part())
    made.put(service())
    made.put(part())
    assert made.take() == Delta({})
    # Neither is a change that means nothing to the plan; the answer stays the very object that it was.
    before = made.answers[VIP]
    made.put(part(trigger_time=5.0))
    assert not made.take()
    assert made.answers[VIP] is before


def test_one_slice_changes_one_frontend() -> None:
    made = planner(service(), part(), service("other", "10.96.0.2"), part("other-1", "other", "10.0.0.9"))
    made.put(part("web-1", "web", "10.0.0.1", "10.0.0.2"))
    delta = made.take()
    assert set(delta.changed) == {VIP}
    assert not delta.removed
    assert delta.settings is None
    assert backends(made) == [("10.0.0.1", 1), ("10.0.0.2", 1)]


def test_slices_come_before_their_service_and_stay_after_it() -> None:
    made = planner(part())
    assert not made.answers
    made.put(service())
    assert set(made.take().changed) == {VIP}
    made.remove(ObjectKey("Service", "ns", "web"))
    assert made.take().removed == {VIP}
    made.put(service())
    made.take()
    assert backends(made) == [("10.0.0.1", 1)]


def test_a_slice_moves_to_another_service() -> None:
    made = planner(service(), part(), service("other", "10.96.0.2"))
    made.put(part("web-1", "other"))
    made.take()
    assert backends(made) == []
    assert backends(made, Frontend(4, "10.96.0.2", "tcp", 80)) == [("10.0.0.1", 1)]
    made.put(part("web-1", ""))
    made.take()
    assert backends(made, Frontend(4, "10.96.0.2", "tcp", 80)) == []


def test_endpoints_count_only_while_there_is_no_slice() -> None:
    old = Endpoints("ns", "web", (part("from endpoints", "web", "10.0.0.7"),))
    made = planner(service(), old)
    assert backends(made) == [("10.0.0.7", 1)]
    made.put(part())
    made.take()
    assert backends(made) == [("10.0.0.1", 1)]
    made.remove(key_of(part()))
    made.take()
    assert backends(made) == [("10.0.0.7", 1)]
    made.put(part(ignored="FQDN"))
    assert not made.take()
    made.remove(key_of(old))
    made.take()
    assert backends(made) == []


def test_pod_weights() -> None:
    made = planner(service(), part("web-1", "web", "10.0.0.1", "10.0.0.2"), Pod("ns", "pod-10.0.0.1", 0))
    assert backends(made) == [("10.0.0.1", 0), ("10.0.0.2", 1)]
    made.put(Pod("ns", "pod-10.0.0.2", 9))
    made.put(Pod("elsewhere", "pod-10.0.0.2", 3))
    made.put(Pod("ns", "unknown", 3))
    made.take()
    assert backends(made) == [("10.0.0.1", 0), ("10.0.0.2", 9)]
    made.remove(ObjectKey("Pod", "ns", "pod-10.0.0.1"))
    made.put(Pod("ns", "pod-10.0.0.2"))
    made.take()
    assert backends(made) == [("10.0.0.1", 1), ("10.0.0.2", 1)]


def test_conflicts_are_settled_by_name_and_nothing_is_lost() -> None:
    a = service("a", "10.96.0.1", type="NodePort", ports=(ServicePort(80, node_port=30000),))
    b = service("b", "10.96.0.2", type="NodePort", ports=(ServicePort(80, node_port=30000),))
    shared = Frontend(4, NODE_PORT, "tcp", 30000)
    for order in ((a, b), (b, a)):
        made = planner(*order)
        assert made.answers[shared].service_port == "ns/a"
        (problem,) = made.problems
        assert problem.object == "Service ns/b"
        assert "Service ns/a" in problem.message
        assert "30000" in problem.message
        made.remove(key_of(a))
        delta = made.take()
        assert made.answers[shared].service_port == "ns/b"
        assert shared in delta.changed
        assert not made.problems
        made.put(a)
        made.take()
        assert made.answers[shared].service_port == "ns/a"
        made.remove(key_of(b))
        assert shared not in made.take().changed


def test_nobody_takes_a_cluster_ip_away() -> None:
    thief = service("a", "10.96.0.9", external_ips=("10.96.0.1",))
    made = planner(thief, service("web"))
    assert made.answers[VIP].service_port == "ns/web"
    assert made.full() == made.plan


def test_configuration() -> None:
    made = planner(service(), part())
    assert made.answers[VIP].scheduler == "random"
    made.put(config("a", scheduler="rr", podCIDRs=["10.0.0.0/8"]))
    delta = made.take()
    assert set(delta.changed) == {VIP}
    assert delta.settings is not None
    assert (made.answers[VIP].scheduler, made.answers[VIP].masquerade) == ("rr", "off-cluster")
    made.put(config("b", priority=1, scheduler="sh", nodeSelector={"matchLabels": {"disk": "ssd"}}))
    assert not made.take()
    made.put(Node("here", labels=(("disk", "ssd"),)))
    made.put(Node("other", labels=(("disk", "ssd"),)))
    made.take()
    assert made.answers[VIP].scheduler == "sh"
    assert made.node is not None
    made.remove(ObjectKey("ProxyConfig", "", "b"))
    made.take()
    assert made.config.scheduler == "rr"


def test_a_given_configuration_wins() -> None:
    made = Planner("here", config=config(scheduler="mh").spec)
    made.put(config(scheduler="rr"))
    made.put(service())
    made.take()
    assert made.answers[VIP].scheduler == "mh"


def test_schedulers_are_those_of_the_mode_in_force() -> None:
    made = planner(config(mode="ipvs", scheduler="lc"), service(), service("other", "10.96.0.2", scheduler="lblc"))
    assert {f.address: answer.scheduler for f, answer in made.answers.items()} == {
        "10.96.0.1": "random", "10.96.0.2": "random",
    }  # fmt: skip
    told = [str(problem) for problem in made.problems]
    assert [text.split(":")[0] for text in told] == ["ProxyConfig c", "Service ns/other"]
    assert '"lc" is not there in mode nftables, which is in force; "random" is used' in told[0]
    assert '"lblc" is not there in mode nftables, which is in force; "random" is used' in told[1]
    ipvs = Planner("here", mode="ipvs", config=config(mode="ipvs", scheduler="lc").spec)
    ipvs.put(service())
    ipvs.take()
    assert (ipvs.mode, ipvs.answers[VIP].scheduler, ipvs.problems) == ("ipvs", "lc", ())


def test_another_mode_in_force_plans_everything_anew() -> None:
    made = planner(
        config(mode="ipvs", scheduler="lc"),
        service(type="NodePort", ports=(ServicePort(80, node_port=30000),)),
        service("other", "10.96.0.2", scheduler="sed"),
    )
    assert made.settings.node_port_cidrs == ("192.168.0.2/32",)
    made.use("ipvs", SCHEDULERS["ipvs"])
    delta = made.take()
    assert delta.settings is not None
    assert delta.settings.node_port_cidrs == ("0.0.0.0/0", "::/0")
    assert {f.address: answer.scheduler for f, answer in delta.changed.items()} == {
        "10.96.0.1": "lc", "10.96.0.2": "sed", "*": "lc",
    }  # fmt: skip
    assert (made.mode, made.problems, made.plan) == ("ipvs", (), made.full())
    made.use("ipvs", ["rr", "lc", "none of ours"])
    delta = made.take()
    assert {f.address: answer.scheduler for f, answer in delta.changed.items()} == {"10.96.0.2": "lc"}
    assert (delta.settings, len(made.problems)) == (None, 1)
    made.use("ipvs", ("lc", "rr"))
    assert not made.take(), "it is so already"


def test_the_configuration_is_known_before_the_plan_is() -> None:
    made = Planner("here")
    made.put(config(mode="ipvs"))
    made.put(service())
    made.resolve()
    assert (made.config.mode, made.answers) == ("ipvs", {})
    made.take()
    assert len(made.answers) == 1


def test_node() -> None:
    made = planner(service(type="NodePort", ports=(ServicePort(80, node_port=30000),)))
    assert made.settings.node_port_cidrs == ("192.168.0.2/32",)
    made.put(Node("here", addresses=("192.168.0.3",)))
    assert made.take().settings == NodeSettings(node_port_cidrs=("192.168.0.3/32",))
    made.put(Node("here"))
    made.take()
    assert made.settings.node_port_cidrs == ("192.168.0.2/32",)
    made.remove(ObjectKey("Node", "", "other"))
    assert made.node is not None
    made.remove(ObjectKey("Node", "", "here"))
    made.take()
    assert made.node is None


def test_a_heartbeat_of_the_node_is_no_work() -> None:
    made = planner(service(), Node("here", addresses=("192.168.0.3",)))
    made.put(Node("here", addresses=("192.168.0.3",)))
    made.put(Node("here", addresses=("192.168.0.3",), leaving=True))
    assert not made._dirty
    assert not made.take()


def test_service_networks() -> None:
    made = planner(config(serviceCIDRs=["10.96.0.0/12"]))
    made.put(ServiceCIDR("kubernetes", ("172.30.0.0/16",)))
    made.take()
    assert made.settings.service_cidrs == ("172.30.0.0/16",)
    made.remove(ObjectKey("ServiceCIDR", "", "kubernetes"))
    made.take()
    assert made.settings.service_cidrs == ("10.96.0.0/12",)


def test_node_port_ranges_of_namespaces() -> None:
    exposed = service(type="NodePort", ports=(ServicePort(80, node_port=31000),))
    ranges = [{"namespaceSelector": {"matchLabels": {"team": "a"}}, "range": "30500-30600"}]
    made = planner(exposed, config(nodePortRanges=ranges))
    assert not made.problems
    made.put(Namespace("ns", (("team", "a"),)))
    made.take()
    (problem,) = made.problems
    assert "30500-30600" in problem.message
    made.remove(ObjectKey("Namespace", "", "ns"))
    made.take()
    assert not made.problems


def test_full_does_not_hide_a_change_from_take() -> None:
    made = planner(service(), part())
    made.put(config(scheduler="rr"))
    assert made.full().answers[VIP].scheduler == "rr"
    assert set(made.take().changed) == {VIP}


def test_plan_is_a_copy() -> None:
    made = planner(service(), part())
    before = made.plan
    made.put(part("web-1", "web", "10.0.0.2"))
    delta = made.take()
    assert before != made.plan
    assert apply(before, delta) == made.plan


def test_counts() -> None:
    made = planner(
        service(ports=(ServicePort(80), ServicePort(81, "x"))),
        part("web-1", "web", "10.0.0.1", "10.0.0.2"),
        service("b", "10.96.0.2", internal_local=True),
        EndpointSlice("ns", "b-1", "b", 4, (EndpointPort(80),), (Endpoint("10.0.0.5", node="there"),)),
        Service("ns", "headless", ignored="it is headless"),
    )
    assert made.counts == Counts(2, 3, 2, 1, 0)
    for name in ("web", "b"):
        made.remove(ObjectKey("Service", "ns", name))
    made.take()
    assert made.counts == Counts(0, 0, 0, 0, 0)


def test_health_checks() -> None:
    checked = service(type="LoadBalancer", external_local=True, health_check_node_port=32000)
    made = planner(checked, part("web-1", "web", "10.0.0.1", "10.0.0.2"))
    assert made.health_checks == {"ns/web": HealthCheck("ns", "web", 32000, 2)}

    def local() -> int:
        made.take()
        return made.health_checks["ns/web"].local_endpoints

    made.put(Pod("ns", "pod-10.0.0.1", 0))
    assert local() == 1, "a drained Pod gets no new connections"
    made.put(part("web-1", "web", "10.0.0.1", "10.0.0.2", weight=0))
    assert local() == 0
    made.put(Pod("ns", "pod-10.0.0.1", 3))
    assert local() == 1, "the Pod's weight wins over the slice's"
    made.put(part("web-2", "web", "10.0.0.2"))
    assert local() == 1, "of an endpoint that comes twice, the lower weight holds, as in the plan"
    assert [weight for _, weight in backends(made)] == [3, 0]
    made.put(service())
    made.take()
    assert made.health_checks == {}


def test_triggers() -> None:
    made = planner(part(trigger_time=5.0))
    assert made.take_triggers() == (5.0,)
    assert made.take_triggers() == ()
    made.put(part("web-1", "web", "10.0.0.2", trigger_time=5.0))
    assert made.take_triggers() == ()
    made.put(part("web-1", "web", "10.0.0.3", trigger_time=6.0))
    assert made.take_triggers() == (6.0,)


def test_nothing_is_kept_of_what_went() -> None:
    made = planner(service(), part(), Endpoints("ns", "web"), Pod("ns", "p", 3))
    for key in (key_of(service()), key_of(part()), ObjectKey("Endpoints", "ns", "web"), ObjectKey("Pod", "ns", "p")):
        made.remove(key)
        made.remove(key)
    made.take()
    assert not list(made._store)
    assert not made._pod_weights
    assert made.service("ns/web") is None
    assert made.slices("ns/web") == ()
