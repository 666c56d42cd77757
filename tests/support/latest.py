"""A thing that is dear to make, shared by the tests that follow one another and need the same."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

Thing = TypeVar("Thing")


class Latest(Generic[Thing]):
    """Keeps what was asked for last, and closes it when something else is asked for, or at its own end.

    A fixture of module scope would be made before the features that a test needs are checked; it can hold this, and
    the test makes the thing.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._kept: dict[Hashable, Thing] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def get(self, key: Hashable, make: Callable[[], AbstractContextManager[Thing]]) -> Thing:
        """Return what is known by `key`, made now if it is not what was asked for last."""
        if key not in self._kept:
            self._kept.clear()
            self._open.close()
            self._kept[key] = self._open.enter_context(make())
        return self._kept[key]
