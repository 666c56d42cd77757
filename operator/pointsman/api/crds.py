"""Writes `crds/` from the typed model: ``python -m pointsman.api.crds [--write [DIR]]``.

One CustomResourceDefinition a file. What the API server can check by itself stands in the schemas; what needs other
objects is the admission webhook's. The rules need Kubernetes 1.31 or newer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from pointsman.api.names import GROUP, VERSION
from pointsman.api.nodeproxy import NodeProxy, NodeProxySpec
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.schema import plain_text, structural
from pointsman.api.status import NodeProxyStatus, ProxyConfigStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.api.resource import Part

DIRECTORY: Final = Path("crds")
_HEAD: Final = "# Made by `python -m pointsman.api.crds --write` from operator/pointsman/api; edit there.\n"

_OBJECT_FIELDS: Final = {
    "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
    "kind": {"type": "string", "description": "The kind of the object."},
    "metadata": {"type": "object"},
}


class Column(NamedTuple):
    """A column of ``kubectl get``.

    Attributes:
        name: its headline.
        path: where its value stands (JSONPath; an array gives its first match alone).
        kind: string, integer or date (shown as time passed).
        description: what it says.
        wide: it is shown with ``-o wide`` alone.
    """

    name: str
    path: str
    kind: str
    description: str
    wide: bool = False

    def document(self) -> dict[str, Any]:
        """Write it as a CustomResourceDefinition has it."""
        written = {"name": self.name, "type": self.kind, "jsonPath": self.path, "description": self.description}
        return {**written, "priority": 1} if self.wide else written


class Resource(NamedTuple):
    """What a CustomResourceDefinition says beside the schema."""

    part: type[ProxyConfig | NodeProxy]
    spec: type[Part]
    status: type[Part]
    plural: str
    short: str
    columns: tuple[Column, ...]


def _condition(condition: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{condition}")].{field}'


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date", "Since when the object exists")

RESOURCES: Final = (
    Resource(
        ProxyConfig,
        ProxyConfigSpec,
        ProxyConfigStatus,
        "proxyconfigs",
        "pxc",
        (
            Column("Mode", ".spec.mode", "string", "The dataplane that is wanted"),
            Column("Scheduler", ".spec.scheduler", "string", "How backends are chosen; empty: the mode's default"),
            Column("Ready", ".status.nodes.summary", "string", "Nodes that do what it says, of those it is for"),
            Column("Rollout", _condition("Progressing", "reason"), "string", "How far its last change has come"),
            Column("Problems", ".status.problemCount", "integer", "How many problems there are; see its status"),
            Column("Updated", ".status.nodes.updated", "integer", "Nodes that were told its newest form", wide=True),
            Column("Priority", ".spec.priority", "integer", "The highest one wins on a node", wide=True),
            Column("Message", _condition("Ready", "message"), "string", "Why it is ready or not", wide=True),
            _AGE,
        ),
    ),
    Resource(
        NodeProxy,
        NodeProxySpec,
        NodeProxyStatus,
        "nodeproxies",
        "npx",
        (
            Column("Mode", ".status.mode", "string", "The dataplane in force"),
            Column("Ready", _condition("Ready", "status"), "string", "Whether the kernel does what it says"),
            Column("Reason", _condition("Ready", "reason"), "string", "Why it is ready or not, in a word"),
            Column("Services", ".status.services", "integer", "Services in the kernel"),
            Column("Endpoints", ".status.endpoints", "integer", "Endpoints in the kernel"),
            Column("Problems", ".status.problemCount", "integer", "How many problems there are; see its status"),
            Column("Config", ".spec.proxyConfig", "string", "The ProxyConfig that it comes from"),
            Column("Last-Sync", ".status.lastSyncTime", "date", "Since the kernel was last brought up to date"),
            Column("Wanted", ".spec.mode", "string", "The dataplane that is wanted", wide=True),
            Column("Agent", ".status.agent.version", "string", "The agent's version", wide=True),
            Column("Message", _condition("Ready", "message"), "string", "Why it is ready or not", wide=True),
            _AGE,
        ),
    ),
)


def documents() -> tuple[dict[str, Any], ...]:
    """Return the CustomResourceDefinitions as plain data, each time anew."""
    return tuple(json.loads(json.dumps(_definition(resource))) for resource in RESOURCES)


def files() -> dict[str, str]:
    """Return the text of each file in `crds/`, by its name."""
    return {
        f"{document['spec']['names']['plural']}.yaml": _HEAD
        + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=118)
        for document in documents()
    }


def _definition(resource: Resource) -> dict[str, Any]:
    kind = resource.part.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "crds"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": resource.plural,
                "singular": kind.lower(),
                "shortNames": [resource.short],
                "categories": ["pointsman"],
            },
            "versions": [_version(resource)],
        },
    }


def _version(resource: Resource) -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _object_schema(resource)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.document() for column in resource.columns],
    }


def _object_schema(resource: Resource) -> dict[str, Any]:
    # `spec` may be left out: then it is all defaults.
    return {
        "type": "object",
        "description": plain_text(resource.part.__doc__ or ""),
        "properties": {
            **_OBJECT_FIELDS,
            "spec": {**structural(resource.spec, defaults=True), "default": {}},
            "status": structural(resource.status, defaults=False),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the CustomResourceDefinitions, or write them with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.api.crds", description=main.__doc__)
    parser.add_argument(
        "--write", nargs="?", const=DIRECTORY, type=Path, metavar="DIR", help=f"write into DIR (default: {DIRECTORY})"
    )
    directory: Path | None = parser.parse_args(arguments).write
    if directory is None:
        sys.stdout.write("---\n".join(files().values()))
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
