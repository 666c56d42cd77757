"""Gathering problems while objects are read."""

from __future__ import annotations

import json
from typing import Final

from pointsman.model.problems import Problem

THE_FILE: Final = "the file's changes"
_LONGEST_VALUE: Final = 60


class Notes:
    """The problems of one source, each with the object that was being read when it came up.

    Attributes:
        source: file name or other origin.
        problems: what was noted so far.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._kind = self._namespace = self._name = ""
        self._place = ""

    def begin(self, kind: str, namespace: str, name: str, place: str = "") -> None:
        """Say which object is read from now on; `place` tells it where its name cannot."""
        self._kind, self._namespace, self._name, self._place = kind, namespace, name, place

    def note(self, field: str, message: str, remedy: str, dropped: str = "the object") -> None:
        """Note a problem of the object that is being read."""
        self.problems.append(Problem(self.source, self._object(), field, message, remedy, dropped))

    def note_file(self, message: str, remedy: str, *, place: str = "", dropped: str = THE_FILE) -> None:
        """Note a problem of the file, or of a part of it that is no object."""
        self.problems.append(Problem(self.source, place, "", message, remedy, dropped))

    def _object(self) -> str:
        if not self._name:
            return f"{self._kind} ({self._place})" if self._place else self._kind
        return f"{self._kind} {self._namespace}/{self._name}" if self._namespace else f"{self._kind} {self._name}"


def shown(value: object) -> str:
    """Write a value as JSON, cut to one short line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
