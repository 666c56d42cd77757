"""The table's fixed part in the kernel: loading it, and knowing whether it is still what was loaded.

A checksum of the text that was loaded and of the rules as the kernel holds them stands in the table itself (the map
``structure``), so that a new agent knows at once whether it can trust what it finds.
"""

from __future__ import annotations

import errno
import functools
import zlib
from typing import TYPE_CHECKING, Final

import nftables

from pointsman.dataplane.netlink import attributes, string
from pointsman.dataplane.nftables import skeleton
from pointsman.dataplane.nftables.layout import number
from pointsman.dataplane.nftables.wire import GETCHAIN, GETRULE, GETSET, GETTABLE, af, read_elements
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family

TEXT_KEY: Final = number(0)
RULES_KEY: Final = number(1)
SETS_KEY: Final = number(2)

_CHAIN_TABLE: Final = 1
_CHAIN_NAME: Final = 3
_CHAIN_FACTS: Final = frozenset({4, 5, 7})
"""Hook, policy and type; not the handle and the use count, which change by themselves."""
_RULE_TABLE: Final = 1
_RULE_CHAIN: Final = 2
_RULE_EXPRESSIONS: Final = 4


class Libnftables:
    """libnftables in process, for what is text: tables, sets, fixed chains."""

    def __init__(self) -> None:
        """Open the library in the network namespace of the calling thread.

        Raises:
            OSError: libnftables.so.1 is not installed (Debian: libnftables1).
        """
        self._library = nftables.Nftables()

    def run(self, commands: str) -> None:
        """Run commands as one transaction.

        Raises:
            DataplaneError: with libnftables' own words, which name the line.
        """
        code, _, errors = self._library.cmd(commands)
        if code:
            raise DataplaneError(f"nftables refused the fixed rules: {' '.join(errors.split())}")


@functools.cache
def sets_checksum(schema: Schema, family: Family) -> bytes:
    """Return a checksum of this release's declarations: when they differ, elements can't stay."""
    return number(zlib.crc32("\n".join(skeleton.declarations(schema, family)).encode()))


def seal(schema: Schema, family: Family, sums: Mapping[str, int], *, drop_invalid: bool) -> Elements:
    """Return what the map ``structure`` shall hold.

    Args:
        schema: the table's.
        family: address family.
        sums: checksums of all chains, as `chain_checksums` reads them.
        drop_invalid: as in `NodeSettings`.
    """
    rules = sum(zlib.crc32(name.encode(), value) for name, value in sums.items()) & 0xFFFF_FFFF
    return {
        SETS_KEY: sets_checksum(schema, family),
        TEXT_KEY: _text_checksum(schema, family, drop_invalid=drop_invalid),
        RULES_KEY: number(rules),
    }


def is_sealed(
    known: Elements, schema: Schema, family: Family, sums: Mapping[str, int], *, drop_invalid: bool
) -> bool:  # fmt: skip
    """Tell whether all chains are what an agent of this release left behind."""
    wanted = seal(schema, family, sums, drop_invalid=drop_invalid)
    return all(known.get(key) == value for key, value in wanted.items())


def table_flags(wire: NftSocket, schema: Schema, family: Family) -> int:
    """Return the table's flags; 0 is what they shall be."""
    fields = dict(attributes(wire.get(GETTABLE, af(family), string(1, schema.table))))
    return int.from_bytes(fields.get(2, b""), "big")


@functools.cache
def _text_checksum(schema: Schema, family: Family, *, drop_invalid: bool) -> bytes:
    return number(zlib.crc32(skeleton.table_text(schema, family, drop_invalid=drop_invalid).encode()))


def chain_checksums(wire: NftSocket, schema: Schema, family: Family) -> dict[str, int]:
    """Read the table's chains and their rules.

    Returns:
        A checksum for each chain; empty when there is no table.
    """
    sums: dict[str, int] = {}
    for payload in wire.dump(GETCHAIN, af(family), string(_CHAIN_TABLE, schema.table)):
        fields = list(attributes(payload))
        names = dict(fields)
        if _text(names[_CHAIN_TABLE]) == schema.table:
            facts = b"".join(value for kind, value in fields if kind in _CHAIN_FACTS)
            sums[_text(names[_CHAIN_NAME])] = zlib.crc32(facts)
    for payload in wire.dump(GETRULE, af(family), string(_RULE_TABLE, schema.table)):
        fields_by = dict(attributes(payload))
        name = _text(fields_by[_RULE_CHAIN])
        if _text(fields_by[_RULE_TABLE]) == schema.table and name in sums:
            sums[name] = zlib.crc32(fields_by.get(_RULE_EXPRESSIONS, b""), sums[name])
    return sums


def sets(wire: NftSocket, schema: Schema, family: Family) -> set[str]:
    """Read the names of the table's sets and maps."""
    answers = wire.dump(GETSET, af(family), string(1, schema.table))
    fields = [dict(attributes(payload)) for payload in answers]
    return {_text(found[2]) for found in fields if _text(found[1]) == schema.table}


def class_chain_checksum(wire: NftSocket, schema: Schema, family: Family, chain: str) -> int:
    """Return what `chain_checksums` says of one chain that no hook calls."""
    total = zlib.crc32(b"")
    request = string(_RULE_TABLE, schema.table) + string(_RULE_CHAIN, chain)
    for payload in wire.dump(GETRULE, af(family), request):
        fields = dict(attributes(payload))
        if _text(fields[_RULE_CHAIN]) == chain:
            total = zlib.crc32(fields.get(_RULE_EXPRESSIONS, b""), total)
    return total


def read_structure(wire: NftSocket, schema: Schema, family: Family) -> Elements | None:
    """Read the map ``structure``; None when there is no table (or none of ours)."""
    try:
        return read_elements(wire, schema, family, "structure")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
