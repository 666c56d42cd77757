"""Comparing plans."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from pointsman.model.plan import (
    Answer,
    Backend,
    Delta,
    Family,
    Frontend,
    NodeSettings,
    Plan,
    Pool,
    Transport,
    apply,
    difference,
)

FRONTENDS = st.builds(
    Frontend,
    family=st.sampled_from(get_args(Family)),
    address=st.sampled_from(["10.96.0.1", "10.96.0.2", "*"]),
    protocol=st.sampled_from(get_args(Transport)),
    port=st.integers(1, 3),
)
POOLS = st.builds(Pool, backends=st.lists(st.builds(Backend, st.just("10.0.0.1"), st.integers(1, 3))).map(tuple))
ANSWERS = st.builds(
    Answer, service_port=st.just("default/web"), scheduler=st.sampled_from(["random", "rr"]), pool=POOLS
)
SETTINGS = st.builds(NodeSettings, drop_invalid=st.booleans())
PLANS = st.builds(Plan, answers=st.dictionaries(FRONTENDS, ANSWERS), settings=SETTINGS)

WEB = Frontend(4, "10.96.0.1", "tcp", 80)
DNS = Frontend(4, "10.96.0.10", "udp", 53)


def answer(scheduler: str = "random") -> Answer:
    return Answer("default/web", scheduler, Pool((Backend("10.0.0.1", 8080),)))


@given(PLANS, PLANS)
def test_a_difference_leads_from_one_plan_to_the_other(old: Plan, new: Plan) -> None:
    assert apply(old, difference(old, new)) == new


@given(PLANS, PLANS)
def test_a_difference_holds_nothing_that_stays(old: Plan, new: Plan) -> None:
    delta = difference(old, new)
    assert all(old.answers.get(frontend) != changed for frontend, changed in delta.changed.items())
    assert all(frontend in old.answers and frontend not in new.answers for frontend in delta.removed)
    assert bool(delta) == (old != new)


def test_frontends_that_come_change_and_go() -> None:
    old = Plan({WEB: answer(), DNS: answer()})
    delta = difference(old, Plan({WEB: answer("rr")}))
    assert delta == Delta({WEB: answer("rr")}, frozenset({DNS}))
    assert difference(Plan({}), old).changed == old.answers


def test_settings_that_change() -> None:
    settings = NodeSettings(pod_cidrs=("10.0.0.0/8",))
    delta = difference(Plan({}), Plan({}, settings))
    assert delta.settings == settings
    assert apply(Plan({WEB: answer()}), delta) == Plan({WEB: answer()}, settings)
    assert not difference(Plan({}, settings), Plan({}, settings))


def test_apply_leaves_the_old_plan_alone() -> None:
    old = Plan({WEB: answer()})
    apply(old, Delta({DNS: answer()}, frozenset({WEB})))
    assert old == Plan({WEB: answer()})
