"""Structural schemas (as the API server wants them) from our typed model.

What pydantic says of a model is rewritten: no references, no alternatives with null, descriptions as plain text, a
list type on every list. See
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.resource import Part

Schema = dict[str, Any]

LIST_TYPE: Final = "x-kubernetes-list-type"
_KEPT: Final = (
    "type", "format", "enum", "pattern", "minimum", "maximum", "maxLength", "minLength", "maxItems", "required",
)  # fmt: skip
_OWN: Final = ("x-type", "x-allowed")
"""Keys for people; `pointsman.api.values` sets them."""


def structural(part: type[Part], *, defaults: bool) -> Schema:
    """Return the schema of a part of a resource.

    Args:
        part: the typed model.
        defaults: write defaults, so that the API server fills them in. A status has none: what nobody has said about
            a node is not known. Empty lists, and fields whose absence means something, have none in any case.
    """
    schema = part.model_json_schema(mode="serialization")
    return _Rewriting(schema.get("$defs", {}), defaults=defaults).rewrite(schema)


class _Rewriting:
    def __init__(self, parts: Mapping[str, Schema], *, defaults: bool) -> None:
        self._parts = parts
        self._defaults = defaults

    def rewrite(self, schema: Schema) -> Schema:
        schema = self._resolved(schema)
        written: Schema = {}
        if description := self._description(schema):
            written["description"] = description
        written |= {key: schema[key] for key in _KEPT if key in schema}
        if self._defaults and schema.get("x-type") == "word":
            written.pop("pattern", None)  # the API server has a rule, which says the same in words
        written |= {key: value for key, value in schema.items() if key.startswith("x-") and key not in _OWN}
        if schema.get("type") == "integer":
            written["format"] = "int32" if "maximum" in schema else "int64"
        if "properties" in schema:
            written["properties"] = {name: self.rewrite(field) for name, field in schema["properties"].items()}
        if isinstance(schema.get("additionalProperties"), dict):
            written["additionalProperties"] = self.rewrite(schema["additionalProperties"])
        if "items" in schema:
            written["items"] = self.rewrite(schema["items"])
            written.setdefault(LIST_TYPE, "atomic")
        if self._defaults and (default := self._default(schema, written)) is not None:
            written["default"] = default
        return written

    def _resolved(self, schema: Schema) -> Schema:
        """Follow a reference, and leave out the alternative null; what is said beside it wins."""
        beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
        if "anyOf" in schema:
            (schema,) = (option for option in schema["anyOf"] if option.get("type") != "null")
            return self._resolved({**schema, **beside})
        if "$ref" in schema:
            return {**self._parts[schema["$ref"].rpartition("/")[2]], **beside}
        return schema

    def _default(self, schema: Schema, written: Schema) -> object:
        """Return what the API server is to fill in, or None for nothing."""
        if written.get("type") == "array":
            return None
        if written.get("type") == "object":
            inner = written.get("properties", {}).values()
            return {} if "default" in schema and any("default" in field for field in inner) else None
        return schema.get("default")

    def _description(self, schema: Schema) -> str:
        """Say in plain text what a field is for, what may be written, and what holds if nothing is."""
        text = plain_text(schema.get("description", ""))
        items = self._resolved(schema["items"]) if "items" in schema else {}
        if allowed := schema.get("x-allowed") or items.get("x-allowed"):
            each = "Allowed in each entry: " if items else "Allowed: "
            text += f" {each}{plain_text(allowed)}."
        default = schema.get("default")
        if self._defaults and default not in (None, "") and not isinstance(default, dict | list):
            text += f" Default: {str(default).lower() if isinstance(default, bool) else default}."
        return text.strip()


def plain_text(text: str) -> str:
    """Write a docstring for `kubectl explain`: on one line a paragraph, words of the resource in quotes."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return re.sub(r"`+([^`]*)`+", r'"\1"', "\n\n".join(paragraphs))
