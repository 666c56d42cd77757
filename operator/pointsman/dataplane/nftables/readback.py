"""What a table holds, read back from the kernel."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pointsman.dataplane.nftables.layout import PLACES, endpoint_of, frontend_of
from pointsman.dataplane.nftables.wire import read_elements
from pointsman.model.plan import Backend, Frontend

if TYPE_CHECKING:
    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.change import Held
    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.model.plan import Family


def read_held(wire: NftSocket, schema: Schema, family: Family) -> Held:
    """Read every set that the agent writes.

    Raises:
        FileNotFoundError: a set is missing.
        InterruptedError: the table changed meanwhile.
    """
    return {name: read_elements(wire, schema, family, name) for name in schema.empty(family)}


def backends_held(family: Family, held: Held) -> dict[Frontend, tuple[Backend, ...]]:
    """Return every frontend with the backends that get its new connections; a weight is a number of slots.

    Slots of a frontend that is not in the map of Services get nothing.
    """
    slots: defaultdict[Frontend, Counter[bytes]] = defaultdict(Counter)
    found: dict[Frontend, tuple[Backend, ...]] = {}
    for place in PLACES:
        for key in held[f"{place}services"]:
            if frontend := frontend_of(family, f"{place}services", key):
                found[frontend] = ()
        for key, value in held[f"{place}endpoints"].items():
            if frontend := frontend_of(family, f"{place}endpoints", key):
                slots[frontend][value] += 1
    for frontend in found.keys() & slots.keys():
        counts = slots[frontend]
        found[frontend] = tuple(sorted(_backend(family, value, count) for value, count in counts.items()))
    return found


def _backend(family: Family, value: bytes, slots: int) -> Backend:
    return Backend(*endpoint_of(family, value), slots)
