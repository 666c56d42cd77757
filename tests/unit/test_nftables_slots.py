from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.nftables.slots import (
    LARGEST_POOL,
    MOST_SLOTS,
    assign,
    dense,
    interleaved,
    shares,
)

WIDTH = 4


def value(number: int) -> bytes:
    return number.to_bytes(WIDTH, "big")


def split(slots: bytes) -> list[bytes]:
    return [slots[start : start + WIDTH] for start in range(0, len(slots), WIDTH)]


def changed(old: bytes, new: bytes) -> int:
    before, after = split(old), split(new)
    longest = max(len(before), len(after))
    before += [b""] * (longest - len(before))
    after += [b""] * (longest - len(after))
    return sum(was != now for was, now in zip(before, after, strict=True))


VALUES = st.integers(0, 9).map(value)
WANTED = st.dictionaries(VALUES, st.integers(1, 6), max_size=10)
OLD = st.lists(VALUES, max_size=30).map(b"".join)
WEIGHTS = st.lists(st.integers(1, 256), min_size=1, max_size=40)


@given(OLD, WANTED)
def test_dense_holds_exactly_what_is_wanted_and_changes_as_little_as_can_be(
    old: bytes, wanted: dict[bytes, int]
) -> None:
    new = dense(old, wanted, WIDTH)
    assert Counter(split(new)) == Counter(wanted)
    removed = (Counter(split(old)) - Counter(wanted)).total()
    added = (Counter(wanted) - Counter(split(old))).total()
    # New values take the places of old ones; each place that stays empty is filled by one slot from the end.
    assert changed(old, new) <= (added if added >= removed else 2 * removed - added)


@given(WANTED.filter(lambda wanted: len(wanted) > 1), st.data())
def test_a_value_that_goes_costs_its_slots_and_as_many_from_the_end(
    wanted: dict[bytes, int], data: st.DataObject
) -> None:
    old = dense(b"", wanted, WIDTH)
    gone = data.draw(st.sampled_from(sorted(wanted)))
    slots = wanted.pop(gone)
    assert changed(old, dense(old, wanted, WIDTH)) <= 2 * slots


@given(WANTED, st.integers(1, 6))
def test_a_value_that_comes_is_appended(wanted: dict[bytes, int], slots: int) -> None:
    old = dense(b"", wanted, WIDTH)
    new = dense(old, wanted | {value(99): slots}, WIDTH)
    assert new == old + value(99) * slots


@given(OLD, WANTED)
def test_dense_is_at_rest_when_nothing_changes(old: bytes, wanted: dict[bytes, int]) -> None:
    new = dense(old, wanted, WIDTH)
    assert dense(new, wanted, WIDTH) == new


@given(WEIGHTS)
def test_interleaved_gives_everyone_its_turns(weights: list[int]) -> None:
    taken = shares(weights)
    values = [value(index) for index in range(len(taken))]
    turns = Counter(split(interleaved(values, taken)))
    expected = taken if len(set(taken)) > 1 else [1] * len(taken)
    assert [turns[name] for name in values] == expected


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6).filter(lambda weights: len(set(weights)) > 1))
def test_interleaved_is_smooth(weights: list[int]) -> None:
    order = split(interleaved([value(index) for index in range(len(weights))], weights))
    for index, weight in enumerate(weights):
        for length in range(1, len(order) + 1):
            due = weight * length / len(order)
            assert abs(order[:length].count(value(index)) - due) < len(weights)


def test_interleaved_as_nginx_has_it() -> None:
    # The example of nginx's commit 52327e0627f4 (weights 5, 1, 1).
    assert split(interleaved([value(0), value(1), value(2)], [5, 1, 1])) == [
        value(index) for index in (0, 0, 1, 0, 2, 0, 0)
    ]


@given(st.lists(st.integers(1, 256), min_size=1, max_size=100), st.integers(1, 8))
def test_shares_keep_proportions_and_forget_common_factors(weights: list[int], factor: int) -> None:
    found = shares(weights)
    assert found == shares([weight * factor for weight in weights])
    assert min(found) >= 1
    if sum(weights) // math.gcd(*weights) <= MOST_SLOTS:
        assert math.gcd(*found) == 1
        assert [share * weights[0] for share in found] == [weight * found[0] for weight in weights]


@given(st.lists(st.integers(1, 256), min_size=40, max_size=600))
def test_shares_are_bounded(weights: list[int]) -> None:
    found = shares(weights)
    # A share below one is rounded up to one; everything else is rounded down.
    assert sum(found) <= max(MOST_SLOTS, len(weights)) + len(weights)
    by_weight = [share for _, share in sorted(zip(weights, found, strict=True))]
    assert by_weight == sorted(by_weight)


@pytest.mark.parametrize("scheduler", ["random", "rr", "wrr", "sh", "dh", "mh"])
def test_assign_nobody(scheduler: str) -> None:
    assert assign(scheduler, value(1), [], [], WIDTH) == b""


@pytest.mark.parametrize("scheduler", ["random", "rr", "wrr", "sh", "dh"])
def test_assign_equal_weights_takes_one_slot_each_in_order(scheduler: str) -> None:
    values = [value(index) for index in range(5)]
    assert split(assign(scheduler, b"", values, [7] * 5, WIDTH)) == values


@pytest.mark.parametrize("scheduler", ["random", "sh", "dh"])
def test_assign_weights(scheduler: str) -> None:
    found = assign(scheduler, b"", [value(1), value(2)], [2, 6], WIDTH)
    assert Counter(split(found)) == {value(1): 1, value(2): 3}


def test_assign_refuses_more_than_a_class_can_name() -> None:
    values = [value(index) for index in range(LARGEST_POOL + 1)]
    with pytest.raises(ValueError, match=r"65522 endpoints in one pool; at most 65521"):
        assign("random", b"", values, [1] * len(values), WIDTH)
    assert len(assign("random", b"", values[1:], [1] * LARGEST_POOL, WIDTH)) == LARGEST_POOL * WIDTH
