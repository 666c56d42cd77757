"""What a table holds, read back from the kernel."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pointsman.dataplane.netlink import attributes
from pointsman.dataplane.nftables.layout import PLACES, endpoint_of, frontend_of
from pointsman.dataplane.nftables.wire import GETGEN, read_elements
from pointsman.model.plan import Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.change import Held
    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.model.plan import Family


def read_held(wire: NftSocket, schema: Schema, family: Family) -> Held:
    """Read every set that the agent writes, one after another; see `in_one_piece`.

    Raises:
        FileNotFoundError: a set is missing.
    """
    return {name: read_elements(wire, schema, family, name) for name in schema.empty(family)}


@contextmanager
def in_one_piece(wire: NftSocket) -> Iterator[None]:
    """Read several lists that have to fit together: of one moment between two transactions, whoever makes them.

    Raises:
        InterruptedError: nf_tables changed meanwhile, in our tables or in others; also when a set was missing.
        FileNotFoundError: a set was missing, and nothing had changed.
    """
    before = _generation(wire)
    missing: FileNotFoundError | None = None
    try:
        yield
    except FileNotFoundError as error:
        missing = error
    if _generation(wire) != before:
        raise InterruptedError("nf_tables changed while they were read; run it again") from missing
    if missing is not None:
        raise missing


def _generation(wire: NftSocket) -> bytes:
    return dict(attributes(wire.get(GETGEN, 0)))[1]


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
