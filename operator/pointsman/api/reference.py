"""Writes `docs/configuration.md` from the typed model: ``python -m pointsman.api.reference [--write [FILE]]``.

A tool for those who change the model; nothing imports it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pointsman.api.labels import LabelSelector, Requirement
from pointsman.api.names import API_VERSION, MAX_WEIGHT, MODES, SCHEDULER_ANNOTATION, WEIGHT_ANNOTATION
from pointsman.api.proxyconfig import Conntrack, Iptables, Ipvs, NamespaceRange, ProxyConfigSpec, Rollout
from pointsman.api.reference_example import EXAMPLE
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pointsman.api.resource import Part

PAGE: Final = Path("docs/configuration.md")


class Section(NamedTuple):
    """One table of the page."""

    title: str
    text: str
    part: type[Part]


SECTIONS: Final = (
    Section("`spec`", "Every field has a default: `spec: {}` is a good configuration.", ProxyConfigSpec),
    Section("`spec.nodePortRanges[]`", "", NamespaceRange),
    Section("`spec.ipvs`", "", Ipvs),
    Section("`spec.iptables`", "", Iptables),
    Section("`spec.conntrack`", "Fields that are absent leave the kernel's values alone.", Conntrack),
    Section("`spec.rollout`", "", Rollout),
    Section(
        "Selectors",
        "`spec.nodeSelector` and `namespaceSelector` are selectors as everywhere in Kubernetes "
        "(`metav1.LabelSelector`). An object has to meet everything that a selector says.",
        LabelSelector,
    ),
    Section("`matchExpressions[]`", "", Requirement),
)
"""The page's tables, in its order."""

_HEAD: Final = f"""\
<!-- Made by `python -m pointsman.api.reference --write` from operator/pointsman/api; edit there. -->

# Configuration

A `ProxyConfig` (`apiVersion: {API_VERSION}`, cluster-scoped, short name `pxc`) says how nodes proxy Services.
Without one, all the defaults below hold.

- **Which one a node gets.** Of those whose `nodeSelector` matches the node's labels, the one with the highest
  `priority`; among equals, the first by name.
- **Durations** are text with a unit, as everywhere in Kubernetes: `30s`, `50ms`, `1h30m`. **Networks** are CIDRs of
  either IP family. A field that is null counts as absent; unknown fields are ignored.
- **In this release** the agent runs the mode `nftables`. What belongs to other modes, and `rollout`, is checked and has
  no effect yet.
- **A wrong value** is reported with the field, the value and what is allowed, and leaves out this ProxyConfig.

## Example

Every field, with a comment on each. Write only those that you need.

```yaml
{EXAMPLE}```
"""


def page() -> str:
    """Return the whole page."""
    tables = "\n".join(_section(section) for section in SECTIONS)
    return f"{_HEAD}\n{tables}\n{_schedulers()}\n{_annotations()}"


def _section(section: Section) -> str:
    text = f"\n{section.text}\n" if section.text else ""
    head = "| field | type | default | allowed | what it does |\n|---|---|---|---|---|\n"
    return f"## {section.title}\n{text}\n{head}" + "".join(f"{row}\n" for row in _rows(section.part))


def _rows(part: type[Part]) -> Iterator[str]:
    schema = part.model_json_schema()
    required = schema.get("required", ())
    for name, field in part.model_fields.items():
        written = field.alias or name
        shape = _shape(schema["properties"][written], schema.get("$defs", {}))
        default = "(required)" if written in required else _default(part, name, written, shape.kind)
        allowed = _SCHEDULER_ALLOWED if (part, name) == (ProxyConfigSpec, "scheduler") else shape.allowed
        description = " ".join((field.description or "").split())
        yield f"| `{written}` | {shape.kind} | {default} | {_cell(allowed)} | {_cell(description)} |"


_SCHEDULER_ALLOWED: Final = "one of the mode's, see [Schedulers](#schedulers)"


class _Shape(NamedTuple):
    kind: str
    allowed: str


def _shape(schema: dict[str, Any], defs: dict[str, Any]) -> _Shape:
    """Say what a JSON schema means: what is written there, and which values are good."""
    if "anyOf" in schema:
        (schema,) = (option for option in schema["anyOf"] if option.get("type") != "null")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _Shape("[selector](#selectors)" if name == "LabelSelector" else "object", _OBJECTS.get(name, ""))
    if schema.get("type") == "array":
        item = _shape(schema["items"], defs)
        return _Shape(f"list of {_PLURALS.get(item.kind, item.kind)}", item.allowed)
    if "enum" in schema:
        return _Shape("word", ", ".join(f"`{value}`" for value in schema["enum"]))
    if "x-type" in schema:
        kind = schema["x-type"]
        return _Shape(kind, "`30s`, `50ms`, `1h30m`, …" if kind == "duration" else schema["x-allowed"])
    kind = {"boolean": "boolean", "integer": "number", "string": "text", "object": "mapping of text to text"}
    allowed = {"boolean": "`true`, `false`", "integer": "a whole number", "string": "any", "object": "any"}
    least = f" of {schema['minimum']} or more" if "minimum" in schema else ""
    return _Shape(kind[schema["type"]], allowed[schema["type"]] + least)


_PLURALS: Final = {"CIDR": "CIDRs", "CIDR or word": "CIDRs or words", "object": "objects", "word": "words"}
_OBJECTS: Final = {
    "Conntrack": "see [`spec.conntrack`](#specconntrack)",
    "Ipvs": "see [`spec.ipvs`](#specipvs)",
    "Iptables": "see [`spec.iptables`](#speciptables)",
    "LabelSelector": "`matchLabels`, `matchExpressions`",
    "NamespaceRange": "see [`spec.nodePortRanges[]`](#specnodeportranges)",
    "Requirement": "see [`matchExpressions[]`](#matchexpressions)",
    "Rollout": "see [`spec.rollout`](#specrollout)",
}


def _default(part: type[Part], name: str, written: str, kind: str) -> str:
    """Write a field's default as it would stand in YAML."""
    if kind in ("object", "[selector](#selectors)") and name != "node_selector":
        return "`{}`"
    field = part.model_fields[name]
    value = part.model_construct(**{name: field.get_default(call_default_factory=True)})
    plain = json.loads(value.model_dump_json(by_alias=True, include={name}))[written]
    if plain is None:
        return "(absent)"
    return f"`{plain}`" if isinstance(plain, str) else f"`{json.dumps(plain)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _schedulers() -> str:
    rows = "".join(
        f"| `{mode}` | {', '.join(f'`{name}`' for name in SCHEDULERS[mode])} | `{DEFAULT_SCHEDULER[mode]}` |\n"
        for mode in MODES
    )
    return f"""\
## Schedulers

| mode | schedulers | default |
|---|---|---|
{rows}
In mode `ipvs`, a scheduler also needs its module in the node's kernel (`ip_vs_NAME`).
"""


def _annotations() -> str:
    return f"""\
## Annotations

| annotation | on | value | what it does |
|---|---|---|---|
| `{SCHEDULER_ANNOTATION}` | Service | one of the mode's schedulers | How a backend of this Service is chosen; wins \
over `spec.scheduler`. |
| `{WEIGHT_ANNOTATION}` | Pod, EndpointSlice, Endpoints | `"0"` to `"{MAX_WEIGHT}"` (in quotes) | The share \
of new connections that the endpoint gets, against the others of its Service; 1 where there is none. `"0"` drains: \
no new connections, existing ones go on. A Pod's wins over its slice's. |
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page, or write it with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.api.reference", description=main.__doc__)
    parser.add_argument(
        "--write", nargs="?", const=PAGE, type=Path, metavar="FILE", help=f"write FILE (default: {PAGE})"
    )
    target: Path | None = parser.parse_args(arguments).write
    if target is None:
        sys.stdout.write(page())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
