"""What has been told of one resource, to compare a new list with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.sources.protocol import Change

if TYPE_CHECKING:
    from pointsman.model.objects import ObjectKey
    from pointsman.model.problems import Problem
    from pointsman.sources.apiserver.decode import Item

_MOST_NAMELESS: Final = 10
"""How many problems of objects without a name are kept until the next list."""


class Known:
    """The keys and resourceVersions that are known, and what is wrong with each object.

    An object that cannot be read keeps its last good form: nothing is told of it but the problem.
    """

    def __init__(self) -> None:
        self._versions: dict[ObjectKey, str] = {}
        self._wrong: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._nameless: tuple[Problem, ...] = ()
        self._problems: tuple[Problem, ...] | None = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong now."""
        if self._problems is None:
            self._problems = (*self._nameless, *(problem for found in self._wrong.values() for problem in found))
        return self._problems

    def begin(self) -> set[ObjectKey]:
        """Begin a list; return the set in which `put` notes what it has."""
        if self._nameless:
            self._nameless, self._problems = (), None
        return set()

    def put(self, item: Item, seen: set[ObjectKey] | None = None) -> tuple[Change, ...]:
        """Take an object; return what is new.

        Args:
            item: the object.
            seen: of the list that it comes in; None for a watch event.
        """
        key = item.key
        if key is None:
            self._nameless, self._problems = (*self._nameless, *item.problems)[:_MOST_NAMELESS], None
            return ()
        if seen is not None:
            seen.add(key)
            if item.version and self._versions.get(key) == item.version:
                return ()
        self._versions[key] = item.version
        self._note(key, item.problems)
        return () if item.obj is None else (Change(key, item.obj),)

    def remove(self, key: ObjectKey | None) -> tuple[Change, ...]:
        """Take the end of an object; return what is new."""
        if key is None or self._versions.pop(key, None) is None:
            return ()
        self._note(key, ())
        return (Change(key, None),)

    def end(self, seen: set[ObjectKey]) -> list[Change]:
        """End a list; return what it does not have any more."""
        gone = [key for key in self._versions if key not in seen]
        return [change for key in gone for change in self.remove(key)]

    def _note(self, key: ObjectKey, problems: tuple[Problem, ...]) -> None:
        if problems:
            self._wrong[key], self._problems = problems, None
        elif self._wrong.pop(key, None) is not None:
            self._problems = None
