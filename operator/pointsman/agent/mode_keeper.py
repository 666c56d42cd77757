"""Keeps the right mode in force on a node: chooses it, changes it, and remembers why it is that one."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pointsman.agent.dataplanes import Dataplanes
from pointsman.agent.modes import Choice, NoModeError, choose
from pointsman.api.names import MODES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.agent.outcome import Kernel
    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane, Written
    from pointsman.model.plan import Answer, Frontend
    from pointsman.model.problems import Problem
    from pointsman.policy.planner import Planner

_LOG: Final = logging.getLogger(__name__)


class ModeKeeper:
    """Owns the dataplanes; used by one thread.

    The mode is chosen by the first sync, which knows the configuration; again when the configuration asks for others;
    each `syncPeriod` while something better may come; and when there is doubt about the one in force.

    Args:
        planner: is told which mode to plan for.
        kernel: how to open dataplanes.
        monotonic: seconds.

    Attributes:
        choice: what is in force, and why; None before the first.
        problems: what modes that are not in force any more left behind.
    """

    def __init__(self, planner: Planner, kernel: Kernel, monotonic: Callable[[], float]) -> None:
        self._planner = planner
        self._dataplanes = Dataplanes(kernel.dataplanes, kernel.traces, monotonic)
        self._monotonic = monotonic
        self._wish: object = None
        self._looked = 0.0
        self.choice: Choice | None = None
        self.problems: tuple[Problem, ...] = ()

    @property
    def dataplane(self) -> Dataplane | None:
        """The dataplane in force, or None before the first."""
        return self._dataplanes.in_force

    @property
    def draining(self) -> Mapping[Mode, int]:
        """Modes that were in force and serve the connections that they had, each with their number at that time."""
        return self._dataplanes.draining

    @property
    def has_ended(self) -> bool:
        """Whether `take_ended` has something to tell."""
        return bool(self._dataplanes.ended)

    @property
    def look_again(self) -> float | None:
        """Seconds until a better mode shall be looked for, or None when there is none."""
        if self.choice is None or self._is_settled():
            return None
        return max(self._due() - self._monotonic(), 0.0)

    def why_useless(self) -> str:
        """Say why no mode at all can be in force on this node, with the remedies; "" when one can."""
        try:
            choose(MODES[0], (*MODES, *self._dataplanes.installed), self._dataplanes.support)
        except NoModeError as error:
            return str(error)
        return ""

    def decide(self, *, doubtful: bool) -> Choice:
        """Say which mode is to be in force, and have it planned for.

        Args:
            doubtful: the one in force takes nothing.

        Raises:
            NoModeError: the node supports none, and none is in force.
        """
        self._planner.resolve()
        config = self._planner.config
        wish = (config.mode, config.fallback_modes_in_force())
        if self.choice is not None and wish == self._wish and not doubtful and not self._is_look_due():
            return self.choice
        self._wish, self._looked = wish, self._monotonic()
        try:
            choice = choose(*wish, self._dataplanes.support)
        except NoModeError as error:
            if self.choice is None:
                raise
            # What the kernel holds is better than nothing.
            why = "" if self.choice.mode == config.mode else str(error)
            choice = replace(self.choice, wanted=config.mode, why=why)
        self._planner.use(choice.mode, choice.schedulers)
        if self.is_in_force(choice):
            self._remember(choice)
            self._tidy()
        return choice

    def is_in_force(self, choice: Choice) -> bool:
        """Tell whether the dataplane of a choice has taken the plan already."""
        return self._dataplanes.mode == choice.mode and self._dataplanes.is_adopted

    def switch(self, choice: Choice) -> Written:
        """Bring the plan into the kernel in another mode; only then let the old one retire.

        Raises:
            DataplaneError, OSError: it does not take it; the old one is in force as before (`stay`).
        """
        written = self._dataplanes.open(choice.mode).adopt(self._planner.plan)
        self._dataplanes.put_in_force(choice.mode)
        self._remember(choice)
        self._tidy()
        return written

    def stay(self, refused: Choice, error: Exception) -> None:
        """Plan for the mode in force again, as another one did not take the plan; what that one wrote goes."""
        if self.choice is None or self.choice.mode == refused.mode:
            return
        why = "; ".join(filter(None, (refused.why, f"{refused.mode}: {error}")))
        self._remember(replace(self.choice, wanted=refused.wanted, why=why))
        self._planner.use(self.choice.mode, self.choice.schedulers)
        self._dataplanes.give_up(refused.mode)
        self._tidy()

    def tend(self) -> tuple[Problem, ...]:
        """Let modes that drain do what is due by time; return what is wrong with them."""
        return self._dataplanes.tend()

    def take_ended(self) -> frozenset[Mode]:
        """Return the modes that carry nothing any more since the last call."""
        return self._dataplanes.take_ended()

    def serves(self, mode: Mode) -> bool:
        """Tell whether a mode serves connections: all, or those that it had."""
        return self._dataplanes.serves(mode)

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> tuple[Problem, ...]:
        """Have the connections of modes that are not in force any more heed what changed; return what is wrong."""
        return self._dataplanes.follow(changes)

    def own_endpoints(self) -> Mapping[Frontend, frozenset[tuple[str, int]]]:
        """Return what answers in place of a frontend's backends, in all modes that serve connections."""
        return self._dataplanes.own_endpoints()

    def clean_up(self) -> None:
        """Remove what every mode has in the kernel.

        Raises:
            DataplaneError: something stays.
        """
        self._dataplanes.clean_up()

    def close(self) -> None:
        """Release what is open; the kernel keeps what it holds."""
        self._dataplanes.close()

    def _tidy(self) -> None:
        self.problems = self._dataplanes.tidy(self._planner.config.drain_timeout)

    def _due(self) -> float:
        return self._looked + self._planner.config.sync_period

    def _is_settled(self) -> bool:
        return self.choice is not None and self.choice.is_best and self._dataplanes.is_tidy

    def _is_look_due(self) -> bool:
        if self.choice is None or self._is_settled() or self._monotonic() < self._due():
            return False
        if self.choice.mode != self.choice.wanted or not self._dataplanes.is_tidy:
            return True
        # A scheduler's module is looked for where somebody asks for it: looking makes the kernel try to load it.
        if self._planner.lacks_schedulers():
            return True
        self._looked = self._monotonic()
        return False

    def _remember(self, choice: Choice) -> None:
        before, self.choice = self.choice, choice
        if choice.why and (before is None or (before.mode, before.why) != (choice.mode, choice.why)):
            _LOG.warning("mode %s is wanted, mode %s is in force; %s", choice.wanted, choice.mode, choice.why)
        elif not choice.why and before is not None and (before.mode != choice.mode or before.why):
            _LOG.info("mode %s is in force, as the configuration says", choice.mode)
