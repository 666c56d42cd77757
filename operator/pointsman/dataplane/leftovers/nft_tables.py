"""nftables tables by name: how much is in them; and their end."""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.leftovers.found import Leftover, many
from pointsman.dataplane.netlink import Message, NftSocket, attributes, string
from pointsman.dataplane.nftables.skeleton import ip_of
from pointsman.dataplane.nftables.wire import DELTABLE, GETCHAIN, GETSET, GETSETELEM, GETTABLE, af
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family

_NAME_OF_TABLE: Final = 1
_NAME_OF_SET: Final = 2
_ELEMENTS: Final = 3
_ABSENT: Final = frozenset({errno.ENOENT, errno.EAFNOSUPPORT})


def find_tables(wire: NftSocket, name: str) -> list[Leftover]:
    """Look for the tables of a name, IPv4's and IPv6's.

    Raises:
        OSError: the kernel refused for another reason than that there is none.
    """
    return [_describe(wire, family, name) for family in FAMILIES if has_table(wire, family, name)]


def has_table(wire: NftSocket, family: Family, name: str) -> bool:
    """Tell whether there is such a table.

    Raises:
        OSError: the kernel refused for another reason than that there is none.
    """
    try:
        wire.get(GETTABLE, af(family), string(_NAME_OF_TABLE, name))
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def delete_tables(wire: NftSocket, name: str) -> None:
    """Delete the tables of a name; none is fine.

    Raises:
        DataplaneError: the kernel refused.
    """
    for family in FAMILIES:
        for refusal in wire.transact([Message(DELTABLE, af(family), string(_NAME_OF_TABLE, name))]):
            if refusal.error not in _ABSENT:
                raise DataplaneError(f"can't delete table {ip_of(family)} {name}: {refusal}")


def _describe(wire: NftSocket, family: Family, name: str) -> Leftover:
    chains = sum(1 for _ in _of_table(wire, GETCHAIN, family, name))
    sets = [fields[_NAME_OF_SET] for fields in _of_table(wire, GETSET, family, name)]
    elements = sum(_count(wire, family, name, each) for each in sets)
    detail = f"{many(chains, 'chain')}, {many(elements, 'element')} of {many(len(sets), 'set')}"
    return Leftover("table", f"{ip_of(family)} {name}", detail=detail)


def _of_table(wire: NftSocket, command: int, family: Family, name: str) -> Iterator[dict[int, bytes]]:
    """List a table's objects of a kind; older kernels list those of all tables."""
    for payload in wire.dump(command, af(family), string(_NAME_OF_TABLE, name)):
        fields = dict(attributes(payload))
        if fields[_NAME_OF_TABLE].rstrip(b"\0").decode() == name:
            yield fields


def _count(wire: NftSocket, family: Family, table: str, set_name: bytes) -> int:
    request = string(_NAME_OF_TABLE, table) + string(_NAME_OF_SET, set_name.rstrip(b"\0").decode())
    found: Counter[int] = Counter()
    for payload in wire.dump(GETSETELEM, af(family), request):
        for kind, value in attributes(payload):
            if kind == _ELEMENTS:
                found[kind] += sum(1 for _ in attributes(value))
    return found.total()
