"""`values.schema.json` from the typed values: what Helm refuses, by name, before it renders anything.

JSON Schema draft 7 without references, as every Helm of today reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pointsman.api.chart_values import Values
from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.api.schema import plain_text, structural

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_DROPPED: Final = ("title", "default", "$defs")
_CONSTRAINTS: Final = {"enum", "minimum", "minLength", "pattern", "anyOf"}
_SUBCHART: Final = {
    "global": {"type": "object", "description": "What a chart around this one shares with its charts; not used."},
    "enabled": {"type": "boolean", "description": "For the `condition` of a chart around this one; not used."},
}
"""What Helm or a chart around this one may put beside our values."""


def schema_file() -> str:
    """Return the text of `values.schema.json`."""
    return json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n"


def values_schema() -> Schema:
    """Return the schema as plain data."""
    described = Values.model_json_schema(mode="validation")
    schema = _inlined(described, described.get("$defs", {}))
    spec = schema["properties"]["proxyConfig"]["properties"]["spec"]
    schema["properties"]["proxyConfig"]["properties"]["spec"] = {
        **_closed(structural(ProxyConfigSpec, defaults=False)),
        "description": spec["description"],
    }
    schema["properties"] |= _SUBCHART
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart pointsman", **schema}


def _inlined(node: Schema, parts: Mapping[str, Schema]) -> Schema:
    """Put what is referred to in the place of the reference; a default is in `values.yaml`."""
    if "$ref" in node:
        node = {**parts[node["$ref"].rpartition("/")[2]], **{key: node[key] for key in node if key != "$ref"}}
    written = {key: _inlined_value(key, value, parts) for key, value in node.items() if key not in _DROPPED}
    needed = [name for name, field in node.get("properties", {}).items() if _is_needed(field)]
    return {**written, "required": needed} if needed else written


def _is_needed(field: Schema) -> bool:
    """Tell whether templates cannot do without: null takes a value away, and its default with it."""
    if "$ref" in field:
        return not field["$ref"].endswith("/Resources")
    return field.get("default", "") != "" and not _CONSTRAINTS.isdisjoint(field)


def _inlined_value(key: str, value: Any, parts: Mapping[str, Schema]) -> Any:  # noqa: ANN401 (whatever a schema has)
    match key:
        case "properties":
            return {name: _inlined(field, parts) for name, field in value.items()}
        case "anyOf":
            return [_inlined(option, parts) for option in value]
        case "items" | "additionalProperties" if isinstance(value, dict):
            return _inlined(value, parts)
        case "description":
            return plain_text(value)
        case _:
            return value


def _closed(node: Schema) -> Schema:
    """Rewrite a schema of the API server's for Helm: no rules, and no field that is not there."""
    written = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if "x-kubernetes-int-or-string" in node:
        written["type"] = ["integer", "string"]
    if "properties" in node:
        needed = node.get("required", ())
        written["properties"] = {
            name: _closed(field) if name in needed else _nullable(_closed(field))
            for name, field in node["properties"].items()
        }
        written["additionalProperties"] = False
    if "items" in node:
        written["items"] = _closed(node["items"])
    return written


def _nullable(node: Schema) -> Schema:
    """Let a field be null, which is as good as absent; so it is unset on a command line."""
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    choices = {"enum": [*node["enum"], None]} if "enum" in node else {}
    return {**node, "type": [*kinds, "null"], **choices}
