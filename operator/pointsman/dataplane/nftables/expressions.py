"""nf_tables expressions as bytes: the few that rules on ``typeof`` maps need.

The fixed rules are text, loaded by libnftables. The rules here refer to maps whose keys hold a slot number, and
libnftables 1.0.6 (Debian 12) refuses to add such a rule to a map that is already in the kernel ("conflicting
protocols specified"). So they are encoded here; their text form, for people and for `render`, stands beside them in
`pointsman.dataplane.nftables.classes`, and the kernel tier proves that both make the same rule.

Source: include/uapi/linux/netfilter/nf_tables.h. Registers are numbered in words of 32 bits, from 0.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from pointsman.dataplane.netlink import attribute, nested, string, u32

AF_IPV4: Final = 2
AF_IPV6: Final = 10

NETWORK: Final = 1
TRANSPORT: Final = 2

CT_PROTO_SRC: Final = 11
CT_PROTO_DST: Final = 12
CT_SRC: Final = {4: 19, 6: 21}
CT_DST: Final = {4: 20, 6: 22}
ORIGINAL: Final = 0
REPLY: Final = 1

_META_PRIORITY: Final = 2
_META_L4PROTO: Final = 16
_JUMP: Final = -3
_GOTO: Final = -4
_FIRST_REGISTER: Final = 8
_NFT_DYNSET_OP_UPDATE: Final = 1
_NFT_DYNSET_OP_DELETE: Final = 2
_NFT_NAT_DNAT: Final = 1


def rule(*expressions: bytes) -> bytes:
    """Encode a rule's expressions (NFTA_RULE_EXPRESSIONS)."""
    return nested(4, *(nested(1, expression) for expression in expressions))


def _expression(name: str, *fields: bytes) -> bytes:
    return string(1, name) + nested(2, *fields)


def _register(kind: int, number: int) -> bytes:
    return u32(kind, _FIRST_REGISTER + number)


def payload(into: int, base: int, offset: int, length: int) -> bytes:
    """Load octets of the packet."""
    return _expression("payload", _register(1, into), u32(2, base), u32(3, offset), u32(4, length))


def l4proto(into: int) -> bytes:
    """Load the transport protocol's number."""
    return _expression("meta", u32(2, _META_L4PROTO), _register(1, into))


def priority(into: int) -> bytes:
    """Load the packet's priority."""
    return _expression("meta", u32(2, _META_PRIORITY), _register(1, into))


def set_priority(source: int) -> bytes:
    """Set the packet's priority."""
    return _expression("meta", u32(2, _META_PRIORITY), _register(3, source))


def ct(into: int, key: int, direction: int) -> bytes:
    """Load a field of the connection's tuple in one direction."""
    return _expression("ct", u32(2, key), _register(1, into), attribute(3, bytes([direction])))


def numgen(into: int, kind: Literal["random", "inc"], modulus: int, offset: int) -> bytes:
    """Load a random number, or the rule's next one, below `modulus`, plus `offset`."""
    numbers = {"inc": 0, "random": 1}
    return _expression("numgen", _register(1, into), u32(2, modulus), u32(3, numbers[kind]), u32(4, offset))


def jhash(into: int, source: int, length: int, *, modulus: int, seed: int, offset: int = 0) -> bytes:
    """Load the hash of `length` octets, scaled to below `modulus`, plus `offset`."""
    fields = [_register(1, source), _register(2, into), u32(3, length), u32(4, modulus), u32(5, seed)]
    if offset:
        fields.append(u32(6, offset))
    return _expression("hash", *fields, u32(7, 0))


def lookup(name: str, source: int, into: int) -> bytes:
    """Look a key up in a map; the rule ends here when there is no such key."""
    return _expression("lookup", string(1, name), _register(2, source), _register(3, into))


def dnat(family: int, address: int, port: int) -> bytes:
    """Translate the destination."""
    return _expression("nat", u32(1, _NFT_NAT_DNAT), u32(2, family), _register(3, address), _register(5, port))


def verdict(encoded: bytes) -> bytes:
    """End the rule with a verdict, as `goto`, `jump` and `drop` encode it."""
    return _expression("immediate", u32(1, 0), nested(2, encoded))


def equal(source: int, value: bytes) -> bytes:
    """Go on only when the register holds `value`."""
    return _expression("cmp", _register(1, source), u32(2, 0), nested(3, attribute(1, value)))


def update(name: str, key: int, data: int, timeout: int) -> bytes:
    """Add an element to a map, or refresh the one that is there (its data stays); `timeout` is in seconds."""
    milliseconds = attribute(6, struct.pack(">Q", timeout * 1000))
    return _expression(
        "dynset",
        _register(4, key),
        _register(5, data),
        u32(3, _NFT_DYNSET_OP_UPDATE),
        milliseconds,
        string(1, name),
    )


def delete(name: str, key: int, data: int) -> bytes:
    """Remove an element from a map, if it is there; the kernel wants a register for `data`, and ignores it."""
    return _expression("dynset", _register(4, key), _register(5, data), u32(3, _NFT_DYNSET_OP_DELETE), string(1, name))


def goto(chain: str) -> bytes:
    """Encode the verdict ``goto chain`` (NFTA_DATA_VERDICT)."""
    return nested(2, attribute(1, struct.pack(">i", _GOTO)), string(2, chain))


def jump(chain: str) -> bytes:
    """Encode the verdict ``jump chain``."""
    return nested(2, attribute(1, struct.pack(">i", _JUMP)), string(2, chain))


def drop() -> bytes:
    """Encode the verdict ``drop``."""
    return nested(2, attribute(1, struct.pack(">i", 0)))


def words(encoded: bytes) -> str:
    """Write an encoded verdict in nft's language."""
    verb = {_GOTO: "goto", _JUMP: "jump"}.get(struct.unpack_from(">i", encoded, 8)[0])
    return f"{verb} {target(encoded)}" if verb else "drop"


def target(encoded: bytes) -> str:
    """Return the chain that an encoded verdict leads to, or ""."""
    # Behind three headers and the verdict's code stands the chain's name, NUL-terminated and padded.
    return encoded[16:].split(b"\0")[0].decode()
