"""How every part of a custom resource is typed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITTEN: Final = {"cidrs": "CIDRs", "arp": "ARP"}
"""Words that Kubernetes does not write in camel case."""


def field_name(name: str) -> str:
    """Turn ``pod_cidrs`` into ``podCIDRs``: the name that users write."""
    first, *rest = name.split("_")
    return first + "".join(_WRITTEN.get(word, word.capitalize()) for word in rest)


class Part(BaseModel):
    """A part of a resource: immutable, unknown fields ignored, camelCase in documents, snake_case in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=field_name,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


_Resource = TypeVar("_Resource", bound=Part)


def read_document(resource: type[_Resource], document: object) -> _Resource:
    """Read an object as the API server or a manifest has it.

    Args:
        resource: what it should be.
        document: plain data as a JSON or YAML reader gives it. Types are not converted; a null is as good as absent.

    Returns:
        The object, without those fields of its `status` that are wrong: anyone who may write a status could otherwise
        take the configuration away, and a newer release may write what this one does not know.

    Raises:
        pydantic.ValidationError: what is wrong outside of `status`.
    """
    plain = without_nulls(document)
    try:
        return resource.model_validate_json(to_json(plain), strict=True)
    except ValidationError as error:
        places = [detail["loc"] for detail in error.errors()]
        odd = {place[1:2] for place in places if place[:1] == ("status",)}
        if not odd or not isinstance(plain, dict):
            raise
        return resource.model_validate_json(to_json(_without_odd_status(plain, odd)), strict=True)


def _without_odd_status(plain: dict[str, object], odd: set[tuple[int | str, ...]]) -> dict[str, object]:
    status = plain["status"]
    if isinstance(status, dict):
        return {**plain, "status": {name: value for name, value in status.items() if (name,) not in odd}}
    return {name: value for name, value in plain.items() if name != "status"}


class UnknownField(NamedTuple):
    """A field that is written and means nothing: it is misspelt, or of another release.

    Attributes:
        path: as users write it (``spec.ipvs.strictARp``).
        nearest: what it may have been meant to be, or "".
    """

    path: str
    nearest: str


def unknown_fields(part: type[Part], plain: object, path: str) -> Iterator[UnknownField]:
    """Yield the fields of plain data that a part does not have, those of its own parts among them.

    Args:
        part: what the data was read as.
        plain: the data.
        path: of the part in its object.
    """
    if not isinstance(plain, dict):
        return
    fields = {field.alias or name: field.annotation for name, field in part.model_fields.items()}
    for name, value in plain.items():
        if name not in fields:
            yield UnknownField(f"{path}.{name}", next(iter(get_close_matches(name, fields, 1)), ""))
        elif (inner := _part_in(fields[name])) is not None:
            entries = {f"[{at}]": entry for at, entry in enumerate(value)} if isinstance(value, list) else {"": value}
            for at, entry in entries.items():
                yield from unknown_fields(inner, entry, f"{path}.{name}{at}")


def _part_in(annotation: Any) -> type[Part] | None:  # noqa: ANN401 - any type
    """Return the part that a field, or each of its entries, is; None for one that is none."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next(filter(None, map(_part_in, get_args(annotation))), None)


def without_nulls(value: object) -> object:
    """Leave out the fields of plain data that are null: to Kubernetes they are absent."""
    match value:
        case dict():
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value
