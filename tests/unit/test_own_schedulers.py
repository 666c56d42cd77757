"""Schedulers of somebody's own: what becomes of what they give, from the Service to the kernel's elements."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.proxyconfig import ProxyConfig
from pointsman.dataplane.nftables import render
from pointsman.dataplane.nftables.classes import Pick
from pointsman.dataplane.nftables.entries import make_entry, picks
from pointsman.dataplane.nftables.layout import endpoint_size, endpoint_value
from pointsman.dataplane.nftables.slots import LARGEST_POOL
from pointsman.model.objects import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from pointsman.model.plan import Answer, Backend, Frontend, Pool, Slots
from pointsman.policy.explain import explain
from pointsman.policy.own_schedulers import MOST_SLOTS, Scheduler, SlotsError, filled
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pointsman.model.plan import Draw

NAME = "example.com/own"
FIELD = "metadata.annotations[pointsman.dev/scheduler]"
VIP = Frontend(4, "10.96.0.1", "tcp", 80)
A, B, C = (Backend(f"10.0.0.{number}", 8080) for number in (1, 2, 3))


def twice_the_first(backends: Sequence[Backend]) -> Sequence[Backend]:
    return [backends[0], *backends]


def service(scheduler: str | None = NAME, **more: Any) -> Service:  # noqa: ANN401 (fields of a Service)
    return Service("ns", "web", cluster_ips=("10.96.0.1",), ports=(ServicePort(80),), scheduler=scheduler, **more)


def slice_of(*addresses: str, name: str = "web-1", weight: int | None = None) -> EndpointSlice:
    endpoints = tuple(Endpoint(address, node="here", pod=f"pod-{address}") for address in addresses)
    return EndpointSlice("ns", name, "web", 4, (EndpointPort(8080),), endpoints, weight=weight)


def planned(
    slots: Callable[[Sequence[Backend]], Any],
    *objects: Service | EndpointSlice,
    draw: Draw = "random",
    config: dict[str, Any] | None = None,
) -> Planner:
    spec = ProxyConfig.read({"metadata": {"name": "c"}, "spec": config or {}}).spec
    made = Planner("here", config=spec, own_schedulers={NAME: Scheduler(slots, draw, "own 1.0")})
    for obj in objects or (service(), slice_of("10.0.0.1", "10.0.0.2")):
        made.put(obj)
    made.take()
    return made


def names(pool: Pool | None) -> list[str]:
    assert pool is not None
    assert pool.slots is not None
    return [backend.address[-1] for backend in pool.slots.backends]


class TestFilled:
    def test_the_slots_are_those_that_the_scheduler_fills(self) -> None:
        pool = filled(Pool((A, B)), Scheduler(twice_the_first, "turn"))
        assert pool.slots == Slots("turn", (A, A, B))
        assert pool.backends == (A, B)

    def test_only_those_that_get_new_connections_are_given(self) -> None:
        seen: list[Sequence[Backend]] = []
        drained = Backend("10.0.0.9", 8080, weight=0)
        filled(Pool((A, drained)), Scheduler(lambda backends: seen.append(backends) or backends))
        assert seen == [(A,)]
        assert filled(Pool((drained,)), Scheduler(lambda _: 1 / 0)).slots is None, "nobody is left to ask about"  # type: ignore[arg-type, return-value]

    def test_one_that_it_made_again_is_the_one_that_it_was_given(self) -> None:
        given = Backend("10.0.0.1", 8080, weight=7, local=True)
        pool = filled(Pool((given,)), Scheduler(lambda _: [Backend("10.0.0.1", 8080)]))
        assert pool.slots == Slots("random", (given,))

    @pytest.mark.parametrize(
        ("slots", "why"),
        [
            (lambda _: [], "it gave no slot for 2 backends"),
            (lambda _: [C], "10.0.0.3"),
            (lambda _: [("10.0.0.1", 8080)], "('10.0.0.1', 8080) is none of the 2 backends that it was given"),
            (lambda _: None, "it failed (TypeError"),
            (lambda _: 1 / 0, "it failed (ZeroDivisionError('division by zero'))"),
            (lambda _: itertools.repeat(A), "it gave more than 4096 slots for 2 backends"),
            (lambda backends: (1 / 0 for _ in backends), "it failed (ZeroDivisionError"),
            (lambda _: ["x" * 10_000], "..."),
        ],
    )
    def test_what_cannot_be_used_is_said(self, slots: Any, why: str) -> None:  # noqa: ANN401 (some are wrong)
        with pytest.raises(SlotsError) as caught:
            filled(Pool((A, B)), Scheduler(slots))
        assert why in str(caught.value)
        assert len(str(caught.value)) < 300

    def test_there_may_be_as_many_slots_as_backends(self) -> None:
        many = tuple(Backend(f"10.{number >> 8}.{number & 255}.1", 80) for number in range(MOST_SLOTS + 5))
        pool = filled(Pool(many), Scheduler(lambda backends: backends))
        assert pool.slots is not None
        assert pool.slots.backends == many
        with pytest.raises(SlotsError):
            filled(Pool(many), Scheduler(twice_the_first))

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
    def test_any_order_of_what_was_given_is_good(self, order: list[int]) -> None:
        backends = tuple(Backend(f"10.0.0.{number}", 80, weight=number + 1) for number in range(5))
        pool = filled(Pool(backends), Scheduler(lambda given: [given[index] for index in order]))
        assert pool.slots is not None
        assert pool.slots.backends == tuple(backends[index] for index in order)


class TestPlan:
    def test_a_service_asks_for_it(self) -> None:
        planner = planned(twice_the_first)
        answer = planner.answers[VIP]
        assert (answer.scheduler, names(answer.pool), planner.problems) == (NAME, ["1", "1", "2"], ())

    def test_the_configuration_asks_for_it(self) -> None:
        objects = service(scheduler=None), slice_of("10.0.0.1", "10.0.0.2")
        planner = planned(twice_the_first, *objects, config={"scheduler": NAME})
        assert names(planner.answers[VIP].pool) == ["1", "1", "2"]
        assert not planner.problems

    def test_both_pools_of_a_local_policy_are_filled(self) -> None:
        local = service(type="LoadBalancer", load_balancer_ips=("1.2.3.4",), external_local=True)
        elsewhere = EndpointSlice(
            "ns", "web-2", "web", 4, (EndpointPort(8080),), (Endpoint("10.0.0.2", node="there", pod="p"),)
        )
        planner = planned(twice_the_first, local, slice_of("10.0.0.1"), elsewhere)
        answer = planner.answers[Frontend(4, "1.2.3.4", "tcp", 80)]
        assert (names(answer.pool), names(answer.outside)) == (["1", "1", "2"], ["1", "1"])

    def test_a_change_of_the_endpoints_is_a_change_of_the_slots(self) -> None:
        planner = planned(twice_the_first)
        planner.put(slice_of("10.0.0.2", "10.0.0.3"))
        delta = planner.take()
        assert names(delta.changed[VIP].pool) == ["2", "2", "3"]
        assert planner.full() == planner.plan

    def test_one_that_fails_is_a_problem_of_the_service_and_random_is_in_its_place(self) -> None:
        planner = planned(lambda _: [])
        answer = planner.answers[VIP]
        assert (answer.scheduler, answer.pool) == (
            "random",
            Pool((Backend("10.0.0.1", 8080, local=True), Backend("10.0.0.2", 8080, local=True))),
        )
        (problem,) = planner.problems
        assert str(problem) == (
            f'Service ns/web: {FIELD}: "{NAME}" of own 1.0: it gave no slot for 2 backends; "random" is used; mend the '
            "scheduler, or choose another one (left out: the scheduler)"
        )
        planner.put(slice_of())
        planner.take()
        assert not planner.problems, "without an endpoint nothing is asked"

    def test_one_that_is_not_installed_is_a_problem_of_the_service(self) -> None:
        planner = planned(twice_the_first, service("example.com/other"), slice_of("10.0.0.1"))
        assert planner.answers[VIP].scheduler == "random"
        (problem,) = planner.problems
        assert '"example.com/other" is not there in mode nftables, which is in force; "random" is used' in str(problem)
        assert problem.remedy.startswith("pip install the package that has it into the agents' image, or write one of ")
        assert problem.remedy.endswith(f"mh, {NAME}")

    def test_the_configurations_that_is_not_installed_is_a_problem_of_the_configuration(self) -> None:
        objects = service(scheduler=None), slice_of("10.0.0.1")
        planner = planned(twice_the_first, *objects, config={"scheduler": "example.com/other"})
        assert planner.answers[VIP].scheduler == "random"
        assert [(problem.object, problem.field) for problem in planner.problems] == [("ProxyConfig", "spec.scheduler")]

    def test_in_a_mode_that_takes_none_the_default_is_used(self) -> None:
        planner = planned(twice_the_first)
        planner.use("ipvs", ("rr", "wrr", "lc"))
        planner.take()
        answer = planner.answers[VIP]
        assert (answer.scheduler, answer.pool.slots) == ("rr", None)
        (problem,) = [problem for problem in planner.problems if problem.object == "Service ns/web"]
        assert f'"{NAME}" is not there in mode ipvs, which is in force; "rr" is used' in problem.message
        planner.use("nftables", ("random",))
        planner.take()
        assert planner.answers[VIP].scheduler == NAME
        assert not planner.problems

    def test_a_mode_of_somebodys_own_has_what_it_says(self) -> None:
        planner = planned(twice_the_first, config={"mode": "example.com/toy"})
        planner.use("example.com/toy", ("quick", "slow"))
        planner.take()
        assert planner.answers[VIP].scheduler == "quick", "its first one is its default"
        planner.use("example.com/toy", ("quick", NAME))
        planner.take()
        assert names(planner.answers[VIP].pool) == ["1", "1", "2"], "it may take such schedulers, too"
        planner.use("example.com/toy", ("quick", "slow"))
        planner.put(service("slow"))
        planner.take()
        assert (planner.answers[VIP].scheduler, planner.problems) == ("slow", ())
        planner.put(service("slower"))
        planner.take()
        (problem,) = planner.problems
        assert (problem.message, problem.remedy) == (
            '"slower" is no scheduler of mode example.com/toy; "quick" is used',
            "write one of quick, slow",
        )

    def test_explain_says_what_it_made_of_the_weights(self) -> None:
        explanation = explain(planned(twice_the_first, draw="turn"), "10.9.9.9", "10.96.0.1", 80)
        assert explanation.scheduler == NAME
        assert f"{NAME} filled 3 slots, drawn in turn: 10.0.0.1:8080 has 2, 10.0.0.2:8080 has 1" in explanation.notes


class TestNftables:
    @pytest.mark.parametrize(
        ("draw", "drawn"),
        [
            ("random", "numgen random mod 3"),
            ("client", "jhash ip saddr mod 3"),
            ("turn", "numgen inc mod 3"),
        ],
    )
    def test_the_kernel_draws_as_the_scheduler_says(self, draw: Draw, drawn: str) -> None:
        text = render(planned(twice_the_first, draw=draw).plan)
        assert text.count(drawn) == 1
        assert text.count("10.96.0.1 . tcp . 80 . ") == 3

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), max_size=30))
    def test_at_random_as_little_changes_as_can_be(self, before: list[int], after: list[int]) -> None:
        backends = [Backend(f"10.0.0.{number}", 80) for number in range(4)]
        values = [endpoint_value(4, backend) for backend in backends]
        old = b"".join(values[index] for index in before)
        wanted = after or [0]
        slots = Slots("random", tuple(backends[index] for index in wanted))
        entry = make_entry(VIP, Answer("ns/web", NAME, Pool(tuple(backends), slots=slots)), old)
        width = endpoint_size(4)
        parts = [entry.slots[start : start + width] for start in range(0, len(entry.slots), width)]
        assert sorted(parts) == sorted(values[index] for index in wanted)
        if sorted(before) == sorted(wanted):
            assert entry.slots == old, "a restart writes nothing"

    @pytest.mark.parametrize("draw", ["client", "turn"])
    def test_in_other_draws_the_order_is_the_schedulers(self, draw: Draw) -> None:
        entry = make_entry(VIP, Answer("ns/web", NAME, Pool((A, B), slots=Slots(draw, (B, A, B)))), b"")
        assert entry.slots == b"".join(endpoint_value(4, backend) for backend in (B, A, B))

    def test_each_pool_is_drawn_as_its_slots_say(self) -> None:
        answer = Answer(
            "ns/web", NAME, Pool((A, B), slots=Slots("turn", (B, A))), Pool((A,), slots=Slots("client", (A,)))
        )
        inside, outside = picks(VIP, make_entry(VIP, answer))
        assert isinstance(inside, Pick)
        assert isinstance(outside, Pick)
        assert ((inside.scheduler, inside.owner), outside.scheduler) == (("rr", VIP), "sh")

    def test_more_slots_than_a_pool_can_have_are_refused(self) -> None:
        slots = Slots("turn", (A,) * (LARGEST_POOL + 1))
        with pytest.raises(ValueError, match="65522 slots in one pool"):
            make_entry(VIP, Answer("ns/web", NAME, Pool((A,), slots=slots)))
