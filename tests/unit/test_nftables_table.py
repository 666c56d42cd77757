"""The table against a model: whatever plans follow each other, the elements are those of the last one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.dataplane.nftables.layout import endpoint_value
from pointsman.dataplane.nftables.slots import LARGEST_POOL
from pointsman.dataplane.nftables.table import Table
from pointsman.model.plan import (
    NODE_PORT,
    Answer,
    Backend,
    Delta,
    Family,
    Frontend,
    NodeSettings,
    Plan,
    Pool,
    difference,
)
from support.nftables_memory import Memory, MemoryDraft
from support.plans import PODS, VIPS, answers_of, histories_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEDULERS = ("random", "rr", "wrr", "sh", "dh", "mh")
CIDRS: dict[Family, tuple[str, ...]] = {
    4: ("10.0.0.0/8", "192.168.0.0/16", "10.1.0.0/16"),
    6: ("fd00::/16", "2001:db8::/32", "fd00:1::/32"),
}


@st.composite
def pools(draw: st.DrawFn, family: Family) -> Pool:
    backend = st.builds(
        lambda host, port, weight, local: Backend(f"{PODS[family]}{host}", port, weight, local),
        st.integers(1, 4),
        st.sampled_from((80, 8080)),
        st.sampled_from((0, 1, 1, 1, 2, 3)),
        st.booleans(),
    )
    found = draw(st.lists(backend, max_size=5, unique_by=lambda backend: (backend.address, backend.port)))
    return Pool(tuple(sorted(found)), draw(st.sampled_from(("reject", "drop"))))


def answers(frontend: Frontend) -> st.SearchStrategy[Answer]:
    family = frontend.family
    return answers_of(frontend, pools(family), names=("default/web",), schedulers=SCHEDULERS, networks=CIDRS[family])


@st.composite
def plans(draw: st.DrawFn, family: Family) -> Plan:
    frontend = st.builds(
        Frontend,
        st.just(family),
        st.sampled_from((*VIPS[family], NODE_PORT)),
        st.sampled_from(("tcp", "udp")),
        st.sampled_from((80, 443)),
    )
    found = draw(st.lists(frontend, max_size=5, unique=True))
    networks = st.lists(st.sampled_from((*CIDRS[4], *CIDRS[6])), max_size=3).map(tuple)
    return Plan(
        {each: draw(answers(each)) for each in found},
        NodeSettings(draw(networks), draw(networks), draw(networks), draw(st.booleans())),
    )


def adopt(memory: Memory, plan: Plan) -> tuple[Table, MemoryDraft]:
    table, draft = Table(memory.family), MemoryDraft()
    change = table.adoption(plan.answers, plan.settings, memory.copy_of_sets(), draft, memory.chains)
    memory.take(draft)
    table.accept(change)
    return table, draft


def step(memory: Memory, table: Table, delta: Delta) -> MemoryDraft:
    """Apply a delta, and then the empty one that takes away what the first left for packets on their way."""
    classes, chains = memory.class_elements(), memory.chains.keys()
    draft = MemoryDraft()
    change = table.change(delta.changed, delta.removed, delta.settings, draft)
    memory.take(draft, settled=False)
    table.accept(change)
    assert memory.class_elements() >= classes
    assert memory.chains.keys() >= chains
    rest = MemoryDraft()
    change = table.change({}, (), None, rest)
    memory.take(rest)
    table.accept(change)
    return draft


def from_nothing(family: Family, plan: Plan) -> Memory:
    memory = Memory(family)
    adopt(memory, plan)
    return memory


def slots(family: Family, pool: Pool) -> dict[bytes, int]:
    """Return the weight of each endpoint that gets new connections."""
    return {endpoint_value(family, backend): backend.weight for backend in pool.backends if backend.weight}


def check_answers(memory: Memory, answers_wanted: Mapping[Frontend, Answer]) -> None:
    """Follow a connection from inside and one from outside to each frontend."""
    for frontend, answer in answers_wanted.items():
        for inside in (True, False):
            pool = answer.pool if inside or answer.outside is None else answer.outside
            wanted, found = slots(memory.family, pool), memory.backends(frontend, inside=inside)
            if not wanted:
                assert found == ("drop" if pool.when_empty == "drop" else "refuse")
                continue
            assert isinstance(found, list)
            counts = Counter(found)
            assert counts.keys() == wanted.keys()
            if answer.scheduler == "mh":
                continue
            first = next(iter(wanted))
            assert all(counts[value] * wanted[first] == counts[first] * weight for value, weight in wanted.items())
    assert sum(len(memory.sets[name]) for name in ("services", "node-port-services")) == len(answers_wanted)


@settings(max_examples=80, deadline=None)
@given(histories_of(plans, answers))
def test_changes_lead_where_the_last_plan_leads(history: tuple[Family, list[Plan]]) -> None:
    family, steps = history
    memory = Memory(family)
    table, _ = adopt(memory, Plan({}))
    before = Plan({})
    for plan in steps:
        step(memory, table, difference(before, plan))
        check_answers(memory, plan.answers)
        assert memory.normal() == from_nothing(family, plan).normal()
        before = plan
    step(memory, table, difference(before, Plan({})))
    assert memory.normal() == from_nothing(family, Plan({})).normal()
    assert not table.chains
    assert not table.entries


@settings(max_examples=50, deadline=None)
@given(histories_of(plans, answers))
def test_adoption_leads_from_anywhere_to_the_plan_and_then_rests(history: tuple[Family, list[Plan]]) -> None:
    family, steps = history
    memory = Memory(family)
    for plan in steps:
        adopt(memory, plan)
        check_answers(memory, plan.answers)
        assert memory.normal() == from_nothing(family, plan).normal()
        table, again = adopt(memory, plan)
        assert again.size == 0
        # And who adopts can go on from there.
        for frontend in plan.answers:
            step(memory, table, Delta({}, frozenset({frontend})))
        step(memory, table, Delta(plan.answers))
        assert memory.normal() == from_nothing(family, plan).normal()


@settings(max_examples=50, deadline=None)
@given(histories_of(plans, answers), st.data())
def test_adoption_mends_what_others_did(history: tuple[Family, list[Plan]], data: st.DataObject) -> None:
    family, (plan, *_) = history
    memory = from_nothing(family, plan)
    expected = memory.normal()
    for elements in memory.sets.values():
        for key in sorted(elements):
            if data.draw(st.integers(0, 3)) == 0:
                del elements[key]
    draft = MemoryDraft()
    Table(family).adoption(plan.answers, plan.settings, memory.copy_of_sets(), draft, memory.chains)
    memory.take(draft)
    assert memory.normal() == expected


def test_chains_that_are_not_trusted_are_written_anew() -> None:
    plan = Plan({WEB: answer(range(3)), SIX_PORT: answer(range(2), affinity=60)})
    memory, draft = from_nothing(4, plan), MemoryDraft()
    Table(4).adoption(plan.answers, plan.settings, memory.copy_of_sets(), draft, memory.chains, trusted=False)
    assert {(chain.chain, present) for chain, present in draft.chains} == {
        ("pick-random-3", True),
        ("node-port-pick-random-2-sticky", True),
        ("node-port-recall", True),
        ("remember-60", True),
    }
    assert not draft.additions
    assert not draft.removals
    memory.take(draft)


WEB = Frontend(4, "10.96.0.1", "tcp", 80)
API = Frontend(4, "10.96.0.2", "tcp", 443)
SIX_PORT = Frontend(4, NODE_PORT, "tcp", 30000)


def answer(hosts: range, scheduler: str = "random", affinity: int | None = None) -> Answer:
    backends = tuple(Backend(f"10.1.{host >> 8}.{host & 255}", 80) for host in hosts)
    return Answer("default/web", scheduler, Pool(backends), affinity=affinity)


@pytest.mark.parametrize("scheduler", ["random", "sh", "dh", "rr", "wrr"])
@pytest.mark.parametrize("count", [10, 1000])
def test_one_endpoint_costs_the_same_in_a_large_pool_as_in_a_small_one(scheduler: str, count: int) -> None:
    memory = Memory(4)
    # Another Service of the next size keeps the classes in use, as in any large cluster.
    others = {Frontend(4, "10.96.1.1", "tcp", size): answer(range(size)) for size in (count - 1, count, count + 1)}
    table, _ = adopt(memory, Plan({WEB: answer(range(count), scheduler), **others}))
    for hosts in (range(count + 1), range(count), range(1, count), range(count)):
        draft = step(memory, table, Delta({WEB: answer(hosts, scheduler)}))
        # The slot itself, the last slot moved into the hole, the class's number; the chain and its class when new.
        assert len(draft.additions) <= 4
        assert len(draft.removals) <= 4
        check_answers(memory, {WEB: answer(hosts, scheduler), **others})


def test_a_replaced_endpoint_is_one_slot() -> None:
    memory = Memory(4)
    table, _ = adopt(memory, Plan({WEB: answer(range(10))}))
    draft = step(memory, table, Delta({WEB: answer(range(1, 11))}))
    assert (len(draft.additions), len(draft.removals), draft.size) == (1, 1, 2)


def test_a_new_name_alone_writes_nothing() -> None:
    memory = Memory(4)
    table, _ = adopt(memory, Plan({WEB: answer(range(3))}))
    renamed = Answer("default/other", "random", answer(range(3)).pool)
    assert step(memory, table, Delta({WEB: renamed})).size == 0


def test_frontends_share_chains_and_only_round_robin_has_its_own() -> None:
    memory = Memory(4)
    table, _ = adopt(memory, Plan({WEB: answer(range(3)), API: answer(range(3, 6))}))
    assert memory.chains.keys() == {"pick-random-3"}
    step(memory, table, Delta({WEB: answer(range(3), "rr"), API: answer(range(3), "rr")}))
    assert memory.chains.keys() == {"rr-10.96.0.1-tcp-80-3", "rr-10.96.0.2-tcp-443-3"}
    step(memory, table, Delta({}, frozenset({WEB})))
    assert memory.chains.keys() == {"rr-10.96.0.2-tcp-443-3"}


def test_own_numbers_are_kept_over_a_restart() -> None:
    memory = Memory(4)
    adopt(memory, Plan({WEB: answer(range(3), "rr"), API: answer(range(3), "rr")}))
    table, draft = adopt(memory, Plan({API: answer(range(3), "rr")}))
    assert not draft.additions
    step(memory, table, Delta({WEB: answer(range(2), "rr"), SIX_PORT: answer(range(2), "wrr")}))
    assert len(set(memory.sets["services"].values())) == 2
    check_answers(
        memory,
        {API: answer(range(3), "rr"), WEB: answer(range(2), "rr"), SIX_PORT: answer(range(2), "wrr")},
    )


def test_a_change_that_was_not_taken_is_forgotten() -> None:
    memory = Memory(4)
    table, _ = adopt(memory, Plan({WEB: answer(range(3))}))
    refused = MemoryDraft()
    table.change({WEB: answer(range(5)), API: answer(range(2), "rr")}, [], None, refused)
    step(memory, table, Delta({WEB: answer(range(4)), API: answer(range(1), "rr")}))
    check_answers(memory, {WEB: answer(range(4)), API: answer(range(1), "rr")})


def test_a_pool_that_is_too_large_leaves_the_rest_alone() -> None:
    memory = Memory(4)
    table, _ = adopt(memory, Plan({WEB: answer(range(3))}))
    draft = MemoryDraft()
    change = table.change({WEB: answer(range(LARGEST_POOL + 1)), API: answer(range(2))}, [], None, draft)
    memory.take(draft)
    table.accept(change)
    assert change.refused.keys() == {WEB}
    check_answers(memory, {WEB: answer(range(3)), API: answer(range(2))})
