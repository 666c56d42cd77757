from __future__ import annotations

from pointsman.agent.stale import stale_udp
from pointsman.model.plan import Answer, Backend, Delta, Frontend, Pool

DNS = Frontend(4, "10.96.0.10", "udp", 53)
WEB = Frontend(4, "10.96.0.1", "tcp", 80)


def answer(*backends: str, outside: tuple[str, ...] | None = None, weight: int = 1) -> Answer:
    def pool(addresses: tuple[str, ...]) -> Pool:
        return Pool(tuple(Backend(address, 53, weight) for address in addresses))

    return Answer("kube-system/dns", "random", pool(backends), None if outside is None else pool(outside))


def test_a_lost_backend_makes_entries_stale() -> None:
    now = answer("10.0.0.1")
    assert stale_udp({DNS: answer("10.0.0.1", "10.0.0.2")}, Delta({DNS: now})) == {DNS: now}


def test_the_last_backend_that_goes_makes_entries_stale() -> None:
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({DNS: answer()})) == {DNS: answer()}


def test_the_first_backend_makes_entries_stale() -> None:
    now = answer("10.0.0.1")
    assert stale_udp({DNS: answer()}, Delta({DNS: now})) == {DNS: now}
    assert stale_udp({}, Delta({DNS: now})) == {DNS: now}


def test_a_further_backend_is_no_reason() -> None:
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({DNS: answer("10.0.0.1", "10.0.0.2")})) == {}


def test_a_frontend_that_is_gone_has_no_answer() -> None:
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({}, frozenset({DNS, WEB}))) == {DNS: None}


def test_tcp_is_left_alone() -> None:
    assert stale_udp({WEB: answer("10.0.0.1")}, Delta({WEB: answer()})) == {}


def test_backends_for_outside_clients_count_too() -> None:
    before = answer("10.0.0.1", outside=("10.0.0.2",))
    now = answer("10.0.0.1", outside=())
    assert stale_udp({DNS: before}, Delta({DNS: now})) == {DNS: now}


def test_clients_that_are_served_no_more_count_even_if_all_backends_are_still_there() -> None:
    """A proxy has a port of its own for the clients of each pool, as long as that serves."""
    drains, apart = answer("10.0.0.1", weight=0), answer("10.0.0.1", outside=())
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({DNS: drains})) == {DNS: drains}
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({DNS: apart})) == {DNS: apart}
    both = answer("10.0.0.1", outside=("10.0.0.1",))
    assert stale_udp({DNS: both}, Delta({DNS: answer("10.0.0.1")})) == {DNS: answer("10.0.0.1")}
    assert stale_udp({DNS: answer("10.0.0.1")}, Delta({DNS: both})) == {}
