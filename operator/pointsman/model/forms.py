"""How objects are read out of JSON bytes, and out of the plain data that YAML gives: the same way.

An *item* is one object that is not read yet: JSON bytes, or plain data. A *form* knows which.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

import msgspec

from pointsman.model import raw

T = TypeVar("T")


class Head(msgspec.Struct, rename="camel"):
    """What tells the kind of a document."""

    kind: str | None = None
    api_version: str | None = None


class ListHead(Head):
    """A document that may be a list; its items are not read yet."""

    items: list[msgspec.Raw] | None = None


class PlainListHead(Head):
    """The same for plain data."""

    items: list[Any] | None = None


class Form(Protocol):
    """How to read items of one form. Every method raises msgspec.ValidationError when the item is not so."""

    def list_head(self, item: Any) -> ListHead | PlainListHead:  # noqa: ANN401 -- an item of this form
        """Read kind and items of a list."""
        ...

    def read(self, item: Any, kind: type[T]) -> T:  # noqa: ANN401 -- an item of this form
        """Read the item as `kind`: `Head`, or one of the raw objects."""
        ...

    def known(self, item: Any) -> raw.RawObject:  # noqa: ANN401 -- an item of this form
        """Read the item as the raw object that its `kind` names."""
        ...

    def plain(self, item: Any) -> object:  # noqa: ANN401 -- an item of this form
        """Read all of the item as plain data."""
        ...


class JsonForm:
    """Items are bytes or `msgspec.Raw`."""

    _list_head = msgspec.json.Decoder(ListHead)
    _known: msgspec.json.Decoder[raw.RawObject] = msgspec.json.Decoder(raw.RawObject)
    _decoders: Final = {
        kind: msgspec.json.Decoder(kind)
        for kind in (
            Head, raw.Service, raw.EndpointSlice, raw.Endpoints, raw.Pod, raw.Node, raw.ServiceCIDR, raw.Namespace,
            raw.ProxyConfig,
            raw.NodeProxy,
        )
    }  # fmt: skip

    def list_head(self, item: bytes) -> ListHead:
        """Read kind and items of a list, the items as they are."""
        return self._list_head.decode(item)

    def read(self, item: bytes, kind: type[T]) -> T:
        """Read the item as `kind`."""
        decoder: msgspec.json.Decoder[Any] = self._decoders[kind]  # type: ignore[index]  # `kind` is one of the keys
        value: T = decoder.decode(item)
        return value

    def known(self, item: bytes) -> raw.RawObject:
        """Read the item as the raw object that its `kind` names."""
        return self._known.decode(item)

    def plain(self, item: bytes) -> object:
        """Read all of the item as plain data."""
        return msgspec.json.decode(item)


class PlainForm:
    """Items are plain data: mappings, lists, text, numbers."""

    def list_head(self, item: object) -> PlainListHead:
        """Read kind and items of a list, the items as they are."""
        return msgspec.convert(item, PlainListHead)

    def read(self, item: object, kind: type[T]) -> T:
        """Read the item as `kind`."""
        return msgspec.convert(item, kind)

    def known(self, item: object) -> raw.RawObject:
        """Read the item as the raw object that its `kind` names."""
        return msgspec.convert(item, raw.RawObject)  # type: ignore[no-any-return]  # a union is no `type` to mypy

    def plain(self, item: object) -> object:
        """Return the item: it is plain data already."""
        return item
