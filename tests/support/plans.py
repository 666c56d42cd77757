"""Plans for tests of a dataplane's tables against a model: whatever may follow each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pointsman.model.plan import NODE_PORT, Answer, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pointsman.model.plan import Family, Frontend, Pool

VIPS: dict[Family, tuple[str, ...]] = {4: ("10.96.0.1", "10.96.0.2"), 6: ("fd00:10:96::1", "fd00:10:96::2")}
PODS: dict[Family, str] = {4: "10.1.0.", 6: "fd00:10:1::"}


@st.composite
def answers_of(
    draw: st.DrawFn,
    frontend: Frontend,
    pools: st.SearchStrategy[Pool],
    *,
    names: Sequence[str],
    schedulers: Sequence[str],
    networks: Sequence[str],
) -> Answer:
    """Answer a frontend in any way that a planner may.

    Args:
        draw: of Hypothesis.
        frontend: which one.
        pools: of its family.
        names: of Service ports.
        schedulers: that the mode has.
        networks: for source ranges, of its family.
    """
    node_port = frontend.address == NODE_PORT
    ranges = st.lists(st.sampled_from(networks), max_size=3, unique=True).map(tuple)
    return Answer(
        draw(st.sampled_from(names)),
        draw(st.sampled_from(schedulers)),
        draw(pools),
        draw(st.none() | pools),
        draw(st.sampled_from((None, None, 60, 10800))),
        draw(st.sampled_from(("never", "off-cluster", "node", "always"))),
        not node_port and draw(st.booleans()),
        None if node_port else draw(st.none() | ranges),
    )


@st.composite
def histories_of(
    draw: st.DrawFn,
    plans: Callable[[Family], st.SearchStrategy[Plan]],
    answers: Callable[[Frontend], st.SearchStrategy[Answer]],
) -> tuple[Family, list[Plan]]:
    """Let plans of one family follow each other; most changes in a cluster are of one frontend out of many."""
    family: Family = draw(st.sampled_from((4, 6)))
    found = draw(st.lists(plans(family), min_size=1, max_size=4))
    for base in list(found):
        for frontend in base.answers:
            if draw(st.booleans()):
                found.append(Plan({**base.answers, frontend: draw(answers(frontend))}, base.settings))
    return family, found
