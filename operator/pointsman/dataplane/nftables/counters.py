"""What a table has counted: the new connections of each frontend, and of each of its endpoints.

The kernel counts for each element, and an element that is written anew begins at 0: a frontend's when its number of
slots changes, a slot's when another endpoint moves in. So what is told are sums that are kept here, over all elements
of a frontend or an endpoint, those that are gone included. They only grow for as long as it is there. What an element
counted between the last look at it and its end is not in them.

Nothing is kept before the first look, which finds what the kernel has counted since an agent wrote the elements. What
a later one costs is the kernel's list of all elements, as a map can only be read whole, and little else: Python works
for those that have counted since. Measured on two cores: 40 ms at 10,000 Services with two endpoints each, 0.5 s at
44,000 with two, 4 s at 5,000 with fifty (the kernel walks the whole map for each part of its list).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.nftables.layout import PLACES, Layout, endpoint_of, frontend_of
from pointsman.dataplane.nftables.wire import read_set
from pointsman.dataplane.protocol import ServerTraffic, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.model.plan import Family, Frontend

_REMEMBERED: Final = ("sticky-endpoints", "sticky-endpoints-outside")
"""Where the connections are counted of clients that go where they were before."""
_LOOKS: Final = 3
"""How often the maps are read anew because somebody changed nf_tables meanwhile: an element may have been skipped."""

_ELEMENT_EXPRESSION: Final = 7
_EXPRESSION_DATA: Final = 2
_COUNTER_PACKETS: Final = 2
_KIND: Final = 0x3FFF
_KEY_AT: Final = 12
"""An element's key stands behind three attribute headers: element, key, value."""
_DATA_HEADERS: Final = 8
"""Octets between an element's key and its value: two headers, the same for all elements of a map."""
_HEADER: Final = struct.Struct("=HH")
_PACKETS: Final = 8
"""Octets of the number of packets."""

Counts = dict[bytes, int]
"""What elements have counted, by their octets from the key to the value."""


class Map(msgspec.Struct, frozen=True):
    """One map whose elements count.

    Attributes:
        layout: its layout.
        head: octets at an element's begin that name the frontend.
        tail: octets at its end that name the endpoint; 0 where the element is the frontend's own.
        slots: its elements are slots.
    """

    layout: Layout
    head: int
    tail: int = 0
    slots: bool = False


class Tally(msgspec.Struct, gc=False):
    """The sum of a frontend, or of one of its endpoints.

    Attributes:
        connections: what its elements have counted.
        elements: how many it has.
        slots: how many of them are slots.
    """

    connections: int = 0
    elements: int = 0
    slots: int = 0


class Counters:
    """The sums of one family's table.

    Args:
        schema: what the table consists of.
        family: address family.
    """

    def __init__(self, schema: Schema, family: Family) -> None:
        self._table = schema.table
        self._family: Family = family
        self._maps = {counting.layout.name: counting for counting in _maps(schema.layouts[family])}
        self._last: dict[str, Counts] = {name: {} for name in self._maps}
        self._tallies: dict[bytes, dict[bytes, Tally]] = {}
        self._found: dict[Frontend, Traffic] = {}

    def read(self, wire: NftSocket) -> Mapping[Frontend, Traffic]:
        """Look at the counters.

        Returns:
            As `take`.

        Raises:
            OSError: the kernel refused; ENOENT when there is no such table.
        """
        counts: dict[str, Counts] = {}
        for _ in range(_LOOKS):
            wire.interrupted = False
            counts = {name: read_counts(wire, self._table, self._family, m.layout) for name, m in self._maps.items()}
            if not wire.interrupted:
                break
        return self.take(counts)

    def take(self, counts: dict[str, Counts]) -> Mapping[Frontend, Traffic]:
        """Take what elements have counted by now, by map.

        Returns:
            What every frontend has got; a server's weight is the number of its slots. What did not change since the
            last call is the same object.
        """
        touched: set[bytes] = set()
        for name, now in counts.items():
            self._add(self._maps[name], self._last[name], now, touched)
        # Behind all that came, so that an endpoint which moves to another slot is there all the time.
        for name, now in counts.items():
            self._drop(self._maps[name], self._last[name].keys() - now.keys(), touched)
        self._last = counts
        for key in touched:
            self._tell(key)
        return self._found.copy()

    def _add(self, counting: Map, last: Counts, now: Counts, touched: set[bytes]) -> None:
        head, tail = counting.head, counting.tail
        for element, count in now.items():
            known = last.get(element)
            if known == count:
                continue
            key = element[:head]
            tallies = self._tallies.setdefault(key, {})
            tally = tallies.setdefault(element[len(element) - tail :], Tally())
            if known is None:
                tally.elements += 1
                tally.slots += counting.slots
            tally.connections += count if known is None or count < known else count - known
            touched.add(key)

    def _drop(self, counting: Map, gone: set[bytes], touched: set[bytes]) -> None:
        for element in gone:
            key, whose = element[: counting.head], element[len(element) - counting.tail :]
            tally = self._tallies[key][whose]
            tally.elements -= 1
            tally.slots -= counting.slots
            if not tally.elements:
                del self._tallies[key][whose]
            touched.add(key)

    def _tell(self, key: bytes) -> None:
        """Make the traffic of a frontend whose tallies have changed."""
        frontend = self._frontend(key)
        tallies = self._tallies[key]
        if frontend is None:
            return
        own = tallies.get(b"")
        if own is None:
            self._found.pop(frontend, None)
        else:
            servers = {
                endpoint_of(self._family, value): ServerTraffic(tally.connections, tally.slots)
                for value, tally in tallies.items()
                if value
            }
            self._found[frontend] = Traffic(own.connections, servers)
        if not tallies:
            del self._tallies[key]

    def _frontend(self, key: bytes) -> Frontend | None:
        place = next(place for place in PLACES if self._maps[f"{place}services"].head == len(key))
        return frontend_of(self._family, f"{place}services", key)


def _maps(layouts: Mapping[str, Layout]) -> Iterator[Map]:
    for place in PLACES:
        frontends, slots = layouts[f"{place}services"], layouts[f"{place}endpoints"]
        yield Map(frontends, frontends.key_size)
        yield Map(slots, frontends.key_size, slots.data_size, slots=True)
        for name in _REMEMBERED:
            yield Map(layouts[f"{place}{name}"], frontends.key_size, slots.data_size)


def read_counts(wire: NftSocket, table: str, family: Family, layout: Layout) -> Counts:
    """Read what each element of a map has counted.

    Raises:
        OSError: as `read_set`.
    """
    return read_set(wire, table, family, layout.name, _Reader(layout))


class _Reader:
    """Reads parts of a dump: the kernel writes the same attributes in the same order for each element of a map.

    On machines that read no number at an odd place it pads some elements, which are longer then.
    """

    def __init__(self, layout: Layout) -> None:
        self._octets = layout.key_size + _DATA_HEADERS + layout.data_size
        self._forms: dict[int, struct.Struct | None] = {}

    def __call__(self, elements: bytes, into: Counts) -> int:
        offset, size, count = 0, len(elements), 0
        while offset < size:
            # A length of 0 would never end.
            length = (_HEADER.unpack_from(elements, offset)[0] + 3) & ~3 or size
            if length not in self._forms:
                self._forms[length] = self._form(elements[offset : offset + length])
            form = self._forms[length]
            if form is None:
                offset += length
            elif _alike(elements, length):
                into.update(form.iter_unpack(elements))
                return size // length
            else:
                key, packets = form.unpack_from(elements, offset)
                into[key] = packets
                count += 1
                offset += length
        return count

    def _form(self, element: bytes) -> struct.Struct | None:
        """Say where an element has its octets and its counter; None when it has no counter."""
        place = _place_of_packets(element)
        if place is None:
            return None
        between, behind = place - _KEY_AT - self._octets, len(element) - place - _PACKETS
        return struct.Struct(f">{_KEY_AT}x{self._octets}s{between}xQ{behind}x")


def _alike(elements: bytes, length: int) -> bool:
    """Tell whether all elements are of one length, quickly: all begin with it."""
    number, left = divmod(len(elements), length)
    return not left and all(elements[place::length] == elements[place : place + 1] * number for place in (0, 1))


def _place_of_packets(element: bytes) -> int | None:
    """Find the number of packets in an element's counter."""
    place, end = _HEADER.size, len(element)
    for wanted in (_ELEMENT_EXPRESSION, _EXPRESSION_DATA, _COUNTER_PACKETS):
        while place < end:
            length, kind = _HEADER.unpack_from(element, place)
            if kind & _KIND == wanted:
                break
            place += (length + 3) & ~3 or end
        else:
            return None
        place, end = place + _HEADER.size, place + length
    return place
