"""Whether something is in nf_tables, in the network namespace of the calling thread; cheap, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.netlink import NftSocket, string
from pointsman.dataplane.nftables.wire import GETCHAIN, GETTABLE, af
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from pointsman.model.plan import Family

_NAME_OF_TABLE: Final = 1
_TABLE_OF_CHAIN: Final = 1
_NAME_OF_CHAIN: Final = 3


def has_table(name: str, family: Family = IPV4) -> bool:
    """Tell whether there is such a table; false also where nobody may ask."""
    return _is_there(GETTABLE, family, string(_NAME_OF_TABLE, name))


def has_chain(family: Family, table: str, chain: str) -> bool:
    """Tell whether there is such a chain; false also where nobody may ask."""
    return _is_there(GETCHAIN, family, string(_TABLE_OF_CHAIN, table) + string(_NAME_OF_CHAIN, chain))


def _is_there(command: int, family: Family, name: bytes) -> bool:
    try:
        wire = NftSocket()
    except OSError:
        return False
    try:
        wire.get(command, af(family), name)
    except OSError:
        return False
    finally:
        wire.close()
    return True
