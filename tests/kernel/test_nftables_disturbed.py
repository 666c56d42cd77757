"""Other programs change our tables: it is noticed, and mended by writing the difference; theirs are left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.nftables.port import NftPort
from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.lab.traffic import Answered, Held, Refused, TimedOut, connect
from pointsman.model.plan import Answer, Backend, Delta, NodeSettings, Pool
from support.proxied import Proxied, answer, generation, node_port, pool, proxied, reach, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Frontend

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

FAMILIES: tuple[Family, ...] = (4, 6)
FOREIGN = """
table inet other {
    set friends { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
    chain input { type filter hook input priority 5; ip saddr @friends counter; }
}
table inet pointsman {
    chain input { type filter hook input priority 6; ip saddr 192.0.2.9 drop; }
}
"""
"""The tables of others; one has our name, in a family that is not ours."""

DISTURBANCES = {
    "a Service is deleted": "delete element {t} services {{ {vip} . tcp . 80 }}",
    "an endpoint is deleted": "delete element {t} endpoints {{ {vip} . tcp . 80 . 0:1 }}",
    "the last endpoint is deleted": "delete element {t} endpoints {{ {vip} . tcp . 80 . 2 }}",
    "all endpoints are deleted": "flush map {t} endpoints",
    "a Service is added": "add element {t} services {{ {stray} . tcp . 80 : 1:3 }}",
    "a Service is changed": (
        "delete element {t} services {{ {vip} . tcp . 80 }}\nadd element {t} services {{ {vip} . tcp . 80 : ff:2 }}"
    ),
    "an endpoint is added": "add element {t} endpoints {{ {vip} . tcp . 80 . 0:3 : {stray} . 80 }}",
    "a cluster IP is added": "add element {t} cluster-ips {{ {stray} }}",
    "source ranges are deleted": "flush set {t} source-ranges",
    "a source range is added": "add element {t} source-ranges {{ {stray} . tcp . 80 . {stray} }}",
    "a class is deleted": "delete element {t} node-port-classes {{ 1:3 }}",
    "a masquerade is deleted": "flush set {t} node-port-masquerade-all",
    "pod networks are deleted": "flush set {t} pod-cidrs",
    "a network is added": "flush set {t} node-port-cidrs\nadd element {t} node-port-cidrs {{ {stray} }}",
    "a fixed chain gets a rule": "insert rule {t} dispatch drop",
    "a fixed chain is flushed": "flush chain {t} translated",
    "a fixed chain is renamed": "rename chain {t} dispatch despatch",
    "a base chain is deleted": "flush chain {t} forward\ndelete chain {t} forward",
    "a base chain is hooked elsewhere": (
        "flush chain {t} forward\ndelete chain {t} forward\n"
        "add chain {t} forward {{ type filter hook forward priority 7; policy drop; }}"
    ),
    "a base chain gets another policy": "add chain {t} forward {{ policy drop; }}",
    "a class's chain gets a rule": "insert rule {t} pick-random-3 drop",
    "a class's chain is flushed": "flush chain {t} pick-random-3",
    "a chain is added": "add chain {t} mine {{ type filter hook forward priority 3; }}\nadd rule {t} mine drop",
    "a class's chain is added": "add chain {t} pick-random-99",
    "the checksums are deleted": "flush map {t} structure",
    "rules are flushed": "flush table {t}",
    "the table is deleted": "delete table {t}",
    "the table sleeps": "add table {t} {{ flags dormant; }}",
    "a set is deleted": "flush chain {t} translated\ndelete set {t} hairpin",
    "a set has another type": (
        "flush chain {t} translated\ndelete set {t} hairpin\nadd set {t} hairpin {{ type mark; }}"
    ),
    "everything is flushed": "flush ruleset",
}


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


def fill(node: Proxied, family: Family) -> list[Server]:
    """Bring some of everything into the kernel."""
    three = node.endpoints(3, family=family)
    everyone = {4: "0.0.0.0/0", 6: "::/0"}[family]
    guarded = msgspec.structs.replace(answer(three), source_ranges=(everyone,))
    exclusive = msgspec.structs.replace(answer(three, affinity=600), exclusive=True, masquerade="off-cluster")
    everywhere = msgspec.structs.replace(answer(three), masquerade="always")
    node.put(
        {
            vip(1, family=family): answer(three),
            vip(2, family=family): guarded,
            vip(3, family=family): exclusive,
            vip(4, family=family): answer(three, scheduler="rr"),
            vip(5, family=family): Answer("a/b", "random", pool([]), outside=pool(three[:1])),
            node_port(family=family): everywhere,
        }
    )
    return three


def disturb(node: Proxied, what: str, family: Family) -> None:
    """Do it to the table of one family."""
    table = {4: "ip pointsman", 6: "ip6 pointsman"}[family]
    stray = {4: "10.96.77.77", 6: "fd00:10:96::7777"}[family]
    for command in DISTURBANCES[what].format(t=table, vip=vip(1, family=family).address, stray=stray).split("\n"):
        node.nft(command)


@pytest.mark.parametrize("what", DISTURBANCES)
def test_it_is_noticed_and_mended(node: Proxied, what: str) -> None:
    for family in FAMILIES:
        fill(node, family)
    before = node.tables()
    for family in FAMILIES:
        assert not node.dataplane.disturbed()
        disturb(node, what, family)
        assert node.dataplane.disturbed()
        assert node.adopt().refused == {}
        assert node.tables() == before
        assert not node.dataplane.disturbed()
        for number in (1, 2, 3, 4):
            reach(node.ground.client, vip(number, family=family))
        reach(node.ground.client, node_port(family=family), at=node.ground.node.address(family))
        again = node.adopt()
        assert (again.added, again.removed) == (0, 0)


def test_foreign_tables_are_neither_watched_nor_touched(node: Proxied) -> None:
    node.nft("-f", "-", stdin=FOREIGN)
    node.dataplane.disturbed()
    endpoints = fill(node, 4)
    before = node.nft("list", "table", "inet", "other"), node.nft("list", "table", "inet", "pointsman")
    node.nft("add element inet other friends { 192.0.2.3 }")
    node.nft("delete element inet other friends { 192.0.2.3 }")
    assert not node.dataplane.disturbed()
    node.put({vip(1): answer(endpoints[:1])})
    node.nft("flush table ip pointsman")
    node.adopt()
    node.restart()
    node.dataplane.cleanup()
    assert (node.nft("list", "table", "inet", "other"), node.nft("list", "table", "inet", "pointsman")) == before
    assert node.nft("list", "tables").split("\n") == ["table inet other", "table inet pointsman", ""]


def test_our_own_changes_are_no_disturbance(node: Proxied) -> None:
    endpoints = fill(node, 4)
    for count in (1, 2, 3, 0, 3):
        node.put({vip(1): answer(endpoints[:count]), vip(4): answer(endpoints[:count], scheduler="rr")})
        assert not node.dataplane.disturbed()
    node.dataplane.apply(Delta({}, settings=NodeSettings(drop_invalid=False)))
    assert not node.dataplane.disturbed()
    node.adopt()
    node.restart()
    assert not node.dataplane.disturbed()


def test_two_at_once_do_no_harm(node: Proxied) -> None:
    """An old agent that has not ended yet and a new one write the same tables."""
    endpoints = fill(node, 4)
    with node.ground.node.namespace.entered():
        other = NftablesDataplane()
    assert (other.adopt(node.plan).added, other.adopt(node.plan).removed) == (0, 0)
    node.put({vip(1): answer(endpoints[:2])})
    assert other.disturbed()
    other.adopt(node.plan)
    assert not other.disturbed()
    other.close()
    assert {reach(node.ground.client, vip(1)) for _ in range(40)} == {"a", "b"}


def refusal(node: Proxied, changed: dict[Frontend, Answer]) -> str:
    """Apply what the kernel refuses, check that nothing changed, and return what the error says."""
    before, count = node.tables(), generation(node.ground.node)
    with pytest.raises(DataplaneError) as caught:
        node.dataplane.apply(Delta(changed))
    assert node.tables() == before
    assert generation(node.ground.node) == count
    return str(caught.value)


def test_an_element_that_another_put_in_our_way_is_named(node: Proxied) -> None:
    endpoints, new = fill(node, 4), vip(77)
    with Held(node.ground.client, vip(1).address, 80, count=20) as held:
        node.nft("add element ip pointsman services { 10.96.0.77 . tcp . 80 : ff:2 }")
        others = {vip(number): answer(endpoints) for number in range(60, 90)}
        said = refusal(node, {**others, new: answer(endpoints)})
        assert "10.96.0.77 . tcp . 80" in said
        assert "services" in said
        assert "File exists" in said
        # All of it is refused, and what was there goes on.
        assert isinstance(connect(node.ground.client, new.address, 80), TimedOut)
        assert reach(node.ground.client, vip(1)) in "abc"
        node.plan = msgspec.structs.replace(node.plan, answers={**node.plan.answers, **others, new: answer(endpoints)})
        assert node.adopt().refused == {}
        assert {reach(node.ground.client, frontend) for frontend in others} <= set("abc")
        assert held.broken() == []


def test_an_element_that_another_took_away_is_named(node: Proxied) -> None:
    endpoints = fill(node, 6)
    node.nft("delete element ip6 pointsman endpoints { fd00:10:96::1 . tcp . 80 . 0:2 }")
    said = refusal(node, {vip(1, family=6): answer(endpoints[:2])})
    assert "fd00:10:96::1 . tcp . 80 . 0:2" in said
    assert "endpoints" in said
    node.plan = msgspec.structs.replace(
        node.plan, answers={**node.plan.answers, vip(1, family=6): answer(endpoints[:2])}
    )
    assert node.adopt().refused == {}
    assert {reach(node.ground.client, vip(1, family=6)) for _ in range(40)} == {"a", "b"}


def test_a_class_of_others_with_the_last_number_is_in_nobodys_way(node: Proxied) -> None:
    endpoints = fill(node, 4)
    node.nft("add element ip pointsman classes { ffff:ffff : drop }")
    node.restart()
    node.put({vip(30): answer(endpoints, scheduler="rr")})
    assert {reach(node.ground.client, vip(30)) for _ in range(6)} == set("abc")


def test_what_others_lead_to_a_chain_of_ours_does_not_keep_it(node: Proxied) -> None:
    endpoints = fill(node, 4)
    node.put({vip(30): answer(endpoints[:2])})
    node.nft("add map ip pointsman evil { type mark : verdict; elements = { 1 : goto pick-random-2 }; }")
    node.nft("add chain ip pointsman pick-a")
    node.nft("add chain ip pointsman pick-b")
    node.nft("add rule ip pointsman pick-b jump pick-a")
    node.nft("add rule ip pointsman pick-a drop")
    assert node.dataplane.disturbed()
    assert node.adopt().refused == {}
    node.put({vip(31): answer(endpoints)}, gone=[vip(30)])
    assert reach(node.ground.client, vip(31)) in "abc"
    listing = node.nft("list table ip pointsman")
    assert "evil" not in listing
    assert "pick-a" not in listing
    assert "pick-random-2 " not in listing


def test_a_change_by_others_just_before_ours_is_noticed(node: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = fill(node, 4)
    pause = node.dataplane._port._ear._monitor.pause

    def pause_late() -> None:
        pause()
        monkeypatch.undo()
        node.nft("delete element ip pointsman services { 10.96.0.1 . tcp . 80 }")

    monkeypatch.setattr(node.dataplane._port._ear._monitor, "pause", pause_late)
    node.put({vip(30): answer(endpoints)})
    assert node.dataplane.disturbed()
    node.adopt()
    assert reach(node.ground.client, vip(1)) in "abc"


def test_neighbours_at_work_do_not_keep_a_large_table_from_being_read(node: Proxied) -> None:
    endpoints = fill(node, 4)
    many = {vip(number): answer(endpoints, scheduler="rr") for number in range(1000, 4000)}
    node.put(many)
    node.nft("add table ip neighbour")
    node.nft("add set ip neighbour s { type ipv4_addr; }")
    work = "while :; do nft add element ip neighbour s { 1.2.3.4 }; nft flush set ip neighbour s; done"
    neighbour = node.ground.node.namespace.start(["sh", "-c", work])
    try:
        for _ in range(3):
            assert node.restart() == Written()
    finally:
        neighbour.kill()
        neighbour.wait()


def test_a_range_that_overlaps_another_ones_is_named(node: Proxied) -> None:
    endpoints = fill(node, 4)
    node.nft("add element ip pointsman source-ranges { 10.96.0.9 . tcp . 80 . 203.0.113.0/25 }")
    guarded = msgspec.structs.replace(answer(endpoints), source_ranges=("203.0.113.0/24",))
    said = refusal(node, {vip(9): guarded})
    assert "source-ranges" in said
    assert "10.96.0.9 . tcp . 80" in said
    node.plan = msgspec.structs.replace(node.plan, answers={**node.plan.answers, vip(9): guarded})
    assert node.adopt().refused == {}
    assert reach(node.ground.client, vip(9)) in "abc"
    assert isinstance(connect(node.ground.pods[2], vip(9).address, 80, timeout=0.2), TimedOut)


def test_a_refused_family_does_not_hold_up_what_it_does_not_concern(node: Proxied) -> None:
    endpoints, sixes = fill(node, 4), fill(node, 6)
    node.nft("add element ip6 pointsman services { fd00:10:96::4d . tcp . 80 : ff:2 }")
    changed = {vip(76): answer(endpoints), vip(77, family=6): answer(sixes)}
    with pytest.raises(DataplaneError, match="fd00:10:96::4d"):
        node.dataplane.apply(Delta(changed))
    # IPv4 is in force: all or nothing holds for each family.
    assert reach(node.ground.client, vip(76)) in "abc"
    node.plan = msgspec.structs.replace(node.plan, answers={**node.plan.answers, **changed})
    node.adopt()
    assert reach(node.ground.client, vip(77, family=6)) in "abc"


def test_a_frontend_that_cannot_be_is_told_and_all_others_are_in_force(node: Proxied) -> None:
    endpoints = fill(node, 4)
    many = tuple(Backend(f"10.{n >> 14}.{n >> 7 & 127}.{n & 127}", 80) for n in range(65_536))
    huge = Answer("default/huge", "random", Pool(many))
    written = node.put({vip(30): huge, vip(31): answer(endpoints)})
    assert list(written.refused) == ["10.96.0.30:80/tcp"]
    assert "65536 endpoints" in written.refused["10.96.0.30:80/tcp"]
    assert reach(node.ground.client, vip(31)) in "abc"
    assert list(node.restart().refused) == ["10.96.0.30:80/tcp"]
    assert reach(node.ground.client, vip(31)) in "abc"
    node.put({vip(30): answer(endpoints)})
    assert reach(node.ground.client, vip(30)) in "abc"


def test_cleanup_removes_everything_and_works_twice(node: Proxied) -> None:
    fill(node, 4)
    node.dataplane.cleanup()
    node.dataplane.cleanup()
    assert node.nft("list", "ruleset") == ""
    assert not isinstance(connect(node.ground.client, vip(1).address, 80, timeout=0.1), Answered)
    node.adopt()
    assert reach(node.ground.client, vip(1)) in "abc"
    assert isinstance(connect(node.ground.client, vip(3).address, 81), Refused)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_others_do_right_behind_a_repair_is_not_taken_for_ours(
    node: Proxied, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules are read to be recognized again; when they are flushed before that, the next repair finds it."""
    three = fill(node, family)
    before = node.tables()
    run = NftPort.run

    def run_and_be_flushed(port: NftPort, commands: str) -> None:
        monkeypatch.setattr(NftPort, "run", run)
        run(port, commands)
        disturb(node, "rules are flushed", family)

    disturb(node, "rules are flushed", family)
    monkeypatch.setattr(NftPort, "run", run_and_be_flushed)
    assert node.dataplane.disturbed()
    node.adopt()
    assert node.dataplane.disturbed()
    node.adopt()
    assert node.tables() == before
    assert not node.dataplane.disturbed()
    assert reach(node.ground.client, vip(1, family=family)) in {server.name for server in three}
