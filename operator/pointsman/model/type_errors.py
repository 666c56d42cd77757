"""Saying a msgspec type error for the people who wrote the object: which field, which value, what to write."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pointsman.model.notes import shown

_ERROR: Final = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected `(?P<type>\w+)")
_STEP: Final = re.compile(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)")
_WORDS: Final = {
    "int": "a whole number",
    "str": "text (in quotes)",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}


class TypeProblem(NamedTuple):
    """Field, message and remedy of a wrong type."""

    field: str
    message: str
    remedy: str


def explain_type_error(error: str, plain: object) -> TypeProblem:
    """Turn the text of a msgspec.ValidationError into words.

    Args:
        error: the text, such as ``Expected `int`, got `str` - at `$.spec.ports[0].port` ``.
        plain: the whole object as plain data, to find the value in.
    """
    match = _ERROR.fullmatch(error)
    what, path = (match["what"], match["path"] or "") if match else (error, "")
    field, value = _look_up(path, plain)
    expected = _EXPECTED.match(what)
    word = _WORDS.get(expected["type"]) if expected else None
    if word is None:
        return TypeProblem(field, f"{shown(value)}: {what}", "correct the field")
    return TypeProblem(field, f"{shown(value)} is not {word}", _remedy(field, value, word))


def _remedy(field: str, value: object, word: str) -> str:
    """Spell out the value of a label or annotation, where YAML makes a number of what has no quotes."""
    if field.startswith("metadata.") and word == _WORDS["str"] and isinstance(value, bool | int | float):
        return f'write "{shown(value)}"'
    return f"write {word}"


def _look_up(path: str, plain: object) -> tuple[str, object]:
    """Follow a msgspec path; ``[...]`` is some key of a mapping: the first with a value that is no text."""
    field, value = "", plain
    while path:
        path = path.removeprefix(".")
        if isinstance(value, dict) and (dotted := _dotted_key(path, value)):
            return f"{field}[{dotted}]", value[dotted]
        step = _STEP.match(path)
        if step is None:
            break
        path = path[step.end() :]
        index, key = step.groups(default="")
        if index == "..." and isinstance(value, dict):
            wrong = next((k for k, v in value.items() if not (isinstance(k, str) and isinstance(v, str))), None)
            field, value = f"{field}[{wrong}]", value.get(wrong)
        elif index.isdigit() and isinstance(value, list) and int(index) < len(value):
            field, value = f"{field}[{index}]", value[int(index)]
        elif key:
            field = f"{field}.{key}" if field else key
            value = value.get(key) if isinstance(value, dict) else None
    return field, value


def _dotted_key(path: str, mapping: dict[object, object]) -> str:
    """Return the rest of a path if it is one key with dots in it, as those of labels and annotations; else ""."""
    return path if "." in path and path in mapping else ""
