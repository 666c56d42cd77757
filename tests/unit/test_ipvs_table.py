"""What the sets of the mode `ipvs` hold for a plan, and how they get from one plan to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.ipvs.entries import Entry, elements, key_of, servers, shared
from pointsman.dataplane.ipvs.objects import SCHED1, SCHED2, Real, ServerKey
from pointsman.dataplane.ipvs.records import Marks, marks_of, records_of
from pointsman.dataplane.ipvs.rules import FIRST_MARK, NETWORKS, SCHEMA
from pointsman.dataplane.ipvs.table import Table
from pointsman.dataplane.nftables.wire import boundaries
from pointsman.model.plan import Answer, Backend, Frontend, NodeSettings, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.dataplane.nftables.wire import Chain, Elements
    from pointsman.model.plan import Masquerade

WEB = Frontend(4, "10.96.0.1", "tcp", 80)
ONE, TWO = Backend("10.1.0.1", 8080, 1, local=True), Backend("10.1.0.2", 8080, 3)
POOL, EMPTY, DROPPED = Pool((ONE, TWO)), Pool(), Pool((), "drop")
SETTINGS = NodeSettings(pod_cidrs=("10.1.0.0/16",), service_cidrs=("10.96.0.0/12",))


class Sets:
    """A table of plain dicts, as strict as the kernel and stricter; takes drafts as it is one itself."""

    def __init__(self) -> None:
        self.held: dict[str, Elements] = SCHEMA.empty(4)
        self.size = 0

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert key not in self.held[name], (name, key)
        self.held[name][key] = value
        self.size += 1

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert self.held[name].pop(key) == value, (name, key)
        self.size += 1

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        self.held[name] = dict(boundaries(networks))
        self.size += 1

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        raise NotImplementedError

    def remove_chain(self, chain: str) -> None:
        raise NotImplementedError


def names(answer: Answer, **entry: object) -> set[str]:
    return {name for name, _, _ in elements(WEB, Entry(answer, **entry))}  # type: ignore[arg-type]


def an_answer(pool: Pool = POOL, outside: Pool | None = None, masquerade: Masquerade = "never") -> Answer:
    return Answer("default/web", "rr", pool, outside, masquerade=masquerade)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (an_answer(), {"frontends"}),
        (an_answer(EMPTY), {"frontends", "refused"}),
        (an_answer(DROPPED), {"frontends", "dropped"}),
        (an_answer(Pool((Backend("10.1.0.1", 80, 0),))), {"frontends", "refused"}),
        (an_answer(masquerade="always"), {"frontends", "masquerade-all"}),
        (an_answer(masquerade="off-cluster"), {"frontends", "masquerade-off-cluster"}),
        (an_answer(masquerade="node"), {"frontends", "masquerade-node"}),
        (an_answer(POOL, DROPPED), {"frontends", "split", "marks", "dropped"}),
        (an_answer(EMPTY, EMPTY), {"frontends", "split", "marks", "refused", "refused-inside"}),
        (an_answer(DROPPED, POOL), {"frontends", "split", "marks", "dropped-inside"}),
    ],
)
def test_the_sets_of_an_answer(answer: Answer, expected: set[str]) -> None:
    assert names(answer, mark=FIRST_MARK if answer.outside else 0) == expected


def test_source_ranges_guard() -> None:
    answer = Answer("default/web", "rr", POOL, source_ranges=("192.0.2.0/25", "192.0.2.128/25", "198.51.100.1/32"))
    found = [key[-4:] + value[-4:] for name, key, value in elements(WEB, Entry(answer)) if name == "source-ranges"]
    assert found == [bytes([192, 0, 2, 0, 192, 0, 2, 255]), bytes([198, 51, 100, 1] * 2)]
    assert "guarded" in names(answer)
    assert "guarded" in names(Answer("default/web", "rr", POOL, source_ranges=()))


def test_a_frontend_that_closes_refuses_and_is_ours_until_the_end() -> None:
    assert names(an_answer(masquerade="always"), closing=True) == {"frontends", "refused"}
    assert list(servers(WEB, Entry(an_answer(), closing=True))) == []


def test_a_frontend_that_another_mode_serves_is_ours_until_the_end_and_refuses_nobody() -> None:
    assert names(an_answer(masquerade="always"), closing=True, silent=True) == {"frontends"}


def test_only_what_the_node_does_not_have_is_made_local() -> None:
    cluster_ip = Answer("default/web", "rr", EMPTY, exclusive=True)
    assert [name for name, _ in shared(WEB, Entry(cluster_ip))] == ["cluster-ips"]
    assert [name for name, _ in shared(WEB, Entry(an_answer(EMPTY)))] == ["external-ips"]
    assert list(shared(WEB, Entry(an_answer(EMPTY), own=True))) == []


def test_backends_that_may_run_here_need_hairpin() -> None:
    assert [key for name, key in shared(WEB, Entry(an_answer())) if name == "hairpin"] == [bytes([10, 1, 0, 1] * 2)]


def test_the_virtual_servers_of_an_answer() -> None:
    answer = Answer("default/web", "sh", POOL, affinity=300, scheduler_flags=("mh-port", "sh-port"))
    ((key, wanted),) = servers(WEB, Entry(answer))
    assert key == ServerKey(4, "10.96.0.1", "tcp", 80)
    assert (wanted.server.scheduler, wanted.server.flags, wanted.server.timeout) == ("sh", SCHED1 | SCHED2, 300)
    assert wanted.reals == {Real("10.1.0.1", 8080): 1, Real("10.1.0.2", 8080): 3}
    assert wanted.protocol == "tcp"


def test_hashes_fall_back_from_a_drained_backend() -> None:
    drained = Pool((ONE, Backend("10.1.0.2", 8080, 0)))
    for scheduler, flags, count in (("sh", SCHED1, 2), ("mh", SCHED1, 2), ("dh", 0, 1), ("rr", 0, 2)):
        ((_, wanted),) = servers(WEB, Entry(Answer("default/web", scheduler, drained)))
        assert (wanted.server.flags, len(wanted.reals)) == (flags, count)


def test_clients_inside_have_a_virtual_server_of_their_own() -> None:
    found = dict(servers(WEB, Entry(an_answer(POOL, Pool((ONE,))), mark=FIRST_MARK)))
    assert found[key_of(WEB)].reals == {Real("10.1.0.1", 8080): 1}
    assert len(found[ServerKey(4, "", "tcp", 0, FIRST_MARK)].reals) == 2
    assert [key.mark for key, _ in servers(WEB, Entry(an_answer(POOL, DROPPED), mark=FIRST_MARK))] == [FIRST_MARK]


_SPOTS = [Frontend(4, address, "tcp", port) for address in ("10.96.0.1", "192.0.2.1") for port in (80, 443)]
_POOLS = st.sampled_from([POOL, EMPTY, DROPPED, Pool((ONE,)), Pool((TWO,), "drop")])
_ANSWERS = st.builds(
    Answer,
    st.just("default/web"),
    st.just("rr"),
    _POOLS,
    st.none() | _POOLS,
    masquerade=st.sampled_from(["never", "always", "node"]),
    exclusive=st.booleans(),
    source_ranges=st.sampled_from([None, (), ("192.0.2.0/24",)]),
)
_ENTRIES = st.builds(Entry, _ANSWERS, st.booleans(), st.sampled_from([0, FIRST_MARK, FIRST_MARK + 1]), st.booleans())


@given(st.lists(st.dictionaries(st.sampled_from(_SPOTS), st.none() | _ENTRIES, max_size=4), max_size=6))
def test_every_way_to_a_plan_ends_at_the_same_sets(steps: list[dict[Frontend, Entry | None]]) -> None:
    table, sets = Table(4), Sets()
    table.accept(table.adoption({}, SETTINGS, sets.held, sets))
    plan: dict[Frontend, Entry] = {}
    for step in steps:
        table.accept(table.change(step, sets))
        for spot, entry in step.items():
            if entry is None:
                plan.pop(spot, None)
            else:
                plan[spot] = entry
    fresh, anew = Table(4), Sets()
    fresh.accept(fresh.adoption(plan, SETTINGS, anew.held, anew))
    assert sets.held == anew.held
    assert set(table.addresses()) == set(fresh.addresses())
    # An agent that finds its own plan writes nothing.
    before = sets.size
    Table(4).adoption(plan, SETTINGS, sets.held, sets)
    assert sets.size == before


def test_adoption_mends_what_is_wrong() -> None:
    table, sets = Table(4), Sets()
    plan = {WEB: Entry(an_answer(POOL, DROPPED), mark=FIRST_MARK)}
    table.accept(table.adoption(plan, SETTINGS, sets.held, sets))
    wanted = {name: dict(held) for name, held in sets.held.items()}
    sets.held["frontends"].clear()
    sets.held["refused"][b"stranger"] = b""
    sets.held["marks"] = dict.fromkeys(sets.held["marks"], b"other")
    sets.held["pod-cidrs"] = {}
    found = {name: dict(held) for name, held in sets.held.items()}
    Table(4).adoption(plan, SETTINGS, found, sets)
    assert sets.held == wanted


def test_addresses_that_come_and_go_are_told() -> None:
    table, sets = Table(4), Sets()
    address = bytes([10, 96, 0, 1])
    first = table.change({WEB: Entry(an_answer())}, sets)
    assert (first.came, first.gone) == ({address}, set())
    table.accept(first)
    https = Frontend(4, "10.96.0.1", "tcp", 443)
    # The same address in another set is no other route.
    exclusive = Entry(Answer("default/web", "rr", POOL, exclusive=True))
    second = table.change({https: exclusive}, sets)
    assert (second.came, second.gone) == (set(), set())
    table.accept(second)
    third = table.change({WEB: None}, sets)
    assert (third.came, third.gone) == (set(), set())
    table.accept(third)
    assert list(table.addresses()) == [address]
    last = table.change({https: None}, sets)
    assert (last.came, last.gone) == (set(), {address})
    table.accept(last)
    assert list(table.addresses()) == []


def test_networks_are_all_written_by_adoption() -> None:
    sets = Sets()
    Table(4).adoption({}, SETTINGS, sets.held, sets)
    assert all(sets.held[name] for name in NETWORKS)


def test_records_tell_whose_a_virtual_server_is() -> None:
    table, sets = Table(4), Sets()
    entry = Entry(an_answer(POOL, DROPPED), mark=FIRST_MARK + 5)
    table.adoption({WEB: entry}, SETTINGS, sets.held, sets)
    assert records_of(4, sets.held) == {key_of(WEB): WEB, ServerKey(4, "", "tcp", 0, FIRST_MARK + 5): WEB}
    assert marks_of(4, sets.held) == {WEB: FIRST_MARK + 5}


def test_marks_are_given_once() -> None:
    one, two, three = _SPOTS[:3]
    marks = Marks(4, {one: FIRST_MARK}, frozenset({FIRST_MARK + 1}))
    assert marks.take(one) == FIRST_MARK
    assert marks.take(two) == FIRST_MARK + 2
    assert Marks(6, {}).take(two) == FIRST_MARK + 0x8000
    marks.release(two)
    assert marks.of(two) == 0
    assert marks.take(three) not in {FIRST_MARK, FIRST_MARK + 1}
