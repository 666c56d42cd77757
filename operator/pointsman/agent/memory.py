"""Keeping the agent small: what CPython and the C library do with memory by default suits another kind of program.

The agent makes nearly all that it will ever hold in its first second, and then changes little of it.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8
"""``M_ARENA_MAX`` of glibc's malloc.h."""


def prepare() -> None:
    """Call before the first objects are read, and before any thread is started.

    The collector would look again and again through objects that are all alive: it rests until `settle`. And the C
    library would give each thread an arena of its own, and never give back what lies free in it: there is one.
    """
    gc.disable()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc alone
        libc.mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Call after the first sync.

    What is alive now stays for long: the collector need not look at it any more (`gc.freeze`). What was free'd on the
    way goes back to the system.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc alone
        libc.malloc_trim(0)
