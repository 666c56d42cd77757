"""From bytes to documents: JSON or YAML, one or many."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from pointsman.model.forms import Form, JsonForm, PlainForm

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ALIASED_VALUES: Final = 1_000_000
"""How many values a YAML document with aliases may have once they are written out."""

MAX_MERGED_KEYS: Final = 10_000
"""How many keys a YAML mapping may have once its merge keys are written out."""

MAX_FLOW_YAML: Final = 1 << 20
"""Bytes up to which what looks like JSON and is none is tried as YAML, which is slow."""


class UnreadableError(Exception):
    """The bytes are neither JSON nor YAML.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def documents(data: bytes) -> tuple[Form, list[Any]]:
    """Split a file into its documents.

    Returns:
        The form of the documents, and the documents; empty ones are left out.

    Raises:
        UnreadableError: syntax, encoding, or a YAML document that grows out of all proportion.
    """
    data = _utf8(data)
    start = data[:1024].lstrip()[:1]
    if start not in (b"{", b"["):
        return PlainForm(), list(_yaml(data))
    try:
        # Whole and well-formed? This looks at every byte and builds next to nothing.
        msgspec.json.decode(data, type=msgspec.Raw)
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except msgspec.DecodeError as error:
        return PlainForm(), list(_flow_yaml(data, error))
    return JsonForm(), [data]


def _utf8(data: bytes) -> bytes:
    if data.startswith(codecs.BOM_UTF8):
        return data.removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what a redirection in PowerShell writes
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from None
    return data


def _not_utf8(error: UnicodeDecodeError) -> UnreadableError:
    return UnreadableError(f"is not UTF-8 text (byte {error.start + 1})", "save the file as UTF-8")


def _flow_yaml(data: bytes, error: msgspec.DecodeError) -> Iterator[object]:
    """Read what starts like JSON but is none: several documents, or YAML in flow style."""
    message = str(error)
    position = re.search(r"byte (\d+)", message)
    where = _line_and_column(data, int(position[1])) if position else "at the end"
    broken = UnreadableError(f"is not valid JSON: {where}: {message}", "correct the file, or finish writing it")
    if "truncated" in message or len(data) > MAX_FLOW_YAML:
        raise broken
    try:
        yield from _yaml(data)
    except UnreadableError as yaml_error:
        raise (yaml_error if "trailing" in message else broken) from None


def _line_and_column(data: bytes, position: int) -> str:
    line = data.count(b"\n", 0, position) + 1
    column = position - data.rfind(b"\n", 0, position)
    return f"line {line}, column {column}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # which one depends on the build
    """Reads YAML as Kubernetes does: no timestamps, and no numbers to base 60 (an IPv6 address can look like one)."""

    yaml_implicit_resolvers: Final = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write out merge keys (``<<``), as the base class does, but not without end."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED_KEYS:
            raise UnreadableError(f"has a mapping with more than {MAX_MERGED_KEYS} keys by <<", "write it without <<")


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)\Z"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.nan)\Z"
    ),
    list("-+0123456789."),
)


def _yaml(data: bytes) -> Iterator[object]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    aliases = "*" in text and "&" in text
    try:
        for document in yaml.load_all(text, _Loader):
            if aliases:
                _refuse_a_bomb(document)
            if document is not None:
                yield document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UnreadableError(f"is not valid YAML: {where}{error.problem}", "correct the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is nested too deep"
        raise UnreadableError(f"is not valid YAML: {reason}", "correct the file") from None


def _refuse_a_bomb(document: object) -> None:
    """Count the values of a document as if every alias were written out, up to the limit."""
    count, todo = 0, [document]
    while todo:
        value = todo.pop()
        count += 1
        if isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
        if count + len(todo) > MAX_ALIASED_VALUES:
            raise UnreadableError(
                f"has more than {MAX_ALIASED_VALUES} values once its aliases are written out",
                "write it without aliases",
            )
