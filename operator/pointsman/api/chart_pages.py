"""`values.yaml` and the chart's `README.md` from the typed values."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from pointsman.api.chart_parts import Piece, Pod
from pointsman.api.chart_readme import HEAD, TAIL
from pointsman.api.chart_values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE: Final = "Made by `python -m pointsman.api.chart --write` from operator/pointsman/api; edit there."
_WIDTH: Final = 118
_INDENT: Final = "  "


class Entry(NamedTuple):
    """One value.

    Attributes:
        name: as users write it.
        value: its default: plain data, or a part of the values.
        text: what it is for, in one paragraph.
    """

    name: str
    value: Any
    text: str


def entries(piece: Piece) -> Iterator[Entry]:
    """Yield what is in a part of the values: what is its own before what it shares with others."""
    fields = type(piece).model_fields
    shared = [name for name in fields if isinstance(piece, Pod) and name in Pod.model_fields]
    own = [name for name in fields if name not in shared]
    for name in (*own, *shared):
        field = fields[name]
        yield Entry(field.alias or name, getattr(piece, name), " ".join((field.description or "").split()))


def values_file() -> str:
    """Return the text of `values.yaml`."""
    return f"# {MADE}\n" + "".join(f"\n{block}" for block in _blocks(Values(), ""))


def _blocks(piece: Piece, indent: str) -> Iterator[str]:
    """Write each entry with its comment; an entry that has entries is followed by them."""
    for name, value, text in entries(piece):
        comment = textwrap.fill(
            text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
        )
        if isinstance(value, Piece) and not _is_plain(value):
            inner = "".join(_blocks(value, indent + _INDENT))
            yield f"{comment}\n{indent}{name}:\n{inner}"
        else:
            dumped = yaml.safe_dump({name: _plain(value)}, sort_keys=False, allow_unicode=True)
            yield f"{comment}\n{textwrap.indent(dumped, indent)}"


def readme_file() -> str:
    """Return the text of the chart's `README.md`."""
    tables = "\n".join(_tables())
    return f"<!-- {MADE} -->\n\n{HEAD}\n## Values\n\n{tables}\n{TAIL}"


def _tables() -> Iterator[str]:
    """Write the values at the top, and then a table for each part."""
    top = list(entries(Values()))
    yield _table([entry for entry in top if not isinstance(entry.value, Piece)])
    for name, value, text in top:
        if isinstance(value, Piece):
            yield f"### `{name}`\n\n{text}\n\n{_table(list(_flat(value, name)))}"


def _flat(piece: Piece, above: str) -> Iterator[Entry]:
    for name, value, text in entries(piece):
        path = f"{above}.{name}"
        if isinstance(value, Piece) and not _is_plain(value):
            yield from _flat(value, path)
        else:
            yield Entry(path, value, text)


def _table(rows: list[Entry]) -> str:
    head = "| value | default | what it does |\n|---|---|---|\n"
    return head + "".join(f"| `{name}` | `{_inline(value)}` | {_cell(text)} |\n" for name, value, text in rows)


def _is_plain(piece: Piece) -> bool:
    """Tell whether a part is written in one piece: its fields are Kubernetes' own, and need no comment here."""
    return type(piece).__name__ == "Resources"


def _plain(value: Any) -> Any:  # noqa: ANN401 (any default)
    return value.model_dump(by_alias=True) if isinstance(value, Piece) else value


def _inline(value: Any) -> str:  # noqa: ANN401 (any default)
    return _cell(json.dumps(_plain(value), ensure_ascii=False))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
