"""Which file says what about which object, when several may say something.

Kubernetes knows each object once; files may repeat it. One of them has to win, and always the same one, however the
files were read: the first in the order of the file names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.model.problems import Problem
from pointsman.sources.file_names import shown
from pointsman.sources.protocol import Change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.objects import ObjectKey
    from pointsman.model.parse import Object


class Claims:
    """The objects of all files, each with its winner."""

    def __init__(self) -> None:
        self._objects: dict[str, Mapping[ObjectKey, Object]] = {}
        self._files: dict[ObjectKey, tuple[str, ...]] = {}
        self._contested: set[ObjectKey] = set()

    def of(self, file: str) -> Mapping[ObjectKey, Object]:
        """Return what a file says; empty for a file that is not known."""
        return self._objects.get(file, {})

    def replace(self, file: str, objects: Mapping[ObjectKey, Object]) -> list[Change]:
        """Let a file say something else; `objects` is empty when the file is gone.

        Returns:
            What changed for a reader who sees each object once: nothing where another file wins before and after,
            nothing where the object is equal to what it was.
        """
        old = self.of(file)
        before = {key: self._winner(key) for key in (*old, *objects)}
        self._objects[file] = objects
        alone = (file,)  # one tuple for all keys of the file, as most objects are in one file
        for key in old.keys() - objects.keys():
            self._claim(key, tuple(name for name in self._files[key] if name != file))
        for key in objects.keys() - old.keys():
            others = self._files.get(key)
            self._claim(key, tuple(sorted((*others, file))) if others else alone)
        if not objects:
            del self._objects[file]
        return [Change(key, now) for key, was in before.items() if (now := self._winner(key)) != was]

    def conflicts(self) -> list[Problem]:
        """Tell of every object that more than one file has."""
        return [_conflict(key, self._files[key]) for key in sorted(self._contested)]

    def _winner(self, key: ObjectKey) -> Object | None:
        files = self._files.get(key)
        return self._objects[files[0]].get(key) if files else None

    def _claim(self, key: ObjectKey, files: tuple[str, ...]) -> None:
        if files:
            self._files[key] = files
        else:
            del self._files[key]
        if len(files) > 1:
            self._contested.add(key)
        else:
            self._contested.discard(key)


def _conflict(key: ObjectKey, files: tuple[str, ...]) -> Problem:
    winner, *others = map(shown, files)
    return Problem(
        source=winner,
        object=str(key),
        field="",
        message=f"also in {', '.join(others)}; {winner} is first in the order of file names and is in force",
        remedy="keep the object in one file",
        dropped=f"the object as {', '.join(others)} has it",
    )
