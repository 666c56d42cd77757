"""Elements of a table on the wire: writing them in messages, and reading a set back.

Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from pointsman.dataplane.netlink import (
    LARGEST_ATTRIBUTE,
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Message,
    attribute,
    attributes,
    nested,
    string,
)
from pointsman.dataplane.nftables.expressions import AF_IPV4, AF_IPV6
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pointsman.dataplane.netlink import NftSocket, Refusal
    from pointsman.dataplane.nftables.layout import Layout, Schema
    from pointsman.model.plan import Family

NEWTABLE: Final = 0
GETTABLE: Final = 1
DELTABLE: Final = 2
NEWCHAIN: Final = 3
GETCHAIN: Final = 4
DELCHAIN: Final = 5
NEWRULE: Final = 6
GETRULE: Final = 7
DELRULE: Final = 8
GETSET: Final = 10
DELSET: Final = 11
NEWSETELEM: Final = 12
GETSETELEM: Final = 13
DELSETELEM: Final = 14
GETGEN: Final = 16

_LIST_TABLE: Final = 1
_LIST_SET: Final = 2
_LIST_ELEMENTS: Final = 3
_LENGTH: Final = struct.Struct("=H")
_KEY_AT: Final = 12
"""An element's key stands behind three attribute headers: element, key, value."""
_LOOKS: Final = 20
"""How often a set is read whose order changed meanwhile."""
Value = TypeVar("Value")

Elements = dict[bytes, bytes]
"""Elements of one set: key and value."""


def af(family: Family) -> int:
    """Return the kernel's number of an address family."""
    return AF_IPV4 if family == IPV4 else AF_IPV6


class Chain(Protocol):
    """A chain that is not a fixed one (see `classes`)."""

    @property
    def chain(self) -> str:
        """Its name."""
        ...

    def rules(self) -> list[bytes]:
        """Its rules, encoded."""
        ...

    def text(self) -> list[str]:
        """Its rules in nft's language."""
        ...


class Draft(Protocol):
    """A transaction in the making: what is added to and removed from each set, and chains."""

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Add an element."""
        ...

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Remove an element; `value` is needed for ranges alone."""
        ...

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        """Write a set of networks whole: first and last address of each, sorted, none touching the next."""
        ...

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        """Add a chain, or put its rules in place of those that it has."""
        ...

    def remove_chain(self, chain: str) -> None:
        """Remove a chain that no element leads to any more."""
        ...


class WireDraft:
    """A transaction as netlink messages.

    The order on the wire is chains that come, elements that go, elements that come, chains that go.
    """

    def __init__(self, schema: Schema, family: Family) -> None:
        self.schema = schema
        self.family: Family = family
        self.added = 0
        self.removed = 0
        self._encoders, self._removers = schema.encoders[family], schema.removers[family]
        self._add: defaultdict[str, list[bytes]] = defaultdict(list)
        self._remove: defaultdict[str, list[bytes]] = defaultdict(list)
        self._chains: list[Message] = []
        self._rules: list[Message] = []
        self._gone: list[str] = []
        self._networks: list[Message] = []

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Add an element."""
        self._add[name].append(self._encoders[name](key, value))

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        """Remove an element; `value` is needed for ranges alone."""
        self._remove[name].append(self._removers[name](key, value))

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        """Write a set of networks whole: first and last address of each, sorted, none touching the next."""
        self._networks.append(self._message(DELSETELEM, name, b""))
        boundaries = b"".join(_boundaries(networks))
        if boundaries:
            self._networks.append(self._message(NEWSETELEM, name, boundaries, NLM_F_CREATE))

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        """Add a chain, or put its rules in place of those that it has."""
        family, table, name = af(self.family), string(1, self.schema.table), chain.chain
        if present:
            self._rules.append(Message(DELRULE, family, table + string(2, name)))
        else:
            self._chains.append(Message(NEWCHAIN, family, table + string(3, name), NLM_F_CREATE))
        for rule in chain.rules():
            self._rules.append(Message(NEWRULE, family, table + string(2, name) + rule, NLM_F_CREATE | NLM_F_APPEND))

    def remove_chain(self, chain: str) -> None:
        """Remove a chain that no element leads to any more."""
        self._gone.append(chain)

    def messages(self) -> list[Message]:
        """Return the transaction, empty when there is nothing to do."""
        self.added = sum(map(len, self._add.values()))
        self.removed = sum(map(len, self._remove.values()))
        found = [*self._chains, *self._rules, *self._networks]
        for name, elements in self._remove.items():
            found += [self._message(DELSETELEM, name, part) for part in _parts(elements)]
        for name, elements in self._add.items():
            found += [self._message(NEWSETELEM, name, part, NLM_F_CREATE) for part in _parts(elements)]
        # Emptied first, as they may lead to each other.
        table = string(1, self.schema.table)
        found += [Message(DELRULE, af(self.family), table + string(2, chain)) for chain in self._gone]
        return found + [Message(DELCHAIN, af(self.family), table + string(3, chain)) for chain in self._gone]

    def _message(self, command: int, name: str, elements: bytes, flags: int = 0) -> Message:
        payload = string(_LIST_TABLE, self.schema.table) + string(_LIST_SET, name)
        if elements:
            payload += attribute(_LIST_ELEMENTS | NLA_F_NESTED, elements)
        return Message(command, af(self.family), payload, flags)


def _parts(elements: list[bytes]) -> Iterator[bytes]:
    """Join elements in parts that fit into one attribute."""
    step = max(1, LARGEST_ATTRIBUTE // max(map(len, elements)))
    for start in range(0, len(elements), step):
        yield b"".join(elements[start : start + step])


def _boundaries(networks: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Encode networks as an interval set has them: where each begins, and the first address behind it."""
    for first, last in networks:
        yield nested(1, nested(1, attribute(1, first)))
        behind = int.from_bytes(last, "big") + 1
        if behind < 1 << 8 * len(last):
            key = attribute(1, behind.to_bytes(len(last), "big"))
            yield nested(1, nested(1, key), attribute(3, b"\0\0\0\1"))


class Refused(msgspec.Struct, frozen=True):
    """What the kernel refused, told in its own terms.

    Attributes:
        set_name: the set or map, or "" for a chain or rule.
        key: the element's key, or b"" when it could not be told.
        text: what was refused and why, for people.
        foreign: others have changed the table: something is there, or missing, or in use, that should not be.
    """

    set_name: str
    key: bytes
    text: str
    foreign: bool


_VERBS: Final = {
    NEWCHAIN: "add chain",
    DELCHAIN: "remove chain",
    NEWRULE: "add a rule to chain",
    DELRULE: "empty chain",
}


def first_told(
    schema: Schema, family: Family, messages: Sequence[Message], refusals: Sequence[Refusal]
) -> Refused:  # fmt: skip
    """Find out what the kernel means with the first refusal that names a message."""
    for refusal in refusals:
        if 0 <= refusal.index < len(messages):
            return told(schema, family, messages[refusal.index], refusal)
    # The kernel took every message, and failed to commit them.
    return Refused("", b"", f"commit the transaction: {refusals[0]}", foreign=False)


def told(schema: Schema, family: Family, message: Message, refusal: Refusal) -> Refused:
    """Find out which element of a refused message the kernel means."""
    foreign = refusal.error in {errno.ENOENT, errno.EEXIST, errno.EBUSY}
    fields = dict(attributes(message.payload))
    if message.command not in {NEWSETELEM, DELSETELEM}:
        name = next((v for k, v in fields.items() if k in {2, 3}), b"?").rstrip(b"\0").decode()
        return Refused("", b"", f"{_VERBS[message.command]} {name}: {refusal}", foreign)
    name = fields[_LIST_SET].rstrip(b"\0").decode()
    layout = schema.layouts[family][name]
    verb = "add" if message.command == NEWSETELEM else "remove"
    key = _key_at(message.payload, schema.table, layout, refusal.offset)
    if not key:
        return Refused(name, b"", f"{verb} elements of {name}: {refusal}", foreign)
    element = layout.text(key, key if layout.ranges else b"\0" * layout.data_size).partition(" : ")[0]
    return Refused(name, key, f"{verb} element {{ {element} }} of {name}: {refusal}", foreign)


def _key_at(payload: bytes, table: str, layout: Layout, offset: int | None) -> bytes:
    """Return the key of the element that stands at an offset."""
    start = len(string(_LIST_TABLE, table) + string(_LIST_SET, layout.name)) + 4
    if offset is None or offset < start:
        # The kernel points at an element only from Linux 4.19 or so on; a message of one needs no pointing.
        length = _LENGTH.unpack_from(payload, start)[0] if len(payload) > start else 0
        offset = start if start + length >= len(payload) else None
    if offset is None:
        return b""
    at = start
    while at + 4 <= len(payload):
        length = _LENGTH.unpack_from(payload, at)[0]
        if at <= offset < at + max(length, 4):
            return payload[at + _KEY_AT : at + _KEY_AT + layout.key_size]
        at += max(4, (length + 3) & ~3)
    return b""


def read_elements(wire: NftSocket, schema: Schema, family: Family, name: str) -> Elements:
    """Read a set or map from the kernel.

    Returns:
        Key to value; a verdict map's value is an encoded verdict as `expressions.goto` makes it; a set of networks'
        value is whether the key is the first address behind a network.

    Raises:
        OSError: as `read_set`.
    """
    return read_set(wire, schema.table, family, name, _reader(schema.layouts[family][name]))


def read_set(
    wire: NftSocket, table: str, family: Family, name: str, read: Callable[[bytes, dict[bytes, Value]], int]
) -> dict[bytes, Value]:
    """Read a set or map from the kernel, whole.

    The kernel lists a set in parts, and finds where it was by counting. A moment after a transaction, a set that grew
    or shrank is put into a new hash table, which changes the order and marks no list as interrupted: elements are
    missing then, and at least as many come twice. Such a list is read anew.

    Args:
        wire: the way to the kernel.
        table: its name.
        family: address family.
        name: of the set or map.
        read: puts the elements of a part into a dict; returns how many there were.

    Raises:
        OSError: ENOENT when there is no such set; EBUSY when its order changes all the time.
    """
    request = string(_LIST_TABLE, table) + string(_LIST_SET, name)
    for _ in range(_LOOKS):
        found: dict[bytes, Value] = {}
        count = sum(
            read(elements, found)
            for payload in wire.dump(GETSETELEM, af(family), request)
            for kind, elements in attributes(payload)
            if kind == _LIST_ELEMENTS
        )
        if count == len(found):
            return found
    raise OSError(errno.EBUSY, f"{name} of table {table} changes faster than it can be read")


def _reader(layout: Layout) -> _Reader:
    if layout.ranges and len(layout.key) == 1:
        return _BoundaryReader(layout)
    return _VerdictReader(layout) if layout.data is None else _Reader(layout)


class _Reader:
    """Reads elements by their places: the kernel writes the same attributes in the same order for each of a set."""

    def __init__(self, layout: Layout) -> None:
        self._key_end = _KEY_AT + layout.key_size
        self._data_at = self._key_end + 8
        self._data_end = self._data_at + layout.data_size

    def __call__(self, elements: bytes, into: Elements) -> int:
        length_at, key_end, data_at, data_end = _LENGTH.unpack_from, self._key_end, self._data_at, self._data_end
        offset, end, count = 0, len(elements), 0
        while offset < end:
            into[elements[offset + _KEY_AT : offset + key_end]] = elements[offset + data_at : offset + data_end]
            count += 1
            # A length of 0 would never end.
            offset += (length_at(elements, offset)[0] + 3) & ~3 or end
        return count


class _VerdictReader(_Reader):
    def __call__(self, elements: bytes, into: Elements) -> int:
        every = list(attributes(elements))
        for _, element in every:
            fields = dict(attributes(element))
            key = next(v for _, v in attributes(fields[1]))
            verdict = dict(attributes(next(v for _, v in attributes(fields[2]))))
            into[key] = nested(2, *(attribute(kind, value) for kind, value in sorted(verdict.items())))
        return len(every)


class _BoundaryReader(_Reader):
    """Reads an interval set: a tree, whose order does not change."""

    def __call__(self, elements: bytes, into: Elements) -> int:
        before = len(into)
        for _, element in attributes(elements):
            fields = dict(attributes(element))
            key = next(v for _, v in attributes(fields[1]))
            behind = bool(fields.get(3, b"\0")[-1] & 1)
            # One address can end a network and begin the next; networks never touch here, so one entry is enough.
            into[key] = b"\1" if behind else b"\0"
        return len(into) - before


def boundaries(networks: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Return what `read_elements` shall find for networks, but for the mark that nft sets below the first one."""
    found: Elements = {}
    for first, last in networks:
        found[first] = b"\0"
        behind = int.from_bytes(last, "big") + 1
        if behind < 1 << 8 * len(last):
            found[behind.to_bytes(len(last), "big")] = b"\1"
    return found
