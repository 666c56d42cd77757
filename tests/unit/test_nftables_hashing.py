from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.nftables import maglev
from pointsman.dataplane.nftables.jhash import LARGEST_MODULUS, jhash, scaled

# Read from Linux 6.18 on a little-endian machine: rules of the form
#   meta mark set jhash KEY mod 4294967295 seed 0x706d update @seen { ip saddr . udp dport . meta mark }
# with the keys ip saddr (4 octets), ip saddr . udp dport (8), ip saddr . ip daddr . udp dport (12), ip6 saddr (16)
# and ip6 saddr . udp dport (20), datagrams to ports 53 and 8080, and `nft -j list table`.
KERNEL = [
    ("7f000001", 0xE5147037),
    ("0a60000a", 0xCBFA8E6B),
    ("cb00714d", 0xE80527A3),
    ("7f00000100350000", 0x77742138),
    ("7f0000011f900000", 0xCDF18E94),
    ("0a60000a00350000", 0xB88DFF6D),
    ("cb00714d1f900000", 0x4A3A73CB),
    ("7f0000017f00000100350000", 0x26DDC26E),
    ("0a60000a0a60000a1f900000", 0xBBFE1F90),
    ("00000000000000000000000000000001", 0x132C5752),
    ("fd00001000960000000000000000000a", 0xE6C4DF7A),
    ("20010db8000000000000000100020003", 0x826B43D6),
    ("0000000000000000000000000000000100350000", 0xC260878F),
    ("fd00001000960000000000000000000a1f900000", 0xB56459FA),
    ("20010db800000000000000010002000300350000", 0xF2616A85),
]


@pytest.mark.skipif(sys.byteorder == "big", reason="the kernel reads registers in the machine's byte order")
@pytest.mark.parametrize(("key", "expected"), KERNEL)
def test_jhash_is_the_kernels(key: str, expected: int) -> None:
    assert scaled(bytes.fromhex(key)) == expected


@given(st.binary(max_size=48).map(lambda octets: octets[: len(octets) & ~3]), st.integers(1, LARGEST_MODULUS))
def test_jhash_fits_and_scales(key: bytes, modulus: int) -> None:
    assert 0 <= jhash(key) < 1 << 32
    assert 0 <= scaled(key, modulus) < modulus


def names(count: int) -> list[bytes]:
    return [f"10.1.{index >> 8}.{index & 255}:8080".encode() for index in range(count)]


def test_maglev_sizes_are_prime_and_fit_into_a_class() -> None:
    for size in maglev.SIZES:
        assert size < 65536
        assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))
    assert maglev.size_for(1) == 1021
    assert maglev.size_for(52) == 4093
    assert maglev.size_for(10**6) == maglev.SIZES[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 51, 200])
def test_maglev_spreads_evenly(count: int) -> None:
    table = maglev.table(names(count), [1] * count)
    assert len(table) == maglev.size_for(count)
    taken = Counter(table)
    # In each round everyone takes one slot, so nobody is more than one ahead.
    assert set(taken) == set(range(count))
    assert max(taken.values()) - min(taken.values()) <= 1


@given(st.lists(st.integers(1, 16), min_size=1, max_size=12))
def test_maglev_spreads_by_weight(weights: list[int]) -> None:
    table = maglev.table(names(len(weights)), weights)
    taken, total = Counter(table), sum(weights)
    # After r rounds a backend has r * weight / heaviest slots, and one more or less; all these ones together, at most
    # one for each backend, are shared by weight.
    for index, weight in enumerate(weights):
        assert abs(taken[index] - weight * len(table) / total) <= 1 + len(weights) * weight / total


@given(st.permutations(range(8)))
def test_maglev_does_not_depend_on_order(order: list[int]) -> None:
    all_names, weights = names(8), [1, 2, 3, 1, 2, 3, 1, 2]
    straight = [all_names[index] for index in maglev.table(all_names, weights)]
    shuffled = [
        all_names[order[index]] for index in maglev.table([all_names[i] for i in order], [weights[i] for i in order])
    ]
    assert shuffled == straight


@pytest.mark.parametrize("count", [4, 10, 30])
def test_maglev_moves_few_clients_of_those_that_stay(count: int) -> None:
    all_names = names(count)
    before = [all_names[index] for index in maglev.table(all_names, [1] * count)]
    for gone in range(0, count, 3):
        left = all_names[:gone] + all_names[gone + 1 :]
        after = [left[index] for index in maglev.table(left, [1] * (count - 1))]
        moved = sum(was != now for was, now in zip(before, after, strict=True) if was != all_names[gone])
        # The paper's figure 12 shows about 2 % for a table 100 times as large as the number of backends.
        assert moved / len(before) < 0.08
