"""The dataplanes of a node: what each one supports, which one is in force, and what the others left in the kernel."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.protocol import DataplaneError, Support
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane

_LOG: Final = logging.getLogger(__name__)


class Dataplanes:
    """Opens and closes dataplanes; used by one thread.

    Args:
        openers: by mode; a mode that is not there is not in this release.
        traces: tells whether a mode may have left something in the kernel that no agent tends any more; cheap, and
            without effect on the kernel.

    Attributes:
        mode: of the one in force, or None before the first.
        is_adopted: the one in force is the one that took the plan (`put_in_force`), not a new one in its place.
    """

    def __init__(self, openers: Mapping[Mode, Callable[[], Dataplane]], traces: Callable[[Mode], bool]) -> None:
        self._openers = openers
        self._traces = traces
        self._open: dict[Mode, Dataplane] = {}
        self._left: set[Mode] = set()
        self._suspected: set[Mode] = set()
        self.mode: Mode | None = None
        self.is_adopted = False

    @property
    def in_force(self) -> Dataplane | None:
        """The dataplane in force, or None before the first."""
        return self._open[self.mode] if self.mode is not None else None

    @property
    def is_tidy(self) -> bool:
        """Whether nothing is left in the kernel of modes that are not in force."""
        return not (self._left or self._suspected)

    def support(self, mode: Mode) -> Support:
        """Ask the kernel what it can do in a mode; one that it supports is open afterwards."""
        if mode not in self._openers:
            return Support(available=False, reason="it is not in this release yet")
        if mode == self.mode:
            return self._ask_anew(mode)
        found = self._ask(mode)
        if not found.available:
            self.close_candidate(mode)
        return found

    def open(self, mode: Mode) -> Dataplane:
        """Return the dataplane of a mode, opened if it is not yet.

        Raises:
            DataplaneError, OSError: it cannot be opened.
        """
        if mode not in self._open:
            self._open[mode] = self._openers[mode]()
        return self._open[mode]

    def put_in_force(self, mode: Mode) -> None:
        """Remember that the kernel holds the plan in this mode: what others left may go (`tidy`)."""
        if self.mode is None:
            self._suspected = {other for other in self._openers if other != mode and self._traces(other)}
        elif self.mode != mode:
            self._left.add(self.mode)
        self._left.discard(mode)
        self._suspected.discard(mode)
        self.mode, self.is_adopted = mode, True

    def suspect(self, mode: Mode) -> None:
        """Remember that a mode that is not in force may have written something before it failed."""
        self._suspected.add(mode)

    def tidy(self) -> tuple[Problem, ...]:
        """Remove what modes that are not in force left in the kernel, and close what is open for a question alone.

        Returns:
            A problem for each mode of which something stays; it is tried again by the next call.
        """
        modes = sorted(self._left | self._suspected)
        problems = tuple(problem for mode in modes if (problem := self._remove(mode)) is not None)
        for mode in list(self._open):
            self.close_candidate(mode)
        return problems

    def clean_up(self) -> None:
        """Remove what every mode left in the kernel, the one in force included.

        Raises:
            DataplaneError: something stays.
        """
        dataplane = self.in_force
        if dataplane is not None:
            dataplane.cleanup()
        self._suspected |= {mode for mode in self._openers if mode != self.mode and self._traces(mode)}
        problems = self.tidy()
        if problems:
            raise DataplaneError("; ".join(problem.message for problem in problems))

    def close(self) -> None:
        """Release what is open; the kernel keeps what it holds."""
        self.mode = None
        for mode in list(self._open):
            self.close_candidate(mode)

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

    def _remove(self, mode: Mode) -> Problem | None:
        try:
            self.open(mode).cleanup()
        except (DataplaneError, OSError) as error:
            # Nobody knows that it was ever in force here; where it cannot be, it was not.
            is_known = mode in self._left or self.support(mode).available
            self.close_candidate(mode)
            if not is_known:
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
        self._left.discard(mode)
        self._suspected.discard(mode)
        return None

    def close_candidate(self, mode: Mode) -> None:
        """Close the dataplane of a mode, unless it is in force."""
        if mode != self.mode and mode in self._open:
            _close(self._open.pop(mode))


def _works(dataplane: Dataplane) -> bool:
    try:
        return dataplane.support().available
    except (DataplaneError, OSError):
        return False


def _close(dataplane: Dataplane) -> None:
    try:
        dataplane.close()
    except OSError as error:
        _LOG.debug("a dataplane of mode %s cannot be closed: %s", dataplane.mode, error)
