from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.userspace.balancer import Balancer, ring_of
from pointsman.model.plan import Backend

A, B, C = (Backend(f"10.0.0.{number}", 80) for number in (1, 2, 3))


def firsts(balancer: Balancer, *clients: str, now: float = 0.0) -> list[Backend | None]:
    """Connect for each client, with success at once, and return who answered."""
    found: list[Backend | None] = []
    for client in clients:
        attempt = balancer.attempts(client, now).next()
        found.append(attempt[0] if attempt else None)
        if attempt:
            balancer.connected(client, attempt[0], now)
    return found


def test_backends_take_turns() -> None:
    assert firsts(Balancer([A, B, C]), *"abcdefg") == [A, B, C, A, B, C, A]


def test_without_backends_nobody_answers() -> None:
    assert firsts(Balancer(), "a") == [None]
    assert firsts(Balancer([Backend("10.0.0.1", 80, 0)]), "a") == [None]


def test_weights_are_kept_and_spread() -> None:
    heavy = Backend("10.0.0.9", 80, 3)
    assert ring_of([A, heavy]) == (heavy, A, heavy, heavy) or ring_of([A, heavy]) == (heavy, heavy, A, heavy)
    assert ring_of([Backend("10.0.0.1", 80, 4), Backend("10.0.0.2", 80, 4)]) == (
        Backend("10.0.0.1", 80, 4),
        Backend("10.0.0.2", 80, 4),
    )


@given(st.lists(st.integers(0, 256), max_size=6))
def test_a_ring_has_each_backend_by_its_weight(weights: list[int]) -> None:
    backends = [Backend(f"10.0.0.{number}", 80, weight) for number, weight in enumerate(weights)]
    counts = Counter(ring_of(backends))
    assert set(counts) == {backend for backend in backends if backend.weight}
    assert len({backend.weight / count for backend, count in counts.items()}) <= 1
    assert len(ring_of(backends)) <= sum(weights)


def test_who_refuses_is_followed_by_the_next_with_the_same_time() -> None:
    attempts = Balancer([A, B, C]).attempts("a", 0.0)
    assert [attempts.next() for _ in range(4)] == [(A, 0.25), (B, 0.25), (C, 0.25), None]


def test_each_that_is_silent_gives_the_next_one_more_time() -> None:
    attempts = Balancer([A, B]).attempts("a", 0.0)
    found = []
    while attempt := attempts.next():
        found.append(attempt)
        attempts.timed_out()
    assert found == [(A, 0.25), (B, 0.5), (A, 1.0), (B, 2.0)]


def test_who_refuses_is_not_tried_again_and_who_was_silent_is() -> None:
    attempts = Balancer([A, B, C]).attempts("a", 0.0)
    assert attempts.next() == (A, 0.25)
    attempts.timed_out()
    assert attempts.next() == (B, 0.5)  # refuses
    assert attempts.next() == (C, 0.5)  # refuses
    assert attempts.next() == (A, 0.5)
    assert attempts.next() is None


def test_a_client_stays_and_takes_no_turn() -> None:
    balancer = Balancer([A, B, C], 10.0)
    assert firsts(balancer, "a", "b", "a", "a", "c") == [A, B, A, A, C]


def test_affinity_is_renewed_by_each_connection() -> None:
    balancer = Balancer([A, B], 10.0)
    assert firsts(balancer, "a", now=0.0) == [A]
    assert firsts(balancer, "a", now=9.0) == [A]
    assert firsts(balancer, "a", now=18.0) == [A]
    assert firsts(balancer, "a", now=28.0) == [B]


def test_a_client_moves_when_its_backend_fails() -> None:
    balancer = Balancer([A, B], 10.0)
    firsts(balancer, "a")
    attempts = balancer.attempts("a", 1.0)
    assert attempts.next() == (A, 0.25)
    assert attempts.next() == (B, 0.25)
    balancer.connected("a", B, 1.0)
    assert firsts(balancer, "a", now=2.0) == [B]


def test_a_client_moves_when_its_backend_leaves_or_drains_even_if_it_comes_back() -> None:
    for gone in ([B], [Backend(A.address, A.port, 0), B]):
        balancer = Balancer([A, B], 10.0)
        assert firsts(balancer, "a", "b") == [A, B]
        balancer.update(gone, 10.0)
        balancer.update([A, B], 10.0)
        balancer.attempts("somebody", 0.0)  # whose turn it would be
        assert firsts(balancer, "a") == [B]
        assert firsts(balancer, "b") == [B]


def test_a_client_stays_when_others_come_and_go() -> None:
    balancer = Balancer([A, B], 10.0)
    assert firsts(balancer, "a") == [A]
    balancer.update([A, C], 20.0)
    assert firsts(balancer, "a", now=15.0) == [A]


def test_without_affinity_clients_are_forgotten() -> None:
    balancer = Balancer([A, B], 10.0)
    firsts(balancer, "a")
    balancer.update([A, B], None)
    balancer.update([A, B], 10.0)
    assert firsts(balancer, "a") == [B]


def test_clients_that_are_away_take_no_memory() -> None:
    balancer = Balancer([A, B], 10.0)
    firsts(balancer, *map(str, range(100)), now=0.0)
    firsts(balancer, *map(str, range(1000, 1100)), now=11.0)
    assert len(balancer._clients) == 100
