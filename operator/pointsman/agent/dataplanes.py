"""The dataplanes of a node: which one is in force, which ones drain, and what others left in the kernel."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pointsman.agent.low_files import LowFiles
from pointsman.agent.modes import why_not_installed
from pointsman.dataplane.protocol import DataplaneError, Support
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.model.plan import Answer, Frontend

_LOG: Final = logging.getLogger(__name__)


class Dataplanes:
    """Opens and closes dataplanes; used by one thread.

    A mode that was in force retires when another one has the plan (`tidy`): it decides about nothing any more, and
    drains, as long as connections need it. `tend` ends it then, or when its time is over.

    Args:
        openers: by mode; a mode that is not there is not installed.
        traces: tells whether a mode may have left something in the kernel that no agent tends any more; cheap, and
            without effect on the kernel.
        monotonic: seconds.

    Attributes:
        mode: of the one in force, or None before the first.
        is_adopted: the one in force is the one that took the plan (`put_in_force`), not a new one in its place.
        ended: modes that carry nothing any more, since `take_ended` was called last.
    """

    def __init__(
        self,
        openers: Mapping[Mode, Callable[[], Dataplane]],
        traces: Callable[[Mode], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._openers = openers
        self._traces = traces
        self._monotonic = monotonic
        self._low_files = LowFiles()
        self._open: dict[Mode, Dataplane] = {}
        # Modes that have to go: those that were in force, those that may have been before this agent started, and
        # those that were to come in force and failed.
        self._left: set[Mode] = set()
        self._suspected: set[Mode] = set()
        self._failed: set[Mode] = set()
        self._deadlines: dict[Mode, float] = {}
        self._draining: dict[Mode, int] = {}
        self.ended: set[Mode] = set()
        self.mode: Mode | None = None
        self.is_adopted = False

    @property
    def in_force(self) -> Dataplane | None:
        """The dataplane in force, or None before the first."""
        return self._open[self.mode] if self.mode is not None else None

    @property
    def is_tidy(self) -> bool:
        """Whether nothing is left in the kernel of modes that are neither in force nor draining."""
        return not (self._left or self._suspected or self._failed)

    @property
    def draining(self) -> Mapping[Mode, int]:
        """Modes that drain, each with the number of connections that it had when it retired."""
        return dict(self._draining)

    @property
    def installed(self) -> tuple[Mode, ...]:
        """Modes that can be opened, or can be tried at least."""
        return tuple(self._openers)

    def serves(self, mode: Mode) -> bool:
        """Tell whether connections of a mode are served: it is in force, drains, or could not be made to retire yet."""
        return mode == self.mode or mode in self._draining or (mode in self._left and mode in self._open)

    def own_endpoints(self) -> dict[Frontend, frozenset[tuple[str, int]]]:
        """Return what answers in place of a frontend's backends, in all modes that serve connections."""
        found: dict[Frontend, frozenset[tuple[str, int]]] = {}
        for dataplane in self._open.values():
            for frontend, endpoints in dataplane.own_endpoints().items():
                found[frontend] = found.get(frontend, frozenset()) | endpoints
        return found

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> tuple[Problem, ...]:
        """Have the connections of modes that are not in force any more heed what changed.

        Args:
            changes: frontends with their new answer; None for one that is gone.

        Returns:
            A problem for each mode that can't.
        """
        modes = [mode for mode in self._open if mode != self.mode and self.serves(mode)]
        return tuple(problem for mode in modes if (problem := self._follow(mode, changes)) is not None)

    def support(self, mode: Mode) -> Support:
        """Ask the kernel what it can do in a mode; one that it supports is open afterwards."""
        if mode not in self._openers:
            return Support(available=False, reason=why_not_installed(mode))
        if mode == self.mode:
            return self._ask_anew(mode)
        found = self._ask(mode)
        if not found.available:
            self._close_candidate(mode)
        return found

    def open(self, mode: Mode) -> Dataplane:
        """Return the dataplane of a mode, opened if it is not yet.

        Raises:
            DataplaneError, OSError: it cannot be opened.
        """
        if mode not in self._open:
            with self._low_files.freed():
                self._open[mode] = self._openers[mode]()
        return self._open[mode]

    def put_in_force(self, mode: Mode) -> None:
        """Remember that the kernel holds the plan in this mode: others may retire (`tidy`)."""
        if self.mode is None:
            self._suspected = {other for other in self._openers if other != mode and self._traces(other)}
        elif self.mode != mode:
            self._left.add(self.mode)
        self._forget(mode)
        self.mode, self.is_adopted = mode, True

    def give_up(self, mode: Mode) -> None:
        """Remember that a mode that was to come in force may have written something before it failed."""
        # What drained before goes on to drain.
        (self._left if mode in self._draining else self._failed).add(mode)

    def tidy(self, limit: float) -> tuple[Problem, ...]:
        """Let modes retire that are not in force, and close what is open for a question alone.

        Args:
            limit: seconds for which they may drain.

        Returns:
            A problem for each mode that does not; it is tried again by the next call.
        """
        modes = sorted(self._left | self._suspected | self._failed)
        problems = tuple(problem for mode in modes if (problem := self._retire(mode, limit)) is not None)
        for mode in list(self._open):
            self._close_candidate(mode)
        return problems

    def tend(self) -> tuple[Problem, ...]:
        """Let modes that drain do what is due by time, and end those that are through; cheap when none is.

        Returns:
            A problem for each one that can't be looked after.
        """
        self._low_files.refill()
        problems = (self._tend(mode, self._deadlines[mode]) for mode in tuple(self._draining))
        return tuple(problem for problem in problems if problem is not None)

    def take_ended(self) -> frozenset[Mode]:
        """Return the modes that carry nothing any more since the last call."""
        ended, self.ended = frozenset(self.ended), set()
        return ended

    def clean_up(self) -> None:
        """Remove what every mode has in the kernel, with all that it carries.

        Raises:
            DataplaneError: something stays.
        """
        dataplane = self.in_force
        if dataplane is not None:
            dataplane.cleanup()
        known = self._left | self._failed | self._draining.keys()
        self._suspected |= {mode for mode in self._openers if mode != self.mode and self._traces(mode)} - known
        problems = [problem for mode in sorted(known | self._suspected) if (problem := self._remove(mode)) is not None]
        if problems:
            raise DataplaneError("; ".join(problem.message for problem in problems))

    def close(self) -> None:
        """Release what is open; the kernel keeps what it holds."""
        self.mode = None
        self._left.clear()
        self._draining.clear()
        for mode in list(self._open):
            self._close_candidate(mode)
        self._low_files.close()

    def _follow(self, mode: Mode, changes: Mapping[Frontend, Answer | None]) -> Problem | None:
        try:
            self._open[mode].follow(changes)
        except (DataplaneError, OSError) as error:
            return _unserved(mode, error)
        return None

    def _ask(self, mode: Mode) -> Support:
        try:
            return self.open(mode).support()
        except (DataplaneError, OSError) as error:
            return Support(available=False, reason=str(error) or type(error).__name__)

    def _ask_anew(self, mode: Mode) -> Support:
        """Ask by new sockets; they take the place of the old ones if those are of no use any more.

        A kernel module that was unloaded and loaded is another one to the old ones; and they tell what they know.
        """
        old = self._open.pop(mode)
        found = self._ask(mode)
        if found.available and not _works(old):
            _close(old)
            self.is_adopted = False
            return found
        new = self._open.pop(mode, None)
        self._open[mode] = old
        if new is not None:
            _close(new)
        return found

    def _retire(self, mode: Mode, limit: float) -> Problem | None:
        # Not later than the dataplane's own limit, so that what is ended is counted before.
        deadline = self._monotonic() + limit
        try:
            carried = self._give_way(mode, limit)
        except (DataplaneError, OSError) as error:
            return self._why_left(mode, error)
        self._forget(mode)
        if carried:
            self._draining[mode], self._deadlines[mode] = carried, deadline
            _LOG.info("mode %s serves the %d connections that it has, for %g s at the most", mode, carried, limit)
        else:
            self.ended.add(mode)
        return None

    def _give_way(self, mode: Mode, limit: float) -> int:
        """Let a mode retire, and remove what it has if it carries nothing; return how much it carries."""
        dataplane = self.open(mode)
        try:
            dataplane.retire(limit)
            carried = dataplane.carried()
        except (DataplaneError, OSError):
            if mode not in self._failed:
                raise
            # It was never in force; what it wrote half-way must not decide instead of the mode that is.
            self._close(mode)
            dataplane, carried = self.open(mode), 0
        if not carried:
            dataplane.cleanup()
        return carried

    def _tend(self, mode: Mode, deadline: float) -> Problem | None:
        dataplane = self._open[mode]
        is_over = self._monotonic() >= deadline
        try:
            if not is_over:
                dataplane.tend()
            carried = dataplane.carried()
            if carried and not is_over:
                return None
            dataplane.cleanup()
        except (DataplaneError, OSError) as error:
            if self._monotonic() < deadline and _works(dataplane):
                return _unserved(mode, error)
            self._forget(mode)
            self._left.add(mode)
            return self._why_left(mode, error)
        self._forget(mode)
        self._close_candidate(mode)
        self.ended.add(mode)
        _LOG.info("mode %s is through; %d of its connections were ended", mode, carried)
        return None

    def _remove(self, mode: Mode) -> Problem | None:
        try:
            self.open(mode).cleanup()
        except (DataplaneError, OSError) as error:
            return self._why_left(mode, error)
        self._forget(mode)
        self._close_candidate(mode)
        return None

    def _why_left(self, mode: Mode, error: Exception) -> Problem | None:
        """Tell that something of a mode stays, unless nobody knows that it was ever there, and it can't be."""
        works = mode in self._open and _works(self._open[mode])
        if not works:
            # Its sockets are of no use any more, nor are they to connections.
            self._close(mode)
            self.ended.add(mode)
            if mode in self._suspected and not self.support(mode).available:
                self._suspected.discard(mode)
                return None
        return Problem(
            source="kernel",
            object="",
            field="",
            message=f"what mode {mode} left in the kernel could not be removed ({error})",
            remedy="it is tried again each spec.syncPeriod; `pointsman cleanup` on the node removes everything",
            dropped="nothing",
        )

    def _forget(self, mode: Mode) -> None:
        for modes in (self._left, self._suspected, self._failed):
            modes.discard(mode)
        self._draining.pop(mode, None)
        self._deadlines.pop(mode, None)

    def _close_candidate(self, mode: Mode) -> None:
        """Close the dataplane of a mode, unless it serves connections."""
        if not self.serves(mode):
            self._close(mode)

    def _close(self, mode: Mode) -> None:
        if mode in self._open:
            _close(self._open.pop(mode))


def _works(dataplane: Dataplane) -> bool:
    try:
        return dataplane.support().available
    except (DataplaneError, OSError):
        return False


def _unserved(mode: Mode, error: Exception) -> Problem:
    return Problem(
        source="kernel",
        object="",
        field="",
        message=f"connections that mode {mode} still has could not be looked after ({error})",
        remedy="it is tried again all the time; new connections are not concerned",
        dropped="nothing",
    )


def _close(dataplane: Dataplane) -> None:
    try:
        dataplane.close()
    except OSError as error:
        _LOG.debug("a dataplane of mode %s cannot be closed: %s", dataplane.mode, error)
