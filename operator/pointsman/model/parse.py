"""From the bytes of a manifest to objects and problems.

Accepted: JSON or YAML, many documents in one file, ``kind: List`` and typed lists such as ``ServiceList``. Kinds that
a Service proxy has no use for are passed over in silence. Items of a list are decoded one by one: this is faster than
the whole list at once (less is alive at a time), and a bad one costs itself alone.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pointsman.model import raw
from pointsman.model.convert import good_name, interned
from pointsman.model.documents import UnreadableError, documents
from pointsman.model.forms import Form, Head
from pointsman.model.kinds import BY_KIND, BY_RAW_TYPE, Object, Reader, key_of
from pointsman.model.notes import Notes, shown
from pointsman.model.objects import ObjectKey
from pointsman.model.problems import Problem
from pointsman.model.type_errors import explain_type_error

__all__ = ["Object", "Parsed", "key_of", "parse"]

DEFAULT_NAMESPACE: Final = "default"


class Parsed(msgspec.Struct, frozen=True):
    """What a file holds.

    Attributes:
        objects: in the file's order, each key once.
        problems: what is wrong.
        rejected: keys of objects that were left out because of a problem, as far as they could be told.
        broken: the file could not be read (syntax, encoding): `objects` is empty and says nothing.
    """

    objects: tuple[Object, ...] = ()
    problems: tuple[Problem, ...] = ()
    rejected: tuple[ObjectKey, ...] = ()
    broken: bool = False


def parse(data: bytes, source: str = "") -> Parsed:
    """Read a manifest.

    Args:
        data: the file's bytes, JSON or YAML.
        source: the file's name, for problems.

    Returns:
        Objects and problems. Nothing is raised: whatever is wrong with the bytes is a problem.
    """
    notes = Notes(source)
    try:
        form, items = documents(data)
        gathering = _Gathering(form, notes)
        for number, item in enumerate(items, start=1):
            gathering.document(item, f"document {number}")
    except UnreadableError as error:
        notes.note_file(str(error), error.remedy)
    except RecursionError:
        notes.note_file("is nested too deep", "write it flat")
    else:
        return gathering.parsed()
    return Parsed(problems=tuple(notes.problems), broken=True)


class _Gathering:
    """Objects of one file as they come."""

    def __init__(self, form: Form, notes: Notes) -> None:
        self._form = form
        self._notes = notes
        self._objects: dict[ObjectKey, Object] = {}
        self._rejected: dict[ObjectKey, None] = {}

    def parsed(self) -> Parsed:
        rejected = tuple(key for key in self._rejected if key not in self._objects)
        return Parsed(tuple(self._objects.values()), tuple(self._notes.problems), rejected)

    def document(self, item: Any, place: str) -> None:  # noqa: ANN401 -- an item of the form
        """Read a document: a list (of lists), or one object."""
        if not self._list(item, "items" if place == "document 1" else f"{place} items"):
            self._object(item, place)

    def _list(self, item: Any, inside: str) -> bool:  # noqa: ANN401 -- an item of the form
        """Read the item if it is a list; `inside` is how to call its items."""
        try:
            head = self._form.list_head(item)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False  # its `items` are something else, or it is no object at all
        if head.kind is None or not head.kind.endswith("List"):
            return False
        items = head.items or ()
        if head.kind == "List":
            for index, entry in enumerate(items):
                self._object(entry, f"{inside}[{index}]")
        elif (reader := BY_KIND.get(head.kind.removesuffix("List"))) is not None:
            for index, entry in enumerate(items):
                self._typed(entry, reader, f"{inside}[{index}]")
        return True

    def _object(self, item: Any, place: str) -> None:  # noqa: ANN401 -- an item of the form
        try:
            written = self._form.known(item)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._unknown(item, place)
        else:
            self._add(item, written, BY_RAW_TYPE[type(written)], place)

    def _typed(self, item: Any, reader: Reader, place: str) -> None:  # noqa: ANN401 -- an item of the form
        try:
            written = self._form.read(item, reader.raw_type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._mistyped(item, reader, error, place)
        else:
            self._add(item, written, reader, place)

    def _unknown(self, item: Any, place: str) -> None:  # noqa: ANN401 -- an item of the form
        """Read an item that is no object of a kind that we know, or one with a wrong type inside."""
        try:
            head = self._form.read(item, Head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            remedy = "write an object with apiVersion, kind and metadata, documents apart by a line of ---"
            self._notes.note_file("is no Kubernetes object", remedy, place=place, dropped="the object")
            return
        reader = BY_KIND.get(head.kind or "")
        if not head.kind:
            self._notes.note_file("has no kind", "write apiVersion and kind", place=place, dropped="the object")
        elif head.kind == "List" and not self._list(item, f"{place}.items"):
            self._notes.note_file("has items that are no list", "write a list", place=place, dropped="the object")
        elif reader is not None and reader.is_of_group(head.api_version):
            self._typed(item, reader, place)

    def _add(self, item: Any, written: Any, reader: Reader, place: str) -> None:  # noqa: ANN401 -- of the form
        metadata = written.metadata
        name = (metadata.name if metadata else None) or ""
        namespace = (
            interned((metadata.namespace if metadata else None) or DEFAULT_NAMESPACE) if reader.namespaced else ""
        )
        notes = self._notes
        notes.begin(reader.kind, namespace, name, place)
        if written.api_version not in reader.api_versions and not self._is_served(written.api_version, reader):
            return
        if not (good_name(name) and (not namespace or good_name(namespace))):
            self._note_name(name, namespace)
            return
        key = ObjectKey(reader.kind, namespace, name)
        source = self._form.plain(item) if reader.raw_type in (raw.ProxyConfig, raw.NodeProxy) else written
        obj = reader.convert(source, interned(namespace), name, notes)
        if obj is None:
            self._rejected[key] = None
            return
        if self._objects.pop(key, None) is not None:
            notes.note("metadata.name", "comes twice in this file", "keep one of the two", "the earlier one")
        self._objects[key] = obj

    def _is_served(self, api_version: str | None, reader: Reader) -> bool:
        """Tell whether to go on with an object of another version than ours; an absent one is taken for ours."""
        if api_version is None or not reader.is_of_group(api_version):
            return api_version is None
        message, remedy = f'"{api_version}" is not supported', f"write {reader.api_versions[0]}"
        self._notes.note("apiVersion", message, remedy)
        return False

    def _note_name(self, name: str, namespace: str) -> None:
        remedy = "write lower-case letters, digits, dashes and dots"
        if not name:
            self._notes.note("metadata.name", "is missing", remedy)
        elif not good_name(name):
            self._notes.note("metadata.name", f"{shown(name)} is no object name", remedy)
        else:
            self._notes.note("metadata.namespace", f"{shown(namespace)} is no namespace name", remedy)

    def _mistyped(self, item: Any, reader: Reader, error: Exception, place: str) -> None:  # noqa: ANN401 -- of the form
        try:
            plain = self._form.plain(item)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._notes.note_file(
                f"is not valid JSON: {error}", "correct the file", place=place, dropped="this document"
            )
            return
        namespace, name = _written_key(plain, reader)
        self._notes.begin(reader.kind, namespace, name, place)
        if name:
            self._rejected[ObjectKey(reader.kind, namespace, name)] = None
        wrong = explain_type_error(str(error), plain)
        self._notes.note(wrong.field, wrong.message, wrong.remedy)


def _written_key(plain: object, reader: Reader) -> tuple[str, str]:
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    found = metadata if isinstance(metadata, dict) else {}
    name, namespace = found.get("name"), found.get("namespace")
    spelled = namespace if isinstance(namespace, str) and namespace else DEFAULT_NAMESPACE
    return spelled if reader.namespaced else "", name if isinstance(name, str) else ""
