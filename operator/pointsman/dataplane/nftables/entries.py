"""One frontend's share of a table: its slots, its elements, and the chains that they need; pure."""

from __future__ import annotations

from ipaddress import collapse_addresses, ip_network
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.nftables import classes, jhash
from pointsman.dataplane.nftables.expressions import goto
from pointsman.dataplane.nftables.layout import (
    address_octets,
    endpoint_size,
    endpoint_value,
    frontend_key,
    number,
    place_of,
)
from pointsman.dataplane.nftables.slots import assign, placed
from pointsman.model.plan import Answer, Frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.dataplane.nftables.classes import Pick
    from pointsman.model.plan import Backend, Draw, Family, Pool

_MASQUERADE: Final[Mapping[str, str]] = {
    "always": "masquerade-all",
    "off-cluster": "masquerade-off-cluster",
    "node": "masquerade-node",
}
_DRAWN_AS: Final[Mapping[Draw, str]] = {"random": "random", "client": "sh", "turn": "rr"}
"""The scheduler of ours that draws in the same way as one of somebody's own."""
_OWN_CHAIN: Final = frozenset({"rr", "wrr"})

Element = tuple[str, bytes, bytes]
"""An element's set, key and value."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the kernel holds for one frontend.

    Attributes:
        answer: what it was made from.
        slots: endpoint values of `answer.pool`, slot by slot.
        outside: the same of `answer.outside`.
    """

    answer: Answer
    slots: bytes = b""
    outside: bytes = b""


def make_entry(frontend: Frontend, answer: Answer, slots: bytes = b"", outside: bytes = b"") -> Entry:
    """Assign an answer's slots, starting from those that are in the kernel.

    Raises:
        ValueError: more endpoints than one pool can have.
    """
    if answer.outside is None:
        return Entry(answer, _slots(frontend.family, answer, answer.pool, slots))
    return Entry(
        answer,
        _slots(frontend.family, answer, answer.pool, slots),
        _slots(frontend.family, answer, answer.outside, outside),
    )


def _slots(family: Family, answer: Answer, pool: Pool, old: bytes) -> bytes:
    if pool.slots is not None:
        values = [endpoint_value(family, backend) for backend in pool.slots.backends]
        return placed(pool.slots.draw, old, values, endpoint_size(family))
    used = [backend for backend in pool.backends if backend.weight]
    values = [endpoint_value(family, backend) for backend in used]
    return assign(answer.scheduler, old, values, [backend.weight for backend in used], endpoint_size(family))


def picks(frontend: Frontend, entry: Entry) -> tuple[Pick | None, Pick | None]:
    """Return how slots are drawn for all or inside clients, and for outside ones; None where there are no slots."""
    answer = entry.answer
    return (
        _pick(frontend, answer, answer.pool, entry.slots, outside=False),
        _pick(frontend, answer, answer.outside, entry.outside, outside=True) if answer.outside else None,
    )


def _pick(frontend: Frontend, answer: Answer, pool: Pool, slots: bytes, *, outside: bool) -> Pick | None:
    if not slots:
        return None
    scheduler = answer.scheduler if pool.slots is None else _DRAWN_AS[pool.slots.draw]
    sticky = answer.affinity is not None
    family, count = frontend.family, len(slots) // endpoint_size(frontend.family)
    if scheduler in _OWN_CHAIN:
        return classes.Pick(family, place_of(frontend), scheduler, count, outside, sticky, frontend)
    return classes.shared_pick(family, place_of(frontend), scheduler, count, outside=outside, sticky=sticky)


def staged(answer: Answer) -> bool:
    """Tell whether a frontend looks at the client before its class is known."""
    return answer.outside is not None or answer.source_ranges is not None


def elements(frontend: Frontend, entry: Entry, number_of: Callable[[Pick], int]) -> Iterator[Element]:
    """Return all of a frontend's elements but its endpoints' slots and those that it shares with others."""
    answer, key, place = entry.answer, frontend_key(frontend), place_of(frontend)
    inner, outer = picks(frontend, entry)
    top = number_of(inner) if inner else _empty(answer.pool)
    if staged(answer):
        yield f"{place}inside", key, number(top)
        if answer.outside is not None:
            yield f"{place}outside", key, number(number_of(outer) if outer else _empty(answer.outside))
        top = _stage(answer)
    yield f"{place}services", key, number(top)
    if answer.masquerade in _MASQUERADE:
        yield place + _MASQUERADE[answer.masquerade], key, b""
    if answer.affinity is not None:
        yield f"{place}affinity-timeouts", key, goto(f"remember-{answer.affinity}")
        yield from _sticky(frontend, answer.pool, key, f"{place}sticky-endpoints")
        if answer.outside is not None:
            yield from _sticky(frontend, answer.outside, key, f"{place}sticky-endpoints-outside")
    if answer.source_ranges:
        for first, last in address_ranges(frontend.family, answer.source_ranges):
            yield "source-ranges", key + first, key + last


def _empty(pool: Pool) -> int:
    return classes.DROP if pool.when_empty == "drop" else classes.REFUSE


def _stage(answer: Answer) -> int:
    if answer.source_ranges is None:
        return classes.SPLIT
    return classes.GUARD if answer.outside is None else classes.GUARD_AND_SPLIT


def _sticky(frontend: Frontend, pool: Pool, key: bytes, name: str) -> Iterator[Element]:
    """Return a pool's endpoints by the number under which clients remember them."""
    found: dict[bytes, bytes] = {}
    for backend in pool.backends:
        if backend.weight:
            value = endpoint_value(frontend.family, backend)
            # Two endpoints with one hash are one in 2^32: the first in order is remembered for both.
            found.setdefault(key + number(jhash.scaled(value)), value)
    for sticky_key, value in found.items():
        yield name, sticky_key, value


def address_ranges(family: Family, cidrs: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    """Return first and last address of networks of one family, sorted and merged where they overlap or touch."""
    found: list[tuple[bytes, bytes]] = []
    networks = [network for network in map(ip_network, cidrs) if network.version == family]
    for network in sorted(collapse_addresses(networks)):  # type: ignore[type-var]
        first, last = network.network_address.packed, network.broadcast_address.packed
        if found and int.from_bytes(found[-1][1], "big") + 1 == int.from_bytes(first, "big"):
            first = found.pop()[0]
        found.append((first, last))
    return found


def hairpins(frontend: Frontend, entry: Entry) -> Iterator[bytes]:
    """Return the keys of `hairpin` that the frontend needs: backends that may run on this node."""
    answer = entry.answer
    pools: tuple[tuple[Backend, ...], ...] = (answer.pool.backends, answer.outside.backends if answer.outside else ())
    local = {backend.address for pool in pools for backend in pool if backend.local and backend.weight}
    for address in local:
        octets = address_octets(frontend.family, address)
        yield octets + octets


def slot_changes(old: bytes, new: bytes, width: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Compare slots: number, old value, new value (empty where there is none) of each that differs."""
    if old == new:
        return
    for start in range(0, max(len(old), len(new)), width):
        before, after = old[start : start + width], new[start : start + width]
        if before != after:
            yield start // width, before, after
