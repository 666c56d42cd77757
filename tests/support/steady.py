"""Listings of the kernel's sets that are compared with each other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_PATIENCE: Final = 30.0


def steady(read: Callable[[], T]) -> T:
    """Read until two readings agree.

    While the kernel grows a set's hash table, which it does a moment after a transaction, its list of the set lacks
    elements and has others twice.
    """
    end = time.monotonic() + _PATIENCE
    before = read()
    while (found := read()) != before:
        assert time.monotonic() < end, f"no two readings in {_PATIENCE:g} s agree"
        before = found
    return found
