"""Which backend stands in which slot.

A scheduler draws a slot number; slots 0..n-1 are all taken (dense), so that every draw is a hit. A backend's change
touches as few slots as can be: a slot that becomes free is filled from the end.

Slots are kept as one run of octets, `width` a slot: 250,000 endpoints are 2 MB that way.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables import maglev

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pointsman.model.plan import Draw

MOST_SLOTS: Final = 4096
"""Weights are scaled down so that a pool has no more slots (or one for each backend, if those are more)."""
LARGEST_POOL: Final = 65_521
"""A class names the number of slots in 16 bits; this is the largest Maglev table in them."""
_SMOOTH: Final = 1 << 20
"""Slots times backends up to which a round is ordered in the smoothest way, which takes that many steps."""


def shares(weights: Sequence[int]) -> list[int]:
    """Reduce positive weights to slots: divided by their greatest common divisor, and scaled when they are too many.

    Returns:
        One slot or more for each weight, `LARGEST_POOL` in all at the most.
    """
    divisor = math.gcd(*weights)
    reduced = [weight // divisor for weight in weights]
    most, total = max(MOST_SLOTS, len(weights)), sum(reduced)
    if total <= most:
        return reduced
    scaled = [max(1, share * most // total) for share in reduced]
    surplus = sum(scaled) - LARGEST_POOL
    for index in sorted(range(len(scaled)), key=scaled.__getitem__, reverse=True):
        if surplus <= 0:
            break
        cut = min(surplus, scaled[index] - 1)
        scaled[index] -= cut
        surplus -= cut
    return scaled


def dense(old: bytes, wanted: Mapping[bytes, int], width: int) -> bytes:
    """Fill slots with as little change as can be; their order means nothing.

    Args:
        old: the slots as they are.
        wanted: how many slots each value takes.
        width: octets of a value.
    """
    missing = Counter(wanted)
    kept: list[bytes | None] = []
    for value in (old[start : start + width] for start in range(0, len(old), width)):
        if missing[value] > 0:
            missing[value] -= 1
            kept.append(value)
        else:
            kept.append(None)
    fresh = [value for value, count in missing.items() for _ in range(count)][::-1]
    for index, slot in enumerate(kept):
        if slot is None and fresh:
            kept[index] = fresh.pop()
    _close_gaps(kept)
    return b"".join(slot for slot in kept if slot is not None) + b"".join(reversed(fresh))


def _close_gaps(slots: list[bytes | None]) -> None:
    """Move the last values into the gaps."""
    index = 0
    while index < len(slots):
        while slots and slots[-1] is None:
            slots.pop()
        if index < len(slots) and slots[index] is None:
            slots[index] = slots.pop()
        index += 1


def interleaved(values: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """Order slots so that a round robin over them is smooth: no backend gets its turns in one run.

    The method is nginx's smooth weighted round robin: each step everyone earns its weight, the richest is chosen and
    pays the sum. A very large round is ordered by the time of each turn instead, as if all earned at once.
    """
    if len(set(weights)) == 1:
        return b"".join(values)
    total = sum(weights)
    if total * len(weights) > _SMOOTH:
        turns = [((turn + 0.5) / weight, index) for index, weight in enumerate(weights) for turn in range(weight)]
        return b"".join([values[index] for _, index in sorted(turns)])
    credit = [0] * len(weights)
    chosen = []
    for _ in range(total):
        credit = [has + weight for has, weight in zip(credit, weights, strict=True)]
        best = max(range(len(credit)), key=credit.__getitem__)
        credit[best] -= total
        chosen.append(values[best])
    return b"".join(chosen)


def assign(scheduler: str, old: bytes, values: Sequence[bytes], weights: Sequence[int], width: int) -> bytes:
    """Assign slots.

    Args:
        scheduler: as in `pointsman.api.schedulers` for nftables.
        old: the slots as they are in the kernel, or empty.
        values: one for each backend that gets new connections, each once.
        weights: above 0, for each value.
        width: octets of a value.

    Returns:
        The new slots; empty when there is no backend.

    Raises:
        ValueError: more backends than one pool can have.
    """
    if not values:
        return b""
    _check_size(len(values), "endpoints")
    if scheduler == "mh":
        return b"".join([values[index] for index in maglev.table(values, weights)])
    equal = weights.count(weights[0]) == len(weights)
    if equal:
        plain = b"".join(values)
        if old in {b"", plain}:
            return plain
    taken = [1] * len(weights) if equal else shares(weights)
    if not equal and scheduler in {"rr", "wrr"}:
        return interleaved(values, taken)
    return dense(old, dict(zip(values, taken, strict=True)), width)


def placed(draw: Draw, old: bytes, values: Sequence[bytes], width: int) -> bytes:
    """Take over slots that a scheduler of somebody's own has filled.

    Args:
        draw: how a slot is drawn; only at random does their order mean nothing.
        old: the slots as they are in the kernel, or empty.
        values: one for each slot.
        width: octets of a value.

    Raises:
        ValueError: more slots than one pool can have.
    """
    _check_size(len(values), "slots")
    return dense(old, Counter(values), width) if draw == "random" else b"".join(values)


def _check_size(count: int, what: str) -> None:
    if count > LARGEST_POOL:
        raise ValueError(f"{count} {what} in one pool; at most {LARGEST_POOL} are possible")
