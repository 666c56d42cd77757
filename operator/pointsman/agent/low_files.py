"""Keeps some low file numbers free for those who can't use others.

libnftables waits for the kernel by select(2), which knows files below 1024 alone; with a higher one glibc ends the
whole process. A proxy in this process has a file for each connection, so that a dataplane that is opened later, as for
a change of the mode, would get such a number.
"""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FD_SETSIZE: Final = 1024
_COUNT: Final = 128
_AT_ONCE: Final = 32
"""So many are given back at a time: a dataplane opens fewer than ten, and other threads open files meanwhile."""


class LowFiles:
    """Holds files with low numbers until somebody needs them; made while the process has few."""

    def __init__(self, count: int = _COUNT) -> None:
        """Take them.

        Args:
            count: how many.
        """
        self._count = count
        self._held: list[int] = []
        # Many that are forgotten would take the very numbers that they are to keep free.
        weakref.finalize(self, _close, self._held)
        self.refill()

    @contextmanager
    def freed(self) -> Iterator[None]:
        """Let the next files that are opened have some; what is left of them is taken again."""
        for number in self._held[-_AT_ONCE:]:
            os.close(number)
        del self._held[-_AT_ONCE:]
        try:
            yield
        finally:
            self.refill()

    def close(self) -> None:
        """Give them back."""
        _close(self._held)

    def refill(self) -> None:
        """Take what is missing, as far as there are any; cheap when nothing is."""
        try:
            while len(self._held) < self._count:
                number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                if number >= FD_SETSIZE:
                    os.close(number)
                    return
                self._held.append(number)
        except OSError:
            return


def _close(numbers: list[int]) -> None:
    while numbers:
        os.close(numbers.pop())
