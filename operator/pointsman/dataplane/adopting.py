"""How dataplanes adopt a plan: one address family after the other, and without the frontends that are refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.model.plan import FAMILIES, IPV4, Delta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.model.plan import Answer, Family, Frontend, Plan

_LOG: Final = logging.getLogger(__name__)

MOST_QUARANTINED: Final = 16
"""So many refused frontends are set aside in one sync before it is given up."""


def adopt_families(plan: Plan, adopt: Callable[[Family, dict[Frontend, Answer]], Written]) -> Written:
    """Adopt each family's part of a plan. A family that nothing needs, and that the kernel refuses, is left alone.

    Args:
        plan: the plan.
        adopt: brings one family's frontends in force.

    Raises:
        DataplaneError: a family that is needed, as IPv4 always is, was refused; the others are in force.
    """
    refused: dict[str, str] = {}
    errors: list[str] = []
    added = removed = 0
    for family in FAMILIES:
        answers = answers_of(plan.answers, family)
        try:
            written = adopt(family, answers)
        except DataplaneError as error:
            if answers or family == IPV4:
                errors.append(str(error))
            else:
                _LOG.warning("IPv%s is left alone, as nothing needs it and it is refused: %s", family, error)
            continue
        refused |= written.refused
        added, removed = added + written.added, removed + written.removed
    if errors:
        raise DataplaneError("; ".join(errors))
    return Written(added, removed, refused)


def answers_of(answers: Mapping[Frontend, Answer], family: Family) -> dict[Frontend, Answer]:
    """Return the frontends of one family, with their answers."""
    return {frontend: answer for frontend, answer in answers.items() if frontend.family == family}


def part_of(delta: Delta, family: Family) -> Delta:
    """Return what a delta says of one family, and of the settings."""
    removed = frozenset(frontend for frontend in delta.removed if frontend.family == family)
    return Delta(answers_of(delta.changed, family), removed, delta.settings)


def set_aside(frontend: Frontend, answers: dict[Frontend, Answer], in_force: Answer | None) -> None:
    """Go on without a frontend's new answer: with the one that is in force, if there is one."""
    if in_force is None or in_force == answers[frontend]:
        del answers[frontend]
    else:
        answers[frontend] = in_force


def name_of(frontend: Frontend) -> str:
    """Name a frontend in `Written.refused` and in errors."""
    return f"{frontend.address}:{frontend.port}/{frontend.protocol}"
