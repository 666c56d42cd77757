"""Bob Jenkins' hash as the kernel computes it, so that an element's key can be known beforehand.

Source: include/linux/jhash.h (lookup3, by Bob Jenkins, public domain).
"""

from __future__ import annotations

import struct
from typing import Final

SEED: Final = 0x706D
"""One seed for every node and every rule set, so that a client's hash is the same everywhere."""
LARGEST_MODULUS: Final = 0xFFFF_FFFF

_INITIAL: Final = 0xDEADBEEF
_MASK: Final = 0xFFFF_FFFF


def _rol(word: int, shift: int) -> int:
    return ((word << shift) | (word >> (32 - shift))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) & _MASK) ^ _rol(c, 4)
    c = (c + b) & _MASK
    b = ((b - a) & _MASK) ^ _rol(a, 6)
    a = (a + c) & _MASK
    c = ((c - b) & _MASK) ^ _rol(b, 8)
    b = (b + a) & _MASK
    a = ((a - c) & _MASK) ^ _rol(c, 16)
    c = (c + b) & _MASK
    b = ((b - a) & _MASK) ^ _rol(a, 19)
    a = (a + c) & _MASK
    c = ((c - b) & _MASK) ^ _rol(b, 4)
    b = (b + a) & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rol(b, 14)) & _MASK
    a = ((a ^ c) - _rol(c, 11)) & _MASK
    b = ((b ^ a) - _rol(a, 25)) & _MASK
    c = ((c ^ b) - _rol(b, 16)) & _MASK
    a = ((a ^ c) - _rol(c, 4)) & _MASK
    b = ((b ^ a) - _rol(a, 14)) & _MASK
    return ((c ^ b) - _rol(b, 24)) & _MASK


def jhash(key: bytes, seed: int = SEED) -> int:
    """Hash octets, a multiple of four of them (as registers are), to 32 bits."""
    words = struct.unpack(f"={len(key) // 4}I", key)
    a = b = c = (_INITIAL + len(key) + seed) & _MASK
    start = 0
    while len(words) - start > 3:  # noqa: PLR2004 - lookup3 takes three words at a time
        a, b, c = _mix(
            (a + words[start]) & _MASK,
            (b + words[start + 1]) & _MASK,
            (c + words[start + 2]) & _MASK,
        )
        start += 3
    rest = (*words[start:], 0, 0, 0)
    return _final((a + rest[0]) & _MASK, (b + rest[1]) & _MASK, (c + rest[2]) & _MASK)


def scaled(key: bytes, modulus: int = LARGEST_MODULUS, seed: int = SEED) -> int:
    """Hash octets to a number below `modulus`, as the nft expression ``jhash … mod`` does (reciprocal_scale)."""
    return jhash(key, seed) * modulus >> 32
