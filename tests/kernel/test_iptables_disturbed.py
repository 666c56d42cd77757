"""Chains that others change, or that were there before: found and mended by the difference; theirs are left alone."""

from __future__ import annotations

import fcntl
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.agent.kernel import real_kernel
from pointsman.dataplane.iptables.tools import Tools, find_culprit
from pointsman.dataplane.iptables.variant import VARIANTS as BOTH
from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.lab.traffic import Answered, Held, Load, Refused, connect
from pointsman.lab.waiting import wait_until
from pointsman.model.plan import Answer, Backend, Delta, IptablesSettings, NodeSettings, Pool
from support.dataplanes import open_dataplane
from support.iptables import VARIANTS, Chained, Clock, as_kubelet_does, chained, changes, run
from support.proxied import answer, generation, node_port, pool, reach, vip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.dataplane.iptables import IptablesDataplane
    from pointsman.dataplane.iptables.variant import Variant
    from pointsman.lab.servers import Server
    from pointsman.model.plan import Family, Frontend

    from .conftest import Ground

pytestmark = pytest.mark.needs("connection tracking", "IPv6")

FAMILIES: tuple[Family, ...] = (4, 6)
HINT = ":POINTSMAN-HINT -"
OTHERS = (
    "-t nat -N THEIRS",
    "-t nat -A THEIRS -p tcp -m tcp --dport 81 -j RETURN",
    "-t nat -I PREROUTING -j THEIRS",
    "-t filter -A FORWARD -m comment --comment KUBE-LIKE -j ACCEPT",
    "-t filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-t filter -N KUBE-MARK-DROP",
    "-t mangle -A PREROUTING -j MARK --set-xmark 0x1/0x1",
)
"""What belongs to other programs; some of it has names like ours, and some has the kernel track connections."""
DISTURBANCES = {
    "everything is flushed": ("-t nat -F", "-t filter -F"),
    "nat is flushed": ("-t nat -F",),
    "nat is flushed and deleted": ("-t nat -F", "-t nat -X"),
    "filter is flushed and deleted": ("-t filter -F", "-t filter -X"),
    "a chain is flushed": ("-t nat -F KUBE-SERVICES",),
    "a jump is deleted": ("-t nat -D PREROUTING 1",),
    "the first jump is at the wrong place": ("-t nat -I KUBE-SERVICES -j RETURN",),
    "a rule is deleted": ("-t nat -D KUBE-SERVICES 1",),
    "a rule is added behind": ("-t nat -A KUBE-MARK-MASQ -j RETURN",),
    "a rule of the firewall is deleted": ("-t filter -D KUBE-PROXY-FIREWALL 1",),
    "a chain of ours is added": ("-t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA",),
}
RENAMED = {"a rule is replaced": ("-t nat -R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000",)}
"""As many rules of the same size as before: the legacy variant does not tell of it."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=VARIANTS)
def node(ground: Ground, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Chained]:
    with chained(ground, request.param, clock) as made:
        yield made


def fill(node: Chained, family: Family) -> list[Server]:
    """Bring some of everything into the kernel."""
    three = node.endpoints(3, family=family)
    ranges = {4: ("203.0.113.0/24", "192.168.0.0/16"), 6: ("2001:db8:203::/64", "fd00:192:168::/48")}[family]
    named = (msgspec.structs.replace(answer(three), service_port=f"default/web-{number}:http") for number in count())
    exclusive = msgspec.structs.replace(next(named), exclusive=True, masquerade="off-cluster", affinity=600)
    local = msgspec.structs.replace(pool(three[:1]), local=True)
    node.put(
        {
            vip(1, family=family): exclusive,
            vip(2, family=family): msgspec.structs.replace(next(named), source_ranges=ranges, masquerade="always"),
            vip(3, family=family): msgspec.structs.replace(next(named), outside=local, masquerade="node"),
            vip(4, family=family): Answer("default/none", "random", Pool(), exclusive=True),
            vip(5, family=family): msgspec.structs.replace(
                next(named), pool=pool(three, (1, 2, 3)), affinity=7, masquerade="always"
            ),
            vip(6, "udp", family): msgspec.structs.replace(next(named), pool=pool(three[:2]), exclusive=True),
            vip(7, "sctp", family): next(named),
            node_port(family=family): msgspec.structs.replace(next(named), masquerade="always"),
            node_port("udp", family): Answer("default/none", "random", Pool(when_empty="drop")),
        }
    )
    return three


def is_served(node: Chained, families: tuple[Family, ...] = FAMILIES) -> None:
    """Check that packets go where they shall."""
    for family in families:
        for number in (1, 2, 3, 5):
            assert reach(node.ground.client, vip(number, family=family)) in "abc"
        assert reach(node.ground.client, node_port(family=family), at=node.ground.node.address(family)) in "abc"
        assert isinstance(connect(node.ground.client, vip(4, family=family).address, 80), Refused)


def held(node: Chained) -> list[list[str]]:
    return [sorted(node.rules(family)) for family in FAMILIES]


def test_what_is_written_is_what_is_read(node: Chained) -> None:
    """Rules are compared as text: each is written as the kernel gives it back, so that a restart writes nothing."""
    for family in FAMILIES:
        fill(node, family)
    before, generations = held(node), generation(node.ground.node)
    assert changes(node.restart()) == Written()
    assert changes(node.adopt()) == Written()
    settings = [
        NodeSettings(),
        msgspec.structs.replace(
            node.plan.settings, pod_cidrs=("10.0.0.0/8", "192.168.0.0/16", "fd00:1::/48", "fd00:2::/64"),
            node_port_cidrs=("172.16.0.1/32", "203.0.113.0/24", "fd00:172:16::1/128"), drop_invalid=False,
        ),
        msgspec.structs.replace(node.plan.settings, iptables=IptablesSettings(9, localhost_node_ports=True)),
    ]  # fmt: skip
    assert generation(node.ground.node) == generations
    for each in settings:
        node.dataplane.apply(Delta({}, settings=each))
        plan, node.plan = node.plan, msgspec.structs.replace(node.plan, settings=each)
        assert changes(node.restart()) == Written()
        node.plan = plan
    node.adopt()
    assert held(node)[1] == before[1]
    is_served(node)


def test_each_sync_tells_how_many_rules_there_are_now(node: Chained) -> None:
    for family in FAMILIES:
        fill(node, family)
    syncs = (
        node.adopt,
        node.restart,
        lambda: node.put({}, gone=[vip(1)]),
        lambda: node.put({vip(9): answer([])}),
    )
    for sync in syncs:
        assert sync().rules == counted(node)


def counted(node: Chained) -> dict[tuple[Family, str], int]:
    """Count the rules that the node has; all of them are ours."""
    found: dict[tuple[Family, str], int] = {}
    for family in FAMILIES:
        for table in "\n".join(node.rules(family)).split("*")[1:]:
            found[family, table.partition("\n")[0]] = table.count("\n-A ")
    return found


def test_changes_lead_to_what_a_start_would_have_made(node: Chained) -> None:
    three = {family: fill(node, family) for family in FAMILIES}
    for number in (1, 3, 2, 0, 3):
        for family in FAMILIES:
            node.put({vip(1, family=family): answer(three[family][:number]), vip(8, family=family): answer([])})
            node.put({}, gone=[vip(8, family=family), vip(2, family=family)])
    assert changes(node.restart()) == Written()
    assert {reach(node.ground.client, vip(1)) for _ in range(40)} == {"a", "b", "c"}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_it_is_noticed_at_once_and_mended(node: Chained, what: str) -> None:
    for family in FAMILIES:
        fill(node, family)
    before = held(node)
    for family in FAMILIES:
        assert not node.dataplane.disturbed()
        for command in DISTURBANCES[what]:
            node.iptables(*command.split(), family=family)
        assert node.dataplane.disturbed()
        assert node.adopt().refused == {}
        assert held(node) == before
        assert not node.dataplane.disturbed()
        assert changes(node.adopt()) == Written()
    is_served(node)


@pytest.mark.parametrize("what", [*DISTURBANCES, *RENAMED])
def test_it_is_noticed_by_the_comparison_when_it_escapes_the_watch(node: Chained, clock: Clock, what: str) -> None:
    fill(node, 4)
    before = held(node)
    clock.now += 1000
    node.dataplane.tend()
    assert not node.dataplane.disturbed()
    if node.variant == "nft":
        node.iptables(*RENAMED["a rule is replaced"][0].split())
        assert node.dataplane.disturbed(), "nothing escapes this one"
        return
    for command in {**DISTURBANCES, **RENAMED}[what]:
        node.iptables(*command.split())
    node.dataplane.disturbed()
    node.dataplane.tend()
    assert not node.dataplane.disturbed(), "it is not time yet"
    clock.now += node.plan.settings.sync_period
    node.dataplane.tend()
    assert node.dataplane.disturbed()
    node.adopt()
    assert held(node) == before


def test_our_own_changes_are_no_disturbance(node: Chained, clock: Clock) -> None:
    endpoints = fill(node, 4)
    for number in (1, 2, 3, 0, 3):
        node.put({vip(1): answer(endpoints[:number]), vip(20 + number): answer(endpoints[:number])})
        assert not node.dataplane.disturbed()
        clock.now += 1000
        node.dataplane.tend()
        assert not node.dataplane.disturbed()
    node.dataplane.apply(Delta({}, settings=NodeSettings(drop_invalid=False)))
    assert not node.dataplane.disturbed()
    node.adopt()
    many = {vip(n): msgspec.structs.replace(answer(endpoints), service_port=f"a/s{n}") for n in range(1000, 1700)}
    node.put(many)
    assert not node.dataplane.disturbed()
    node.restart()
    assert not node.dataplane.disturbed()


def test_others_at_work_are_no_disturbance(node: Chained, clock: Clock) -> None:
    fill(node, 4)
    for command in OTHERS:
        node.iptables(*command.split())
    if node.variant == "nft":
        assert not node.dataplane.disturbed()
    node.dataplane.disturbed()
    clock.now += 1000
    node.dataplane.tend()
    assert not node.dataplane.disturbed()
    before = held(node)
    assert changes(node.restart()) == Written()
    assert held(node) == before


def test_a_change_by_others_just_before_ours_is_noticed(node: Chained, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = fill(node, 4)
    restore = Tools.restore

    def restore_late(tools: Tools, family: Family, text: str) -> object:
        monkeypatch.undo()
        node.iptables("-t", "nat", "-F", "KUBE-MARK-MASQ")
        return restore(tools, family, text)

    monkeypatch.setattr(Tools, "restore", restore_late)
    node.put({vip(30): answer(endpoints)})
    if node.variant == "nft":
        assert node.dataplane.disturbed()
    assert node.adopt().added == 1


def test_cleanup_takes_what_is_ours_and_nothing_else(node: Chained) -> None:
    node.dataplane.cleanup()
    for family in FAMILIES:
        for command in OTHERS:
            node.iptables(*command.split(), family=family)
    as_kubelet_does(node.ground.node, node.variant)
    before = [node.rules(family) for family in FAMILIES]
    node.adopt()
    for family in FAMILIES:
        fill(node, family)
    traces = real_kernel().traces
    with node.ground.node.namespace.entered():
        assert traces("iptables")
    with Held(node.ground.client, vip(1).address, 80, count=5) as lines:
        node.dataplane.cleanup()
        assert lines.broken() == []
    assert [node.rules(family) for family in FAMILIES] == before
    with node.ground.node.namespace.entered():
        assert not traces("iptables")
    assert not isinstance(connect(node.ground.client, vip(1).address, 80, timeout=0.3), Answered)
    node.dataplane.cleanup()


def test_many_chains_come_and_go_as_few_do(node: Chained) -> None:
    node.dataplane.cleanup()
    before, servers = node.rules(), node.endpoints(2)
    some = {vip(n): msgspec.structs.replace(answer(servers), service_port=f"a/s{n}") for n in range(1, 800)}
    node.plan = msgspec.structs.replace(node.plan, answers=some)
    assert node.adopt().added > 800 * 8
    assert not node.dataplane.disturbed()
    assert {reach(node.ground.client, vip(number)) for number in (1, 400, 799)} <= {"a", "b"}
    assert changes(node.restart()) == Written()
    assert node.dataplane.read().keys() == some.keys()
    node.dataplane.cleanup()
    assert node.rules() == before


def test_a_chain_that_others_lead_to_stays_empty_until_they_do_not(node: Chained) -> None:
    fill(node, 4)
    node.iptables("-t", "nat", "-N", "THEIRS")
    node.iptables("-t", "nat", "-A", "THEIRS", "-j", "KUBE-MARK-MASQ")
    for _ in range(2):
        with pytest.raises(DataplaneError, match="`-A THEIRS -j KUBE-MARK-MASQ`"):
            node.dataplane.cleanup()
        left = [line for line in node.rules() if "KUBE-" in line or "POINTSMAN" in line]
        assert left == [":KUBE-MARK-MASQ -", ":POINTSMAN-HINT -", "-A THEIRS -j KUBE-MARK-MASQ"]
    node.iptables("-t", "nat", "-F", "THEIRS")
    node.dataplane.cleanup()
    assert not [line for line in node.rules() if "KUBE-" in line or "POINTSMAN" in line]


def test_kube_proxys_chains_are_taken_over_but_never_cleaned_up(node: Chained) -> None:
    fill(node, 4)
    before = node.rules()
    # Without the hint they might be kube-proxy's.
    for family in FAMILIES:
        node.iptables("-t", "nat", "-X", "POINTSMAN-HINT", family=family)
    theirs = node.rules()
    node.dataplane.cleanup()
    assert node.rules() == theirs
    assert node.dataplane.read().keys() == set()
    client, at = node.ground.client, vip(1).address
    with Held(client, at, 80, count=5) as lines, Load(client, at, 80) as load:
        assert changes(node.restart()) == Written()
        load.wait(20)
        assert lines.broken() == []
    assert load.spread().failures == []
    assert sorted(node.rules()) == sorted(before)
    assert vip(1) in node.dataplane.read()


def test_a_services_chain_that_others_lead_to_is_in_nobodys_way(node: Chained, clock: Clock) -> None:
    three = fill(node, 4)
    (chain,) = {rule.rpartition(" -j ")[2] for rule in node.rules() if "-A KUBE-SERVICES -d 10.96.0.1/32" in rule}
    node.iptables("-t", "nat", "-N", "THEIRS")
    node.iptables("-t", "nat", "-A", "THEIRS", "-j", chain)
    known = node.plan.answers[vip(1)]
    with pytest.raises(DataplaneError):
        node.put({vip(90): answer(three)}, gone=[vip(1)])
    plan = {frontend: known for frontend, known in node.plan.answers.items() if frontend != vip(1)}
    node.plan = msgspec.structs.replace(node.plan, answers={**plan, vip(90): answer(three)})
    node.adopt()
    assert reach(node.ground.client, vip(90)) in "abc"
    assert f":{chain} -" in node.rules()
    assert not [rule for rule in node.rules() if rule.startswith(f"-A {chain} ")]
    assert changes(node.adopt()) == Written()
    clock.now += 1000
    node.dataplane.tend()
    assert not node.dataplane.disturbed()
    node.put({vip(1): known})
    assert reach(node.ground.client, vip(1)) in "abc"
    node.iptables("-t", "nat", "-F", "THEIRS")


@pytest.mark.needs("iptables (nft)", "nftables")
def test_rules_that_iptables_does_not_understand(ground: Ground) -> None:
    alien = "numgen random mod 2 vmap { 0 : drop, 1 : drop }"
    with chained(ground, "nft") as node:
        fill(node, 4)
        before = held(node)
        node.nft(f"insert rule ip nat KUBE-SERVICES {alien}")
        assert node.dataplane.disturbed()
        node.adopt()
        node.adopt()
        assert held(node) == before
        node.nft(f"add chain ip nat theirs\nadd rule ip nat theirs {alien}")
        with pytest.raises(DataplaneError, match="the table ip nat has rules that iptables does not understand"):
            node.adopt()
        assert reach(node.ground.client, vip(1)) in "abc"
        node.nft("delete chain ip nat theirs")
        assert changes(node.adopt()) == Written()
        assert held(node) == before


@pytest.mark.needs("iptables (nft)", "nftables")
@pytest.mark.parametrize("commands", [["flush ruleset"], ["delete table ip nat", "delete table ip6 filter"]])
def test_tables_that_nft_takes_away_come_back(ground: Ground, commands: list[str]) -> None:
    with chained(ground, "nft") as node:
        for family in FAMILIES:
            fill(node, family)
        before = held(node)
        for command in commands:
            node.nft(command)
        assert node.dataplane.disturbed()
        node.adopt()
        assert held(node) == before
        is_served(node)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_node_that_changes_its_variant_gets_rid_of_the_other_ones_rules(ground: Ground, variant: Variant) -> None:
    other: Variant = "legacy" if variant == "nft" else "nft"
    with chained(ground, other) as node:
        fill(node, 4)
        as_kubelet_does(ground.node, variant)
        dataplane = open_dataplane(ground.node, "iptables")
        assert dataplane.support().available
        with Load(ground.client, vip(1).address, 80) as load:
            dataplane.adopt(node.plan)
            load.wait(20)
        assert load.spread().failures == []
        assert HINT in node.rules(variant=variant)
        assert not [line for line in node.rules(variant=other) if "KUBE-" in line]
        dataplane.close()


def test_a_frontend_that_is_refused_is_named_and_the_others_are_in_force(node: Chained) -> None:
    three = {family: fill(node, family) for family in FAMILIES}
    bad = Answer("default/bad", "random", Pool((Backend("10.0.0.999", 80),)))
    good = msgspec.structs.replace(answer(three[4][:1]), service_port="default/new")
    changed: dict[Frontend, Answer] = {vip(61): good, vip(62): bad, vip(63): good}
    with pytest.raises(DataplaneError, match=r"10\.96\.0\.62:80/tcp.*10\.0\.0\.999"):
        node.dataplane.apply(Delta(changed))
    node.dataplane.disturbed()
    node.plan = msgspec.structs.replace(node.plan, answers={**node.plan.answers, **changed})
    refused = node.adopt().refused
    assert refused.keys() == {"10.96.0.62:80/tcp"}
    assert "10.0.0.999" in refused["10.96.0.62:80/tcp"]
    assert [reach(node.ground.client, vip(number)) for number in (61, 63)] == ["a", "a"]
    is_served(node)
    # One that was served before goes on as it was.
    plan = node.plan
    bad_again = msgspec.structs.replace(node.plan.answers[vip(1)], pool=bad.pool)
    node.plan = msgspec.structs.replace(plan, answers={**plan.answers, vip(1): bad_again})
    assert node.adopt().refused.keys() == {"10.96.0.62:80/tcp", "10.96.0.1:80/tcp"}
    assert reach(node.ground.client, vip(1)) in "abc"


@pytest.mark.needs("iptables (legacy)")
def test_the_rule_that_the_kernel_refuses_is_found_where_the_legacy_program_does_not_tell(ground: Ground) -> None:
    rules = [f"-A KUBE-SEP-{number} -s 10.0.0.{number}/32 -j RETURN" for number in range(50)]
    rules[37] = "-A KUBE-SEP-37 -m recent --rcheck --seconds 1 --hitcount 100000 --name x -j RETURN"
    text = "\n".join(["*nat", *(f":KUBE-SEP-{number} - [0:0]" for number in range(50)), *rules, "COMMIT", ""])
    with ground.node.namespace.entered():
        tools = Tools("legacy")
        failure = tools.restore(4, text)
        assert failure is not None
        assert failure.is_final
        found = find_culprit(tools, 4, text, failure.line)
        assert text.splitlines()[found - 1] == rules[37]
        assert "POINTSMAN" not in tools.save(4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_support_follows_the_node_and_leaves_no_rule(ground: Ground, variant: Variant) -> None:
    as_kubelet_does(ground.node, variant)
    dataplane: IptablesDataplane = open_dataplane(ground.node, "iptables")  # type: ignore[assignment]  # it is one
    support = dataplane.support()
    assert (support.available, support.schedulers, support.reason) == (True, ("random",), "")
    assert dataplane.variant == variant
    for each in BOTH:
        listing = run(ground.node, each, "iptables-save")
        assert not [line for line in listing.splitlines() if line.startswith("-A") or "POINTSMAN" in line]
    dataplane.close()


def test_a_flush_is_heard_and_mended_before_a_held_connection_notices(node: Chained) -> None:
    """Without a rule that needs it the kernel tracks, and translates, nothing: such connections wait for the repair."""
    fill(node, 4)
    with Held(node.ground.client, vip(1).address, 80, count=20) as lines:
        for table in ("nat", "filter"):
            node.iptables("-t", table, "-F")
        wait_until(node.dataplane.disturbed, "the flush to be heard", patience=1.0, pause=0.01)
        node.adopt()
        assert lines.broken() == []
    is_served(node, (4,))


@pytest.mark.needs("iptables (legacy)")
def test_a_lock_that_another_program_holds_is_waited_for_and_then_told(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    with chained(ground, "legacy") as node, lock.open("w") as held_by_another:
        before, served = node.rules(), {vip(1): answer(node.endpoints(2))}
        fcntl.flock(held_by_another, fcntl.LOCK_EX)
        with pytest.raises(DataplaneError, match=r"held the lock of iptables \(legacy\) for 5 s"):
            node.put(served)
        assert node.rules() == before
        fcntl.flock(held_by_another, fcntl.LOCK_UN)
        node.adopt()
        node.put(served)
        assert reach(node.ground.client, vip(1)) in "ab"
