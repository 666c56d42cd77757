"""Reads from the kernel which virtual servers are ours: what `pointsman.dataplane.ipvs.records` makes sense of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.dataplane.ipvs.records import RECORDS
from pointsman.dataplane.ipvs.rules import SCHEMA
from pointsman.dataplane.nftables.structure import SETS_KEY, read_structure, sets_checksum
from pointsman.dataplane.nftables.wire import read_elements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family


def read_records(wire: NftSocket, family: Family) -> Mapping[str, Elements]:
    """Read the sets of `RECORDS`; one that is not there counts as empty.

    Raises:
        OSError: they can't be read.
    """
    return {name: _elements(wire, family, name) for name in RECORDS}


def read_former_records(wire: NftSocket, family: Family) -> Mapping[str, Elements]:
    """Read the same from a table that can't stay, as another release made it; nothing from one of this release.

    Raises:
        OSError: they can't be read.
    """
    known = read_structure(wire, SCHEMA, family)
    is_ours = known is None or known.get(SETS_KEY) == sets_checksum(SCHEMA, family)
    return {} if is_ours else read_records(wire, family)


def _elements(wire: NftSocket, family: Family, name: str) -> Elements:
    try:
        return read_elements(wire, SCHEMA, family, name)
    except FileNotFoundError:
        return {}
