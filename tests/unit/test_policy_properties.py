"""What holds of every plan, whatever the objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.model.objects import (
    Endpoint,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    Service,
    ServiceCIDR,
    ServicePort,
)
from pointsman.model.parse import key_of
from pointsman.model.plan import NODE_PORT, Plan, apply, difference
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from random import Random

    from pointsman.model.parse import Object
    from pointsman.model.plan import Answer

NODES = ("here", "there", "")
ZONES = ("a", "b")
QUICK = settings(max_examples=120, deadline=None)


def some(*values: object, most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


endpoints = st.builds(
    Endpoint,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from(NODES),
    zone_hints=some(*ZONES),
    node_hints=some("here", "there"),
    pod=st.sampled_from(["", "p1", "p2"]),
)
slices = st.builds(
    EndpointSlice,
    namespace=st.just("ns"),
    name=st.sampled_from(["s1", "s2", "s3", "s4"]),
    service=st.sampled_from(["web", "db", "api", ""]),
    family=st.sampled_from([4, 4, 4, 6]),
    ports=some(EndpointPort(8080), EndpointPort(8081, "x"), EndpointPort(53, "", "udp")),
    endpoints=st.lists(endpoints, max_size=4).map(tuple),
    weight=st.sampled_from([None, 0, 3]),
)
services = st.builds(
    Service,
    namespace=st.just("ns"),
    name=st.sampled_from(["web", "db", "api"]),
    type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
    cluster_ips=some("10.96.0.1", "10.96.0.2", "fd00::1"),
    external_ips=some("192.0.2.1", "10.96.0.1", "2001:db8::9"),
    load_balancer_ips=some("1.2.3.4", "192.0.2.1"),
    ports=some(
        ServicePort(80, node_port=30000), ServicePort(81, "x", node_port=30001), ServicePort(80, "", "udp"), most=3
    ),
    internal_local=st.booleans(),
    external_local=st.booleans(),
    health_check_node_port=st.sampled_from([0, 32000]),
    affinity=st.sampled_from([None, 60]),
    source_ranges=some("203.0.113.0/24", "192.168.0.0/16", "2001:db8::/64"),
    scheduler=st.sampled_from([None, "rr", "nonsense"]),
    ignored=st.sampled_from(["", "", "", "headless"]),
)
endpoints_objects = st.builds(
    Endpoints,
    namespace=st.just("ns"),
    name=st.sampled_from(["web", "db"]),
    slices=st.lists(slices, max_size=1).map(tuple),
)
pods = st.builds(Pod, st.just("ns"), st.sampled_from(["p1", "p2"]), st.sampled_from([None, 0, 7]))
nodes = st.builds(
    Node,
    st.sampled_from(["here", "there"]),
    st.sampled_from([(), (("topology.kubernetes.io/zone", "a"),), (("team", "x"),)]),
    some("192.168.0.2", "2001:db8::1"),
    some("10.1.0.0/24", "fd01::/64"),
)
configs = st.builds(
    lambda name, spec: ProxyConfig.read({"metadata": {"name": name}, "spec": spec}),
    st.sampled_from(["c1", "c2"]),
    st.sampled_from(
        [
            {},
            {"scheduler": "rr", "podCIDRs": ["10.0.0.0/8"]},
            {"masqueradeAll": True, "nodePortAddresses": ["all"]},
            {"localDetection": "NodeCIDR", "serviceCIDRs": ["10.96.0.0/12"], "priority": 1},
            {"nodeSelector": {"matchLabels": {"team": "x"}}, "mode": "ipvs", "priority": 2},
            {"nodePortRanges": [{"namespaceSelector": {"matchLabels": {"team": "x"}}, "range": "31000-31001"}]},
        ]
    ),
)
cidrs = st.builds(ServiceCIDR, st.sampled_from(["k1", "k2"]), some("172.30.0.0/16", "fd00:96::/112"))
namespaces = st.builds(Namespace, st.just("ns"), st.sampled_from([(), (("team", "x"),)]))
objects = st.one_of(services, services, slices, slices, endpoints_objects, pods, nodes, configs, cidrs, namespaces)
steps = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "remove", "take"]), objects), max_size=24)


def planned(held: list[Any]) -> Planner:
    planner = Planner("here", addresses=("192.168.0.9",))
    for obj in held:
        planner.put(obj)
    planner.take()
    return planner


def latest(held: list[Any]) -> list[Any]:
    return list({key_of(obj): obj for obj in held}.values())


@QUICK
@given(steps)
def test_the_incremental_plan_is_the_full_plan(script: list[tuple[str, Any]]) -> None:
    planner = Planner("here", addresses=("192.168.0.9",))
    mirror = planner.plan
    held: dict[Any, Any] = {}
    for verb, obj in [*script, ("take", None)]:
        if verb == "put":
            planner.put(obj)
            held[key_of(obj)] = obj
        elif verb == "remove":
            planner.remove(key_of(obj))
            held.pop(key_of(obj), None)
        else:
            delta = planner.take()
            assert delta == difference(mirror, planner.plan)
            mirror = apply(mirror, delta)
            assert mirror == planner.plan == planner.full()
    fresh = planned(list(held.values()))
    assert planner.plan == fresh.plan
    assert planner.counts == fresh.counts
    assert planner.health_checks == fresh.health_checks
    assert planner.problems == fresh.problems
    for key in list(held):
        planner.remove(key)
    planner.take()
    assert planner.plan == Plan({}, Planner("here", addresses=("192.168.0.9",)).full().settings)
    assert not list(planner._store)
    assert not planner._claims.contested


@QUICK
@given(st.lists(objects, max_size=12).map(latest), st.randoms(use_true_random=False))
def test_order_changes_nothing(held: list[Any], random: Random) -> None:
    shuffled = [_shuffled(obj, random) for obj in random.sample(held, len(held))]
    before, after = planned(held), planned(shuffled)
    assert before.plan == after.plan
    assert before.counts == after.counts
    assert before.problems == after.problems


def _shuffled(obj: Object, random: Random) -> Object:
    if not isinstance(obj, EndpointSlice):
        return obj
    return EndpointSlice(
        obj.namespace,
        obj.name,
        obj.service,
        obj.family,
        tuple(random.sample(obj.ports, len(obj.ports))),
        tuple(random.sample(obj.endpoints, len(obj.endpoints))),
        obj.weight,
    )


@QUICK
@given(st.lists(objects, max_size=10), st.lists(objects, max_size=10))
def test_a_difference_leads_from_one_plan_to_the_other(old: list[Any], new: list[Any]) -> None:
    a, b = planned(latest(old)).plan, planned(latest(new)).plan
    assert apply(a, difference(a, b)) == b
    assert not difference(b, b)


def _pools(answer: Answer) -> list[Any]:
    return [pool for pool in (answer.pool, answer.outside) if pool is not None]


@QUICK
@given(st.lists(objects, max_size=14).map(latest))
def test_every_plan_is_sound(held: list[Any]) -> None:
    planner = planned(held)
    on_this_node = {
        e.address
        for obj in held
        for part in ([obj] if isinstance(obj, EndpointSlice) else getattr(obj, "slices", ()))
        for e in part.endpoints
        if e.node == "here"
    }
    for frontend, answer in planner.plan.answers.items():
        service = planner.service(answer.service_port.partition(":")[0])
        assert service is not None
        assert not service.ignored
        assert answer.exclusive == (frontend.address in service.cluster_ips)
        assert frontend.address != NODE_PORT or service.type != "ClusterIP"
        for pool in _pools(answer):
            assert list(pool.backends) == sorted(pool.backends)
            assert len({(b.address, b.port) for b in pool.backends}) == len(pool.backends)
            assert any(b.weight for b in pool.backends) or pool.when_empty in ("reject", "drop")
            assert all(0 <= b.weight <= 256 for b in pool.backends)
        local = answer.pool if answer.exclusive and service.internal_local else answer.outside
        if local is not None:
            assert {b.address for b in local.backends} <= on_this_node
            assert all(b.local for b in local.backends)
