"""Maglev hashing: a table of a prime size that changes little when a backend comes or goes.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
Weights as in the kernel's ip_vs_mh.c: in each round a backend takes as many slots as its weight.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES: Final = (1021, 4093, 16381, 65521)
"""Table sizes, all prime."""
SLOTS_PER_SHARE: Final = 20
"""At least so many slots for each unit of weight, so that the spread stays within a few percent."""


def size_for(shares: int) -> int:
    """Choose the table's size for a sum of weights."""
    return next((size for size in SIZES if size >= shares * SLOTS_PER_SHARE), SIZES[-1])


def table(names: Sequence[bytes], weights: Sequence[int]) -> list[int]:
    """Fill a table.

    Args:
        names: what identifies each backend on every node (its address and port), each once.
        weights: 1 or more for each; reduced by their greatest common divisor.

    Returns:
        For each slot the index of its backend. It depends on names and weights alone, not on their order or history.
    """
    size = size_for(sum(weights))
    order = sorted(range(len(names)), key=lambda index: names[index])
    starts, steps = _permutations([names[index] for index in order], size)
    slots = [-1] * size
    free = size
    while free:
        for place, index in enumerate(order):
            step = steps[place]
            for _ in range(weights[index]):
                at = starts[place]
                while slots[at] >= 0:
                    at = (at + step) % size
                slots[at] = index
                starts[place] = (at + step) % size
                free -= 1
                if not free:
                    return slots
    return slots


def _permutations(names: Sequence[bytes], size: int) -> tuple[list[int], list[int]]:
    starts, steps = [], []
    for name in names:
        digest = hashlib.blake2b(name, digest_size=16).digest()
        starts.append(int.from_bytes(digest[:8], "big") % size)
        steps.append(int.from_bytes(digest[8:], "big") % (size - 1) + 1)
    return starts, steps
