"""Maglev hashing: a table of a prime size that changes little when a backend comes or goes.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
Weights make backends take their turns more or less often, so that a small change of one is a small change of the table.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES: Final = (1021, 4093, 16381, 65521)
"""Table sizes, all prime."""
SLOTS_PER_BACKEND: Final = 20
"""At least so many slots for each backend, so that the spread stays within a few percent."""


def size_for(backends: int) -> int:
    """Choose the table's size. Weights have no say in it: a change of one would move nearly every client."""
    return next((size for size in SIZES if size >= backends * SLOTS_PER_BACKEND), SIZES[-1])


def table(names: Sequence[bytes], weights: Sequence[int]) -> list[int]:
    """Fill a table.

    Args:
        names: what identifies each backend on every node (its address and port), each once.
        weights: 1 or more for each.

    Returns:
        For each slot the index of its backend. It depends on names and weights alone, not on their order or history.
    """
    size = size_for(len(names))
    order = sorted(range(len(names)), key=lambda index: names[index])
    starts, steps = _permutations([names[index] for index in order], size)
    ordered = [weights[index] for index in order]
    heaviest, due = max(ordered), [0] * len(order)
    slots = [-1] * size
    free, rounds = size, 0
    while True:
        rounds += 1
        for place, weight in enumerate(ordered):
            # The heaviest take a slot in each round, half their weight in every other one, and so on.
            if rounds * weight < due[place]:
                continue
            due[place] += heaviest
            at, step = starts[place], steps[place]
            while slots[at] >= 0:
                at = (at + step) % size
            slots[at] = order[place]
            starts[place] = (at + step) % size
            free -= 1
            if not free:
                return slots


def _permutations(names: Sequence[bytes], size: int) -> tuple[list[int], list[int]]:
    starts, steps = [], []
    for name in names:
        digest = hashlib.blake2b(name, digest_size=16).digest()
        starts.append(int.from_bytes(digest[:8], "big") % size)
        steps.append(int.from_bytes(digest[8:], "big") % (size - 1) + 1)
    return starts, steps
