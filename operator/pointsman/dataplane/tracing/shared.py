"""Where connections to a frontend's backends are counted, when that is at another frontend; pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.ruleset import Ruleset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Frontend, Plan

_NOWHERE_ELSE: Final[Mapping[tuple[str, int], Frontend]] = MappingProxyType({})


def counted_elsewhere(mode: str, plan: Plan, frontend: Frontend) -> Mapping[tuple[str, int], Frontend]:
    """Say which backends' counters stand at another frontend, and at which one.

    In mode iptables the addresses of a Service's port share the chains of its endpoints, and their counters with them.

    Args:
        mode: the dataplane in force.
        plan: what it was given.
        frontend: where clients connect to.

    Returns:
        Frontends by address and port of a backend; none for one that is counted at `frontend` itself.
    """
    answer = plan.answers.get(frontend)
    if mode != "iptables" or answer is None:
        return _NOWHERE_ELSE
    rules = Ruleset(frontend.family)
    same = {
        each: found
        for each, found in plan.answers.items()
        if (each.family, found.service_port) == (frontend.family, answer.service_port)
    }
    rules.accept(rules.adoption(same, plan.settings, {}))
    counted = rules.counted()
    at = {
        where: each
        for each, counters in counted.items()
        for where, counter in counters.backends.items()
        if counter.rules
    }
    own = counted[frontend].backends if frontend in counted else {}
    return {where: at[where] for where, counter in own.items() if not counter.rules and where in at}
