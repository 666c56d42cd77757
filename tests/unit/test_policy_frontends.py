from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.schedulers import SCHEDULERS
from pointsman.api.values import PortRange
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, Pool
from pointsman.policy.context import Context
from pointsman.policy.endpoints import Place
from pointsman.policy.frontends import ServicePlan, plan_service

if TYPE_CHECKING:
    from pointsman.api.names import Mode

CONTEXT = Context(Place("here"), pod_families=frozenset({4}), addresses=("192.168.0.2", "2001:db8::1"))
PORT = ServicePort(80, node_port=30080)
HERE = Endpoint("10.0.0.1", node="here")
THERE = Endpoint("10.0.0.2", node="there")
VIP = Frontend(4, "10.96.0.1", "tcp", 80)
LB = Frontend(4, "1.2.3.4", "tcp", 80)
EXTERNAL = Frontend(4, "192.0.2.1", "tcp", 80)
ON_NODE = Frontend(4, NODE_PORT, "tcp", 30080)


def service(**changes: object) -> Service:
    fields: dict[str, Any] = {
        "namespace": "ns",
        "name": "svc",
        "type": "LoadBalancer",
        "cluster_ips": ("10.96.0.1",),
        "external_ips": ("192.0.2.1",),
        "load_balancer_ips": ("1.2.3.4",),
        "ports": (PORT,),
    }
    return Service(**(fields | changes))


def slices(*endpoints: Endpoint, weight: int | None = None) -> tuple[EndpointSlice, ...]:
    return (
        EndpointSlice(
            "ns",
            "s4",
            "svc",
            4,
            (EndpointPort(8080),),
            tuple(e for e in endpoints if ":" not in e.address),
            weight=weight,
        ),
        EndpointSlice(
            "ns",
            "s6",
            "svc",
            6,
            (EndpointPort(8080),),
            tuple(e for e in endpoints if ":" in e.address),
            weight=weight,
        ),
    )


def plan(
    wanted: Service, *endpoints: Endpoint, context: Context = CONTEXT, weight: int | None = None
) -> ServicePlan:  # fmt: skip
    return plan_service(
        wanted,
        slices(*endpoints, weight=weight),
        context,
        node_port_range=PortRange(30000, 32767),
        pod_weights={},
    )


def addresses(pool: Pool | None) -> list[str]:
    assert pool is not None
    return [backend.address for backend in pool.backends]


def test_every_kind_of_address() -> None:
    found = plan(service(), HERE, THERE)
    assert set(found.claims) == {VIP, LB, EXTERNAL, ON_NODE}
    pool = Pool((Backend("10.0.0.1", 8080, 1, local=True), Backend("10.0.0.2", 8080, 1, local=False)))
    assert found.claims[VIP] == Answer("ns/svc", "random", pool, masquerade="off-cluster", exclusive=True)
    for frontend in (LB, EXTERNAL, ON_NODE):
        assert found.claims[frontend] == Answer("ns/svc", "random", pool, masquerade="always")
    assert found.problems == ()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ClusterIP", {VIP, EXTERNAL}),
        ("NodePort", {VIP, EXTERNAL, ON_NODE}),
        ("LoadBalancer", {VIP, EXTERNAL, ON_NODE, LB}),
    ],
)
def test_frontends_by_type(kind: str, expected: set[Frontend]) -> None:
    assert set(plan(service(type=kind), HERE).claims) == expected


def test_an_ignored_service_has_nothing() -> None:
    assert plan(service(ignored="it is headless"), HERE).claims == {}


def test_families() -> None:
    six = Endpoint("fd00::1", node="here")
    dual = service(
        cluster_ips=("10.96.0.1", "fd00:96::1"),
        external_ips=("192.0.2.1", "2001:db8::5"),
        load_balancer_ips=("1.2.3.4", "2001:db8::4"),
    )
    claims = plan(dual, HERE, six).claims
    assert {f.family for f in claims} == {4, 6}
    assert len(claims) == 8
    for frontend, answer in claims.items():
        assert addresses(answer.pool) == (["10.0.0.1"] if frontend.family == 4 else ["fd00::1"])
    assert claims[Frontend(6, "fd00:96::1", "tcp", 80)].masquerade == "never"  # no IPv6 pod networks are known
    only_four = plan(service(external_ips=("192.0.2.1", "2001:db8::5")), HERE, six).claims
    assert {f.family for f in only_four} == {4}


@pytest.mark.parametrize(
    ("masquerade_all", "families", "expected"),
    [
        (False, {4}, "off-cluster"),
        (False, {6}, "never"),
        (False, set(), "never"),
        (True, {4}, "always"),
        (True, set(), "always"),
    ],
)
def test_masquerade_of_cluster_ips(masquerade_all: bool, families: set[Any], expected: str) -> None:  # noqa: FBT001 (a parameter of the table)
    context = Context(Place("here"), masquerade_all=masquerade_all, pod_families=frozenset(families))
    assert plan(service(), HERE, context=context).claims[VIP].masquerade == expected


def test_external_local_policy() -> None:
    claims = plan(service(external_local=True), HERE, THERE).claims
    assert claims[VIP].outside is None
    assert addresses(claims[VIP].pool) == ["10.0.0.1", "10.0.0.2"]
    for frontend in (LB, EXTERNAL, ON_NODE):
        answer = claims[frontend]
        assert answer.masquerade == "node"
        assert addresses(answer.pool) == ["10.0.0.1", "10.0.0.2"]
        assert addresses(answer.outside) == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("endpoints", "inside", "outside"),
    [
        ((), "reject", "reject"),
        ((THERE,), None, "drop"),
        ((HERE,), None, None),
        ((Endpoint("10.0.0.9"),), None, "drop"),
    ],
)
def test_local_policies_drop_only_while_others_serve(
    endpoints: tuple[Endpoint, ...], inside: str | None, outside: str | None
) -> None:
    found = plan(service(external_local=True, internal_local=True), *endpoints)
    external = found.claims[LB]
    for pool, expected in ((external.pool, inside), (external.outside, outside), (found.claims[VIP].pool, outside)):
        assert pool is not None
        assert (pool.when_empty if not pool.backends else None) == expected
    missing = outside == "drop"
    assert (found.tally.no_local_internal, found.tally.no_local_external) == (missing, missing)


def test_internal_local_policy_leaves_external_traffic_alone() -> None:
    claims = plan(service(internal_local=True), HERE, THERE).claims
    assert addresses(claims[VIP].pool) == ["10.0.0.1"]
    assert addresses(claims[LB].pool) == ["10.0.0.1", "10.0.0.2"]


def test_drained_endpoints_stay_in_the_pool() -> None:
    claims = plan(service(external_local=True), HERE, THERE, weight=0).claims
    assert [b.weight for b in claims[VIP].pool.backends] == [0, 0]
    assert claims[VIP].pool.when_empty == "reject"
    assert claims[LB].outside == Pool((Backend("10.0.0.1", 8080, 0, local=True),), "reject", local=True)


def test_one_pool_is_shared() -> None:
    claims = plan(service(), HERE).claims
    assert claims[LB] is claims[EXTERNAL] is claims[ON_NODE]
    assert claims[LB].pool.backends[0] is claims[VIP].pool.backends[0]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ((), None),
        (("203.0.113.0/25",), ("203.0.113.0/25",)),
        (("203.0.113.0/25", "2001:db8::/64"), ("203.0.113.0/25",)),
        (("203.0.113.0/25", "203.0.113.7/32"), ("203.0.113.0/25",)),
        (("192.168.0.0/24",), ("1.2.3.4/32", "192.168.0.0/24")),
        (("0.0.0.0/0",), None),
        (("0.0.0.0/32", "::/128"), ("0.0.0.0/32",)),
    ],
)
def test_source_ranges_guard_load_balancer_ips_alone(
    ranges: tuple[str, ...], expected: tuple[str, ...] | None
) -> None:  # fmt: skip
    found = plan(service(source_ranges=ranges), HERE)
    assert found.claims[LB].source_ranges == expected
    assert all(found.claims[f].source_ranges is None for f in (VIP, EXTERNAL, ON_NODE))
    assert found.problems == ()


def test_ranges_of_the_other_family_alone_guard_nothing_but_are_reported() -> None:
    found = plan(service(source_ranges=("2001:db8::/64",)), HERE)
    assert found.claims[LB].source_ranges is None
    (problem,) = found.problems
    assert problem.object == "Service ns/svc"
    assert problem.field == "spec.loadBalancerSourceRanges"
    assert "1.2.3.4" in problem.message
    assert "0.0.0.0/32" in problem.remedy


def test_an_external_ip_that_is_the_load_balancers_stays_guarded() -> None:
    found = plan(service(source_ranges=("203.0.113.0/25",), external_ips=("1.2.3.4",)), HERE)
    assert found.claims[LB].source_ranges == ("203.0.113.0/25",)


def in_mode(mode: Mode, *schedulers: str, wanted_mode: Mode = "nftables", flags: tuple[str, ...] = ()) -> Context:
    there = schedulers or SCHEDULERS[mode]
    return Context(Place("here"), mode, wanted_mode, there, scheduler="rr", scheduler_flags=flags)


@pytest.mark.parametrize(
    ("context", "wanted", "used", "remedy"),
    [
        (in_mode("nftables"), "mh", "mh", ""),
        (in_mode("ipvs"), "lc", "lc", ""),
        (in_mode("nftables"), "lc", "random", "write one of random, rr, wrr, sh, dh, mh"),
        (
            in_mode("nftables", wanted_mode="ipvs"),
            "lc",
            "random",
            ("bring mode ipvs in force on this node, see ModeInForce; mode nftables has random, rr, wrr, sh, dh, mh"),
        ),
        (
            in_mode("ipvs", "rr", "wlc", wanted_mode="ipvs"),
            "lc",
            "wlc",
            "run `modprobe ip_vs_lc` on the node, or choose another scheduler",
        ),
    ],
)
def test_scheduler(context: Context, wanted: str, used: str, remedy: str) -> None:
    found = plan(service(scheduler=wanted), HERE, context=context)
    assert {a.scheduler for a in found.claims.values()} == {used}
    assert [str(problem) for problem in found.problems] == [
        (
            f'Service ns/svc: metadata.annotations[pointsman.dev/scheduler]: "{wanted}" is not there in mode '
            f'{context.mode}, which is in force; "{used}" is used; {remedy} (left out: this annotation)'
        )
        for _ in [remedy]
        if remedy
    ]


def test_a_scheduler_of_no_mode_leaves_the_configurations() -> None:
    found = plan(service(scheduler="fastest"), HERE, context=in_mode("nftables"))
    assert {a.scheduler for a in found.claims.values()} == {"rr"}
    assert [problem.message for problem in found.problems] == [
        '"fastest" is no scheduler of mode nftables; "rr" is used'
    ]


@pytest.mark.parametrize(
    ("context", "scheduler", "wanted", "used", "message"),
    [
        (in_mode("ipvs"), "mh", ("mh-port",), ("mh-port",), ""),
        (in_mode("ipvs", flags=("sh-port",)), "sh", None, ("sh-port",), ""),
        (in_mode("ipvs", flags=("sh-port",)), "sh", (), (), ""),
        (in_mode("ipvs", flags=("sh-port",)), "sh", ("sh-fallback",), ("sh-fallback",), ""),
        (in_mode("ipvs", flags=("mh-port", "sh-port")), "mh", None, ("mh-port",), ""),
        (in_mode("ipvs", flags=("sh-port",)), None, None, (), ""),
        (
            in_mode("ipvs"),
            "sh",
            ("mh-port", "sh-port"),
            ("sh-port",),
            'mh-port: without effect on "sh", the scheduler in force; choose the scheduler mh, or take them out',
        ),
        (
            in_mode("ipvs"),
            None,
            ("mh-port", "sh-port"),
            (),
            (
                'mh-port, sh-port: without effect on "rr", the scheduler in force; '
                "choose the scheduler mh or sh, or take them out"
            ),
        ),
        (
            in_mode("nftables"),
            "mh",
            ("mh-port",),
            (),
            "mh-port: mode nftables, which is in force, has no scheduler flags; take them out",
        ),
        (in_mode("nftables", flags=("mh-port",)), "mh", None, (), ""),
    ],
)
def test_scheduler_flags(
    context: Context,
    scheduler: str | None,
    wanted: tuple[str, ...] | None,
    used: tuple[str, ...],
    message: str,
) -> None:
    found = plan(service(scheduler=scheduler, scheduler_flags=wanted), HERE, context=context)
    assert {a.scheduler_flags for a in found.claims.values()} == {used}
    said = [f"{problem.message}; {problem.remedy}" for problem in found.problems]
    assert said == ([message] if message else [])


def test_flags_follow_the_scheduler_that_has_to_be_used() -> None:
    """The kernel lacks `mh`: its clients are spread by `sh`, which the flags of `mh` say nothing of."""
    context = in_mode("ipvs", "rr", "sh", flags=("sh-port",))
    found = plan(service(scheduler="mh", scheduler_flags=("mh-port",)), HERE, context=context)
    assert {(a.scheduler, a.scheduler_flags) for a in found.claims.values()} == {("sh", ())}
    assert len(found.problems) == 2


def test_node_ports_out_of_range_are_served_and_reported() -> None:
    found = plan(service(ports=(ServicePort(80, node_port=58080),)), HERE)
    assert Frontend(4, NODE_PORT, "tcp", 58080) in found.claims
    (problem,) = found.problems
    assert problem.field == "spec.ports[0].nodePort"
    assert "30000-32767" in problem.message


def test_ports_that_clash_inside_a_service() -> None:
    ports = (ServicePort(80, "b"), ServicePort(80, "a"))
    for order in (ports, ports[::-1]):
        found = plan(service(type="ClusterIP", external_ips=(), ports=order))
        assert found.claims[VIP].service_port == "ns/svc:a"
        assert len(found.problems) == 1


def test_affinity_and_names() -> None:
    ports = (ServicePort(80, "http"), ServicePort(53, "dns", "udp"))
    found = plan(service(affinity=300, ports=ports))
    assert {a.affinity for a in found.claims.values()} == {300}
    assert found.claims[Frontend(4, "10.96.0.1", "udp", 53)].service_port == "ns/svc:dns"
    assert found.tally.ports == 2
