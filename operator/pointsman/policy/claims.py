"""Frontends with their answers, and what happens when two Services claim the same one; pure.

The Service whose cluster IP it is wins, else the first by ``namespace/name``: this does not depend on the order in
which objects come. The loser is kept, and takes over when the winner goes away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.model.plan import NODE_PORT, Answer, Delta, Frontend
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def owner_of(answer: Answer) -> str:
    """Return ``namespace/name`` of the Service that an answer is for."""
    return answer.service_port.partition(":")[0]


def winner(rivals: Mapping[str, Answer]) -> str:
    """Choose among Services that claim the same frontend."""
    return min(rivals, key=lambda key: (not rivals[key].exclusive, key))


class Claims:
    """Who has which frontend.

    Attributes:
        answers: the answer in force for each frontend.
        contested: frontends with more than one claimant: all answers, by Service.
    """

    def __init__(self) -> None:
        self.answers: dict[Frontend, Answer] = {}
        self.contested: dict[Frontend, dict[str, Answer]] = {}
        self._touched: dict[Frontend, Answer | None] = {}

    def replace(self, key: str, old: Iterable[Frontend], new: Mapping[Frontend, Answer]) -> None:
        """Set what a Service claims.

        Args:
            key: ``namespace/name`` of the Service.
            old: the frontends that it claimed so far.
            new: all that it claims now. Equal answers stay the objects that they are.
        """
        for frontend in old:
            if frontend not in new:
                self._release(key, frontend)
        answers, contested = self.answers, self.contested
        for frontend, answer in new.items():
            current = answers.get(frontend)
            if current is None:
                self._touched.setdefault(frontend, None)
                answers[frontend] = answer
            elif frontend in contested or owner_of(current) != key:
                self._contest(key, frontend, current, answer)
            elif current != answer:
                self._touched.setdefault(frontend, current)
                answers[frontend] = answer

    def take(self) -> Delta:
        """Return what changed since the last call (without settings)."""
        touched, self._touched = self._touched, {}
        changed: dict[Frontend, Answer] = {}
        removed = set()
        answers = self.answers
        for frontend, before in touched.items():
            now = answers.get(frontend)
            if now is None:
                if before is not None:
                    removed.add(frontend)
            elif before is None or now != before:
                changed[frontend] = now
        return Delta(changed, frozenset(removed))

    def problems(self) -> list[Problem]:
        """Say which Services do not get a frontend, and who has it."""
        return [
            _conflict(frontend, key, winner(rivals))
            for frontend, rivals in self.contested.items()
            for key in rivals
            if key != winner(rivals)
        ]

    def _contest(self, key: str, frontend: Frontend, current: Answer, answer: Answer) -> None:
        rivals = self.contested.get(frontend)
        if rivals is None:
            rivals = self.contested[frontend] = {owner_of(current): current}
        if rivals.get(key) != answer:
            rivals[key] = answer
            self._settle(frontend, rivals)

    def _release(self, key: str, frontend: Frontend) -> None:
        rivals = self.contested.get(frontend)
        if rivals is None:
            self._touched.setdefault(frontend, self.answers[frontend])
            del self.answers[frontend]
            return
        del rivals[key]
        if len(rivals) == 1:
            del self.contested[frontend]
        self._settle(frontend, rivals)

    def _settle(self, frontend: Frontend, rivals: Mapping[str, Answer]) -> None:
        self._touched.setdefault(frontend, self.answers[frontend])
        self.answers[frontend] = rivals[winner(rivals)]


def _conflict(frontend: Frontend, loser: str, other: str) -> Problem:
    if frontend.address == NODE_PORT:
        field, what = "spec.ports[].nodePort", f"node port {frontend.port}/{frontend.protocol} (IPv{frontend.family})"
    else:
        field, what = "spec", f"{frontend.port}/{frontend.protocol} on {frontend.address}"
    return Problem(
        source="",
        object=f"Service {loser}",
        field=field,
        message=f"{what} belongs to Service {other} already",
        remedy=f"give one of them another port or address; when Service {other} goes, this one takes over",
        dropped="this frontend",
    )
