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
from pointsman.api.names import MODES
from pointsman.api.nodeproxy import NodeProxySpec
from pointsman.api.proxyconfig import (
    Conntrack,
    Iptables,
    Ipvs,
    NamespaceRange,
    NodeConfiguration,
    ProxyConfigSpec,
    Rollout,
    Userspace,
)
from pointsman.api.reference_text import ANNOTATIONS, CONDITION, HEAD
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULERS
from pointsman.api.status import (
    AgentInfo,
    Condition,
    HeldVersions,
    ModeCount,
    NodeCounts,
    NodeProxyStatus,
    ProxyConfigStatus,
    ReportedProblem,
)

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
    Section("`spec.userspace`", "", Userspace),
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
"""The page's tables of what users write, in its order."""

STATUS_SECTIONS: Final = (
    Section("`status` of a ProxyConfig", "The operator writes it.", ProxyConfigStatus),
    Section("`status.nodes`", "How far the configuration has come.", NodeCounts),
    Section("`status.effectiveModes[]`", "One entry a mode.", ModeCount),
    Section(
        "`spec` of a NodeProxy",
        "The fields of a ProxyConfig's `spec` that concern one node, every default written out, and this one. The "
        "operator writes it: what somebody else writes there is put right again.",
        NodeProxySpec,
    ),
    Section(
        "`status` of a NodeProxy",
        "The node's agent writes it, when something has changed; the operator says `Unknown` when an agent is silent.",
        NodeProxyStatus,
    ),
    Section(
        "`status.resourceVersions`",
        "Within a second with `spec.serviceConditions`, else with the counts.",
        HeldVersions,
    ),
    Section("`status.agent`", "", AgentInfo),
    Section("`status.problems[]`", "The same in both kinds.", ReportedProblem),
    Section("`status.conditions[]`", "The same in both kinds; [the operator](operator.md) has the reasons.", Condition),
)
"""The page's tables of what programs write, in its order."""


def page() -> str:
    """Return the whole page."""
    tables = "\n".join(_section(section) for section in SECTIONS)
    told = "\n".join(_status_section(section) for section in STATUS_SECTIONS)
    return f"{HEAD}\n{tables}\n{_schedulers()}\n{ANNOTATIONS}\n{told}\n{CONDITION}"


def _status_section(section: Section) -> str:
    """Write the table of a part that programs fill in: it has no defaults, and nothing to choose."""
    schema = section.part.model_json_schema()
    rows = ""
    for name, field in section.part.model_fields.items():
        if section.part is NodeProxySpec and name in NodeConfiguration.model_fields:
            continue
        written = field.alias or name
        kind = _shape(schema["properties"][written], schema.get("$defs", {})).kind
        rows += f"| `{written}` | {kind} | {_cell(' '.join((field.description or '').split()))} |\n"
    text = f"\n{section.text}\n" if section.text else ""
    return f"## {section.title}\n{text}\n| field | type | what it says |\n|---|---|---|\n{rows}"


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
        kind = {"LabelSelector": "[selector](#selectors)"}.get(name) or _STATUS_OBJECTS.get(name, "object")
        return _Shape(kind, _OBJECTS.get(name, ""))
    if schema.get("type") == "array":
        item = _shape(schema["items"], defs)
        return _Shape(f"list of {_PLURALS.get(item.kind, item.kind.replace('[object]', '[objects]'))}", item.allowed)
    if "enum" in schema:
        return _Shape("word", ", ".join(f"`{value}`" for value in schema["enum"]))
    if "x-type" in schema:
        kind = schema["x-type"]
        return _Shape(kind, "`30s`, `50ms`, `1h30m`, …" if kind == "duration" else schema.get("x-allowed", ""))
    kinds = {"boolean": "boolean", "integer": "number", "string": "text", "object": "mapping of text to text"}
    allowed = {"boolean": "`true`, `false`", "integer": "a whole number", "string": "any", "object": "any"}
    if schema.get("format") == "date-time":
        return _Shape("time (RFC 3339)", "")
    return _Shape(kinds[schema["type"]], allowed[schema["type"]] + _bounds(schema))


def _bounds(schema: dict[str, Any]) -> str:
    if "minimum" not in schema:
        return ""
    return f" from {schema['minimum']:,} to {schema['maximum']:,}"


_PLURALS: Final = {"CIDR": "CIDRs", "CIDR or word": "CIDRs or words", "object": "objects", "word": "words"}
_OBJECTS: Final = {
    "Conntrack": "see [`spec.conntrack`](#specconntrack)",
    "Ipvs": "see [`spec.ipvs`](#specipvs)",
    "Iptables": "see [`spec.iptables`](#speciptables)",
    "LabelSelector": "`matchLabels`, `matchExpressions`",
    "NamespaceRange": "see [`spec.nodePortRanges[]`](#specnodeportranges)",
    "Requirement": "see [`matchExpressions[]`](#matchexpressions)",
    "Rollout": "see [`spec.rollout`](#specrollout)",
    "Userspace": "see [`spec.userspace`](#specuserspace)",
}
_STATUS_OBJECTS: Final = {
    "AgentInfo": "[object](#statusagent)",
    "Condition": "[object](#statusconditions)",
    "HeldVersions": "[object](#statusresourceversions)",
    "ModeCount": "[object](#statuseffectivemodes)",
    "NodeCounts": "[object](#statusnodes)",
    "ReportedProblem": "[object](#statusproblems)",
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
In mode `ipvs`, a scheduler also needs its module in the node's kernel (`ip_vs_NAME`). In mode `nftables` it may be [one
of your own](extending.md#a-scheduler-of-your-own), called `example.com/name`; a [mode of your
own](extending.md#a-dataplane-of-your-own) has what it says.

Where a scheduler is not there, because another mode is in force or the module is missing, [what comes
nearest](schedulers.md#when-a-scheduler-is-not-there) is used; `status.problems` of the node's `NodeProxy` names each
Service that this concerns.
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
