"""What is wrong with an object, in the API server's own words (k8s.io/apimachinery, `util/validation/field`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_VALUE: Final = 200
"""Characters of a value that are repeated; an annotation may be 256 KiB long."""


class Cause(NamedTuple):
    """One `metav1.StatusCause`.

    Attributes:
        field: path in the object.
        message: what is wrong, with the value.
        reason: the kind of error, for programs (`metav1.CauseType`).
    """

    field: str
    message: str
    reason: str

    def __str__(self) -> str:
        """Write it as the API server and kubectl do."""
        return f"{self.field}: {self.message}"


class Verdict(NamedTuple):
    """What the rules say of an object: refused if there is a cause, else admitted."""

    causes: tuple[Cause, ...] = ()
    warnings: tuple[str, ...] = ()


def invalid(field: str, value: object, detail: str) -> Cause:
    """Refuse a value."""
    return Cause(field, f"Invalid value: {shown(value)}: {detail}", "FieldValueInvalid")


def duplicate(field: str, value: object) -> Cause:
    """Refuse a value that has to be unique, and is not."""
    return Cause(field, f"Duplicate value: {shown(value)}", "FieldValueDuplicate")


def required(field: str, detail: str) -> Cause:
    """Refuse a field's absence."""
    return Cause(field, f"Required value: {detail}", "FieldValueRequired")


def not_supported(field: str, value: str, supported: Iterable[str]) -> Cause:
    """Refuse a word that is none of those that are known."""
    words = ", ".join(json.dumps(word) for word in supported)
    return Cause(field, f"Unsupported value: {shown(value)}: supported values: {words}", "FieldValueNotSupported")


def shown(value: object) -> str:
    """Write a value as the API server does, cut where it would flood a terminal."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if text.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
