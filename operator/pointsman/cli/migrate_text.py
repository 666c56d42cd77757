"""What came of kube-proxy's configuration, as YAML with comments, or as JSON."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from pointsman.model.notes import shown
from pointsman.model.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.api.migration import Migration, Note

_WIDTH: Final = 110


def yaml_text(migration: Migration, origin: str) -> str:
    """Write the ProxyConfig for `kubectl apply -f -`, with a comment for each note.

    What is to be known of a field stands above it, and what became no field at the end.

    Args:
        migration: what came of it.
        origin: what it was made from, for the first line.
    """
    head = {name: value for name, value in migration.document.items() if name != "spec"}
    lines = [*_comment(f"What {origin} becomes.", ""), *_dumped(head, ""), "spec:"]
    spec: dict[str, Any] = migration.document["spec"]
    for name, value in spec.items():
        lines += _comments([note for note in migration.notes if note.becomes == name], "  ")
        lines += _dumped({name: value}, "  ")
    rest = [note for note in migration.notes if note.becomes not in spec]
    if rest:
        lines += ["", *_comment("Not in this ProxyConfig:", ""), *_comments(rest, "")]
    return "\n".join(lines) + "\n"


def json_text(migration: Migration) -> str:
    """Write ``{"proxyConfig": …, "notes": [{"field", "value", "note"}]}``."""
    notes = [{"field": note.field, "value": note.value, "note": note.note} for note in migration.notes]
    found = {"proxyConfig": migration.document, "notes": notes}
    return msgspec.json.format(msgspec.json.encode(found)).decode()


def line_of(note: Note) -> str:
    """Write a note on one line."""
    return printable(f"{note.field} {shown(note.value)}: {note.note}")


def _dumped(value: dict[str, Any], indent: str) -> list[str]:
    text = yaml.safe_dump(value, sort_keys=False, width=_WIDTH, allow_unicode=True)
    return [indent + line for line in text.splitlines()]


def _comments(notes: Iterable[Note], indent: str) -> Iterator[str]:
    for note in notes:
        yield from _comment(line_of(note), indent)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
