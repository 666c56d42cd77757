from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.nftables.render import TextDraft
from pointsman.dataplane.userspace import render
from pointsman.dataplane.userspace.dataplane import wishes_of
from pointsman.dataplane.userspace.proxy import Target
from pointsman.dataplane.userspace.rules import SCHEMA
from pointsman.dataplane.userspace.table import Entry, Table
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, NodeSettings, Plan, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

VIP = Frontend(4, "10.96.0.1", "tcp", 80)
PORT = Frontend(4, NODE_PORT, "udp", 30080)
SOMEBODY = Pool((Backend("10.128.0.1", 8080),))
SETTINGS = NodeSettings(pod_cidrs=("10.128.0.0/9",), service_cidrs=("10.96.0.0/12",), node_port_cidrs=("0.0.0.0/0",))

answers = st.builds(
    Answer,
    st.just("default/test"),
    st.just("rr"),
    st.sampled_from([SOMEBODY, Pool(), Pool(when_empty="drop")]),
    st.sampled_from([None, SOMEBODY, Pool(when_empty="drop")]),
    exclusive=st.booleans(),
    source_ranges=st.sampled_from([None, (), ("203.0.113.0/24", "2001:db8::/32")]),
)
entries = st.builds(Entry, answers, st.sampled_from([0, 40000, 40001]), st.sampled_from([0, 40002]))
frontends = st.sampled_from([VIP, PORT, Frontend(4, "10.96.0.1", "udp", 53), Frontend(4, "10.96.0.2", "tcp", 80)])


class Memory:
    """What a kernel would hold."""

    def __init__(self) -> None:
        self.held = SCHEMA.empty(4)

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert key not in self.held[name]
        self.held[name][key] = value

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert self.held[name].pop(key) == value

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        self.held[name] = dict(networks)

    def add_chain(self, chain: object, *, present: bool = False) -> None:
        raise NotImplementedError

    def remove_chain(self, chain: str) -> None:
        raise NotImplementedError


def lines(*served: tuple[Frontend, Entry], settings: NodeSettings = SETTINGS) -> dict[str, list[str]]:
    draft = TextDraft(SCHEMA, 4)
    Table(4).adoption(dict(served), settings, SCHEMA.empty(4), draft)
    return {name: elements for name, elements in draft.elements.items() if elements}


def test_a_frontend_leads_to_its_port() -> None:
    found = lines((VIP, Entry(Answer("a/b", "rr", SOMEBODY, exclusive=True), 40000)))
    assert found == {
        "ports": ["10.96.0.1 . tcp . 80 : 169.254.112.112 . 40000"],
        "cluster-ips": ["10.96.0.1"],
        "pod-cidrs": ["10.128.0.0-10.255.255.255"],
        "service-cidrs": ["10.96.0.0-10.111.255.255"],
        "node-port-cidrs": ["0.0.0.0-255.255.255.255"],
    }


def test_clients_inside_have_a_port_of_their_own() -> None:
    found = lines((PORT, Entry(Answer("a/b", "rr", SOMEBODY, Pool(when_empty="drop")), 0, 40002)))
    assert found["node-port-split"] == ["udp . 30080"]
    assert found["node-port-dropped"] == ["udp . 30080"]
    assert found["node-port-ports-inside"] == ["udp . 30080 : 169.254.112.112 . 40002"]


def test_where_nobody_answers_or_listens_clients_hear_it() -> None:
    assert "refused" in lines((VIP, Entry(Answer("a/b", "rr", Pool()))))
    assert "dropped" in lines((VIP, Entry(Answer("a/b", "rr", Pool(when_empty="drop")))))
    assert "refused" in lines((VIP, Entry(Answer("a/b", "rr", SOMEBODY))))


def test_loopback_has_a_set_of_its_own() -> None:
    assert lines(settings=NodeSettings(localhost_node_ports=True)) == {"loopback-cidrs": ["127.0.0.0-127.255.255.255"]}


@given(st.lists(st.dictionaries(frontends, st.one_of(st.none(), entries), max_size=4), max_size=4))
def test_changes_lead_to_what_an_adoption_from_nothing_does(changes: list[dict[Frontend, Entry | None]]) -> None:
    table, memory = Table(4), Memory()
    table.accept(table.adoption({}, SETTINGS, memory.held, memory))
    for changed in changes:
        table.accept(table.change(changed, memory))
    fresh, wanted = Memory(), Table(4)
    wanted.accept(wanted.adoption(table.entries, SETTINGS, fresh.held, fresh))
    assert memory.held == fresh.held


@given(st.dictionaries(frontends, entries), st.dictionaries(frontends, entries))
def test_an_adoption_leads_from_anything_to_the_plan(
    old: dict[Frontend, Entry], new: dict[Frontend, Entry]
) -> None:  # fmt: skip
    memory, fresh = Memory(), Memory()
    Table(4).adoption(old, SETTINGS, memory.held, memory)
    Table(4).adoption(new, SETTINGS, memory.held, memory)
    Table(4).adoption(new, SETTINGS, fresh.held, fresh)
    assert memory.held == fresh.held


def test_ports_are_opened_where_somebody_answers() -> None:
    split = Answer("a/b", "rr", SOMEBODY, Pool(when_empty="drop"), affinity=7)
    assert [(target, wish.affinity) for target, wish in wishes_of(VIP, split)] == [(Target(VIP, inside=True), 7)]
    drained = Answer("a/b", "rr", Pool((Backend("10.128.0.1", 8080, 0),)))
    assert not list(wishes_of(VIP, drained))
    assert not list(wishes_of(Frontend(4, "10.96.0.1", "sctp", 80), Answer("a/b", "rr", SOMEBODY)))


def test_render_says_that_ports_are_placeholders() -> None:
    text = render(Plan({VIP: Answer("a/b", "rr", SOMEBODY), PORT: Answer("a/b", "rr", SOMEBODY)}, SETTINGS))
    assert text.startswith("# Ports at 169.254.112.112 and fd70:6f69:6e74:736d::1 are placeholders")
    assert "10.96.0.1 . tcp . 80 : 169.254.112.112 . 40002," in text
    assert "udp . 30080 : 169.254.112.112 . 40001," in text
    assert "table ip6 pointsman-userspace {" in text
