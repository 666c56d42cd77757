"""Validation errors, said for the people who wrote the resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_ALLOWED: Final = {
    "bool": "true or false",
    "dict": "a mapping",
    "int": "a whole number",
    "model": "a mapping",
    "string": "text",
    "tuple": "a list",
}
_BOUNDS: Final = {
    "ge": "a whole number of {} or more",
    "le": "a whole number of {} at most",
    "max_length": "{} characters or entries at most",
}


class FieldProblem(NamedTuple):
    """One field that cannot stay as it is.

    Attributes:
        field: path in the object, as users write it (``spec.ipvs.excludeCIDRs[0]``).
        message: what is wrong, with the value.
        allowed: what may be written there.
    """

    field: str
    message: str
    allowed: str

    def __str__(self) -> str:
        """Write it on one line."""
        return f"{self.field}: {self.message}; allowed: {self.allowed}"


def validation_problems(error: ValidationError) -> list[FieldProblem]:
    """Say what a validation error of one of our resources means, one problem a field, in the fields' order."""
    return [
        FieldProblem(_path(detail), _message(detail), _allowed(detail)) for detail in error.errors(include_url=False)
    ]


def _path(detail: ErrorDetails) -> str:
    path = ""
    inside = detail.get("ctx", {}).get("field")
    for step in (*detail["loc"], inside) if inside else detail["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    # `name` is lifted out of metadata when the resource is read.
    return "metadata.name" if path == ".name" else path.removeprefix(".")


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "is missing"
    context = detail.get("ctx", {})
    # What a validator of a whole part refuses is one of its fields, and it says which value that has.
    value = context["value"] if context.get("field") else _short(detail["input"])
    return f"{value} is not allowed"


def _allowed(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if "allowed" in context:
        return str(context["allowed"])
    if "expected" in context:
        return str(context["expected"]).replace("'", "")
    if detail["type"] == "missing":
        return "a value"
    for bound, words in _BOUNDS.items():
        if bound in context:
            return words.format(context[bound])
    kind = detail["type"].removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    return _ALLOWED.get(kind, detail["msg"])


def _short(value: Any) -> str:  # noqa: ANN401 -- whatever the user wrote
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 -- fits one line beside the path
