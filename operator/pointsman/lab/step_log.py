"""Takes the steps of a tour, one after another."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pointsman.lab.namespaces import LabError
from pointsman.lab.steps import Found, Result, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.lab.steps import Watcher


class StepLog:
    """The steps that were taken.

    Attributes:
        steps: what came of each.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.steps: list[Step] = []
        self._watcher = watcher
        self._begun = time.monotonic()

    def take(self, title: str, does: str, act: Callable[[], Found]) -> bool:
        """Take one step; what goes wrong in it is what came of it.

        Returns:
            Whether it came out as it has to.

        Raises:
            LabError, OSError: the first step failed: the lab does not work here.
        """
        self._watcher.begin(len(self.steps) + 1, title, does)
        begun = time.monotonic()
        try:
            found = act()
        except (LabError, OSError) as error:
            if not self.steps:
                raise
            found = Found(good=False, says=str(error) or type(error).__name__)
        step = Step(title, does, found, time.monotonic() - begun)
        self.steps.append(step)
        self._watcher.end(step)
        return found.good

    def result(self) -> Result:
        """Sum up."""
        return Result(all(step.found.good for step in self.steps), tuple(self.steps), time.monotonic() - self._begun)
