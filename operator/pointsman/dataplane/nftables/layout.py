"""The sets and maps of a table: their names, their types, and their elements as octets and as text.

One layout serves both address families and both places of a frontend: a virtual IP (the key starts with the address)
or a node port (it does not, and the set's name starts with ``node-port-``).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from pointsman.dataplane.netlink import NLA_F_NESTED, nested
from pointsman.model.plan import IPV4, NODE_PORT, Frontend, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.model.plan import Backend, Family

TABLE: Final = "pointsman"

FieldType = Literal["ipv4_addr", "ipv6_addr", "inet_proto", "inet_service", "classid", "number", "mark"]
Coder = Callable[[bytes, bytes], bytes]
"""Encodes an element from its key and value."""
Place = Literal["", "node-port-"]
"""What a frontend's sets and chains are called: plain for virtual IPs, with a prefix for node ports."""

NETWORKS: Final = ("pod-cidrs", "service-cidrs", "node-port-cidrs")
"""Sets of networks: few elements, written whole."""

OUTSIDE_SLOTS: Final = 1 << 16
"""The slots of a frontend's outside pool start here, in the same map as those of its other pool."""

PLACES: Final[tuple[Place, ...]] = ("", "node-port-")
PROTOCOLS: Final[Mapping[Transport, int]] = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_SIZES: Final[Mapping[FieldType, int]] = {"ipv6_addr": 16}

_KEY: Final = 1
_DATA: Final = 2
_KEY_END: Final = 10

_END_PORT: Final = struct.Struct("=B3x2s2x")
_SLOT: Final = struct.Struct("=I")


Chains = dict[str, list[str]]
"""Rules, and a base chain's hook as first line, by chain."""


class Layout(msgspec.Struct, frozen=True):
    """One set or map.

    Attributes:
        name: as `nft` shows it.
        declaration: what stands between its braces in nft's language.
        key: types of the key's parts.
        data: types of the value's parts; empty for a set; None for a verdict map.
        ranges: a key is a range of keys; an element's value is the range's last key.
    """

    name: str
    declaration: str
    key: tuple[FieldType, ...]
    data: tuple[FieldType, ...] | None = ()
    ranges: bool = False

    @property
    def key_size(self) -> int:
        """Octets of a key."""
        return sum(_SIZES.get(kind, 4) for kind in self.key)

    @property
    def data_size(self) -> int:
        """Octets of a value; 0 for a set or a verdict map."""
        if self.ranges:
            return self.key_size
        return sum(_SIZES.get(kind, 4) for kind in self.data or ())

    def encoder(self) -> Callable[[bytes, bytes], bytes]:
        """Return the function that encodes an element from its key and value.

        All elements of one set have the same shape, so everything but key and value is made once. The value of a
        verdict map is an encoded verdict (see `expressions.goto`), that of a set is empty.
        """
        key_head = _heads(_KEY, self.key_size)
        if self.data is None:
            return lambda key, verdict: nested(1, key_head + key + nested(_DATA, verdict))
        size, data_size = 4 + len(key_head) + self.key_size, self.data_size
        if not data_size:
            head = struct.pack("=HH", size, 1 | NLA_F_NESTED) + key_head
            return lambda key, _: head + key
        data_head = _heads(_KEY_END if self.ranges else _DATA, data_size)
        head = struct.pack("=HH", size + len(data_head) + data_size, 1 | NLA_F_NESTED) + key_head
        return lambda key, data: head + key + data_head + data

    def remover(self) -> Callable[[bytes, bytes], bytes]:
        """Return the function that encodes an element for its removal: the key is enough, but for ranges."""
        if self.ranges:
            return self.encoder()
        head = _heads(_KEY, self.key_size)
        head = struct.pack("=HH", 4 + len(head) + self.key_size, 1 | NLA_F_NESTED) + head
        return lambda key, _: head + key

    def text(self, key: bytes, data: bytes = b"") -> str:
        """Write an element in nft's language; a verdict map's `data` is the target chain's name or a verdict."""
        words = " . ".join(_texts(self.key, key))
        if self.data is None:
            return f"{words} : {data.decode()}"
        if self.ranges:
            last = _texts(self.key, data)
            return " . ".join(
                low if low == high else f"{low}-{high}" for low, high in zip(_texts(self.key, key), last, strict=True)
            )
        return f"{words} : {' . '.join(_texts(self.data, data))}" if self.data else words


class FixedChains(Protocol):
    """Returns the fixed chains of a family; those that are jumped to come first."""

    def __call__(self, family: Family, *, drop_invalid: bool) -> Chains:
        """Return rules by chain; `drop_invalid` is that of `NodeSettings`."""
        ...


@dataclass(frozen=True, eq=False)
class Schema:
    """What a table consists of, in both families.

    Attributes:
        table: its name.
        layouts: sets and maps by name, in the order in which they are declared. One of them is ``structure``.
        chains: returns the fixed chains.
        unread: sets that the agent does not compare: packets fill them, or they describe the table itself.
        is_own_chain: tells a chain that is no fixed one, by its name.
    """

    table: str
    layouts: Mapping[Family, Mapping[str, Layout]]
    chains: FixedChains
    unread: frozenset[str] = frozenset({"structure"})
    is_own_chain: Callable[[str], bool] = lambda _: False

    def empty(self, family: Family) -> dict[str, dict[bytes, bytes]]:
        """Return what a table without elements holds."""
        return {name: {} for name in self.layouts[family] if name not in self.unread}

    @cached_property
    def encoders(self) -> Mapping[Family, Mapping[str, Coder]]:
        """The functions that encode elements that come, by family and set."""
        return {f: {name: layout.encoder() for name, layout in found.items()} for f, found in self.layouts.items()}

    @cached_property
    def removers(self) -> Mapping[Family, Mapping[str, Coder]]:
        """The functions that encode elements that go, by family and set."""
        return {f: {name: layout.remover() for name, layout in found.items()} for f, found in self.layouts.items()}


STRUCTURE: Final = Layout("structure", "type mark : mark", ("mark",), ("mark",))
"""The map in which a table says of itself what was loaded; every schema has it."""


def network_layouts(address: FieldType, *names: str) -> Iterator[Layout]:
    """Return sets of networks."""
    for name in names:
        yield Layout(name, f"type {address}; flags interval", (address,), ranges=True)


def source_ranges_layout(address: FieldType) -> Layout:
    """Return the set of the networks from which clients may connect to a frontend."""
    return Layout(
        "source-ranges",
        f"type {address} . inet_proto . inet_service . {address}; flags interval",
        (address, "inet_proto", "inet_service", address),
        ranges=True,
    )


def _heads(kind: int, size: int) -> bytes:
    return struct.pack("=HHHH", size + 8, kind | NLA_F_NESTED, size + 4, 1)


def _texts(kinds: tuple[FieldType, ...], octets: bytes) -> Iterator[str]:
    offset = 0
    for kind in kinds:
        size = _SIZES.get(kind, 4)
        yield _text(kind, octets[offset : offset + size])
        offset += size


def _text(kind: FieldType, octets: bytes) -> str:
    match kind:
        case "ipv4_addr":
            return socket.inet_ntop(socket.AF_INET, octets)
        case "ipv6_addr":
            return socket.inet_ntop(socket.AF_INET6, octets)
        case "inet_proto":
            return _PROTOCOL_NAMES.get(octets[0], str(octets[0]))
        case "inet_service":
            return str(int.from_bytes(octets[:2], "big"))
        case "classid":
            number = _SLOT.unpack(octets)[0]
            return f"{number >> 16:x}:{number & 0xFFFF:x}"
        case _:
            return str(_SLOT.unpack(octets)[0])


def layouts(family: Family) -> Mapping[str, Layout]:
    """Return every set and map of a family's table, by name, in the order in which they are declared."""
    return LAYOUTS[family]


def address_octets(family: Family, address: str) -> bytes:
    """Encode an address as a register holds it."""
    return socket.inet_pton(socket.AF_INET if family == IPV4 else socket.AF_INET6, address)


def address_text(family: Family, octets: bytes) -> str:
    """Read an address from its octets."""
    return socket.inet_ntop(socket.AF_INET if family == IPV4 else socket.AF_INET6, octets)


def place_of(frontend: Frontend) -> Place:
    """Tell which sets hold this frontend."""
    return "node-port-" if frontend.address == NODE_PORT else ""


def frontend_key(frontend: Frontend) -> bytes:
    """Encode what packets to this frontend are known by: (address,) protocol, port."""
    end = _END_PORT.pack(PROTOCOLS[frontend.protocol], frontend.port.to_bytes(2, "big"))
    if frontend.address == NODE_PORT:
        return end
    return address_octets(frontend.family, frontend.address) + end


def endpoint_value(family: Family, backend: Backend) -> bytes:
    """Encode where a connection is sent: address and port."""
    return address_octets(family, backend.address) + backend.port.to_bytes(2, "big") + b"\0\0"


def endpoint_size(family: Family) -> int:
    """Octets of `endpoint_value`."""
    return 8 if family == IPV4 else 20


def number(value: int) -> bytes:
    """Encode a 32-bit number as a register holds it, in the machine's byte order."""
    return _SLOT.pack(value)


def endpoint_of(family: Family, value: bytes) -> tuple[str, int]:
    """Read address and port from what `endpoint_value` made."""
    size = 4 if family == IPV4 else 16
    return address_text(family, value[:size]), int.from_bytes(value[size : size + 2], "big")


def address_type(family: Family) -> FieldType:
    """Return the type of an address."""
    return "ipv4_addr" if family == IPV4 else "ipv6_addr"


def frontend_types(family: Family, place: Place) -> tuple[FieldType, ...]:
    """Return the types of what `frontend_key` makes."""
    return ("inet_proto", "inet_service") if place else (address_type(family), "inet_proto", "inet_service")


def _family_layouts(family: Family) -> dict[str, Layout]:
    address = address_type(family)
    found = [layout for place in PLACES for layout in _frontend_layouts(family, place)]
    found += [
        Layout("hairpin", f"type {address} . {address}", (address, address)),
        Layout("cluster-ips", f"type {address}", (address,)),
        source_ranges_layout(address),
        _affinity_layout(family),
        *network_layouts(address, *NETWORKS),
        STRUCTURE,
    ]
    return {layout.name: layout for layout in found}


def _frontend_layouts(family: Family, place: Place) -> Iterator[Layout]:
    address, key = address_type(family), frontend_types(family, place)
    frontend = " . ".join(key)
    for name, counter in (("services", "; counter"), ("inside", ""), ("outside", "")):
        yield Layout(f"{place}{name}", f"type {frontend} : classid{counter}", key, ("classid",))
    for name in ("classes", "inner-classes"):
        yield Layout(f"{place}{name}", "type classid : verdict", ("classid",), None)
    for name in ("endpoints", "sticky-endpoints", "sticky-endpoints-outside"):
        declaration = f"type {frontend} . classid : {address} . inet_service; counter"
        yield Layout(f"{place}{name}", declaration, (*key, "classid"), (address, "inet_service"))
    yield Layout(f"{place}affinity-timeouts", f"type {frontend} : verdict", key, None)
    for name in ("masquerade-all", "masquerade-off-cluster", "masquerade-node"):
        yield Layout(f"{place}{name}", f"type {frontend}", key)


def _affinity_layout(family: Family) -> Layout:
    """Return the map of clients, filled by packets.

    nft 1.0.6 has registers for 16 words in a rule. A client and a frontend in IPv6 alone would take ten of them, so
    there both addresses are kept as hashes.
    """
    if family == IPV4:
        types = "type ipv4_addr . ipv4_addr . inet_proto . inet_service : classid"
        kind: FieldType = "ipv4_addr"
    else:
        # A hash is a plain number, and that type has no name; `numgen` stands for it (nft 1.0.6 crashes when it lists
        # a `typeof jhash`).
        types = "typeof numgen random mod 2 . numgen random mod 2 . meta l4proto . th dport : meta priority"
        kind = "number"
    declaration = f"{types}; flags dynamic,timeout; size 1048576; timeout 1d"
    return Layout("affinity", declaration, (kind, kind, "inet_proto", "inet_service"), ("classid",))


LAYOUTS: Final[Mapping[Family, Mapping[str, Layout]]] = {4: _family_layouts(4), 6: _family_layouts(6)}


def frontend_of(family: Family, set_name: str, key: bytes) -> Frontend | None:
    """Tell the frontend that an element belongs to; None for sets whose keys do not name one."""
    layout = layouts(family).get(set_name)
    if layout is None or "inet_service" not in layout.key or set_name == "affinity":
        return None
    if layout.key[0] == "inet_proto":
        return frontend_in(family, "node-port-", key)
    return frontend_in(family, "", key)


def frontend_in(family: Family, place: Place, key: bytes) -> Frontend | None:
    """Read the frontend with which a key begins (see `frontend_key`); None for a protocol that is none of ours."""
    if place:
        return _frontend(family, NODE_PORT, key)
    kind = address_type(family)
    size = _SIZES.get(kind, 4)
    return _frontend(family, _text(kind, key[:size]), key[size:])


def _frontend(family: Family, address: str, rest: bytes) -> Frontend | None:
    protocol = _PROTOCOL_NAMES.get(rest[0])
    if protocol is None:
        return None
    return Frontend(family, address, protocol, int.from_bytes(rest[4:6], "big"))
