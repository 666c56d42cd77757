"""From the bytes that an API server sends to objects: list pages and watch events of one kind.

The fast path is one msgspec decode of the whole line, straight into `pointsman.model.raw`, and the one conversion of
`pointsman.model.kinds`. Whatever does not fit is read a second time, slowly, to say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from pointsman.model import raw
from pointsman.model.convert import interned
from pointsman.model.kinds import BY_KIND, Object
from pointsman.model.notes import Notes, shown
from pointsman.model.objects import Kind, ObjectKey
from pointsman.model.parse import parse
from pointsman.model.problems import Problem

SOURCE: Final = "API server"
_END_OF_INITIAL_EVENTS: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a watch with sendInitialEvents (KEP-3157)."""

_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class UnreadableError(Exception):
    """The bytes are not what an API server sends."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One object.

    Attributes:
        key: what it is; None when that cannot be told.
        version: its resourceVersion, or "".
        obj: the object; None when it cannot be read, or was not to be.
        problems: what is wrong with it.
        written: the object as it was sent, as far as it is read; None when it cannot be read.
    """

    key: ObjectKey | None
    version: str
    obj: Object | None
    problems: tuple[Problem, ...] = ()
    written: Any = None


class Page(msgspec.Struct, frozen=True):
    """A list, or a part of one.

    Attributes:
        items: its objects, each read when it is asked for.
        version: resourceVersion of the list.
        next: token for the next part; "" when there is none.
    """

    items: Iterator[Item]
    version: str
    next: str


class Changed(msgspec.Struct, frozen=True, gc=False):
    """The watch event of an object that came, changed or went."""

    item: Item
    gone: bool


class Bookmark(msgspec.Struct, frozen=True):
    """Everything until `version` has been told; `ends_list`: this was the last of the initial events."""

    version: str
    ends_list: bool


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """`metav1.Status` of an event of type ERROR: the watch cannot go on."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _Event(msgspec.Struct, Generic[T], gc=False):
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: T


class _AnyEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Mark(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Marked(msgspec.Struct):
    metadata: _Mark


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class Decoder:
    """Reads what an API server sends of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._reader = BY_KIND[kind]
        self._is_plain = self._reader.raw_type in (raw.ProxyConfig, raw.NodeProxy)
        self._objects: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._reader.raw_type)
        self._events: msgspec.json.Decoder[_Event[Any]] = msgspec.json.Decoder(
            _Event[self._reader.raw_type]  # type: ignore[name-defined]  # a type that is a value
        )
        self._notes = Notes(SOURCE)

    def page(self, body: bytes) -> Page:
        """Read the answer to a list request.

        Raises:
            UnreadableError: it is no list.
        """
        try:
            found = msgspec.json.decode(body, type=_List)
        except _UNDECODABLE as error:
            raise UnreadableError(f"sent what is no list: {error}") from None
        items = (self._item(bytes(item)) for item in found.items or ())
        return Page(items, found.metadata.resource_version, found.metadata.continue_)

    def event(self, line: bytes) -> Changed | Bookmark | Failure:
        """Read one line of a watch.

        Raises:
            UnreadableError: it is no watch event.
        """
        if self._is_plain:
            return self._any_event(line)
        try:
            event = self._events.decode(line)
        except _UNDECODABLE:
            return self._any_event(line)
        key = self._key(event.object)
        if key is None:
            return self._any_event(line)
        if event.type == "DELETED":
            return Changed(Item(key, _version(event.object), None), gone=True)
        return Changed(self._converted(key, event.object, event.object), gone=False)

    def _any_event(self, line: bytes) -> Changed | Bookmark | Failure:
        try:
            event = msgspec.json.decode(line, type=_AnyEvent)
            data = bytes(event.object)
            match event.type:
                case "ADDED" | "MODIFIED" | "DELETED":
                    return Changed(self._item(data), gone=event.type == "DELETED")
                case "BOOKMARK":
                    mark = msgspec.json.decode(data, type=_Marked).metadata
                    return Bookmark(mark.resource_version, _END_OF_INITIAL_EVENTS in (mark.annotations or {}))
                case "ERROR":
                    return msgspec.json.decode(data, type=Failure)
        except _UNDECODABLE as error:
            raise UnreadableError(f"sent what is no watch event: {error}") from None
        raise UnreadableError(f"sent a watch event of the type {shown(event.type)}")

    def _item(self, data: bytes) -> Item:
        """Read one object."""
        try:
            written = self._objects.decode(data)
            key = self._key(written)
            if key is not None:
                return self._converted(key, written, msgspec.json.decode(data) if self._is_plain else written)
        except _UNDECODABLE:
            pass
        return self._unreadable(data)

    def _key(self, written: Any) -> ObjectKey | None:  # noqa: ANN401 -- a struct of `raw`
        metadata = written.metadata
        if metadata is None or not metadata.name:
            return None
        namespace = interned(metadata.namespace) if self._reader.namespaced else ""
        return ObjectKey(self._reader.kind, namespace, metadata.name)

    def _converted(self, key: ObjectKey, written: Any, source: object) -> Item:  # noqa: ANN401 -- a struct of `raw`
        notes = self._notes
        notes.begin(key.kind, key.namespace, key.name)
        obj = self._reader.convert(source, key.namespace, key.name, notes)
        if not notes.problems:
            return Item(key, _version(written), obj, (), written)
        problems, notes.problems = tuple(notes.problems), []
        return Item(key, _version(written), obj, problems, written)

    def _unreadable(self, data: bytes) -> Item:
        """Say what is wrong with an object, as for one in a manifest."""
        parsed = parse(b'{"kind":"%sList","items":[%s]}' % (self._reader.kind.encode(), data), SOURCE)
        try:
            version = msgspec.json.decode(data, type=_Marked).metadata.resource_version
        except _UNDECODABLE:
            version = ""
        return Item(next(iter(parsed.rejected), None), version, None, parsed.problems)


def _version(written: Any) -> str:  # noqa: ANN401 -- a struct of `raw`
    version: str | None = written.metadata.resource_version
    return version or ""
