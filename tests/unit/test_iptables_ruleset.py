"""The rules against a model: whatever plans follow each other, the tables are those of the last one."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.dataplane.iptables.fixed import LISTS
from pointsman.dataplane.iptables.names import is_own, port_chain
from pointsman.dataplane.iptables.ruleset import Ruleset
from pointsman.dataplane.iptables.services import takers
from pointsman.model.plan import (
    NODE_PORT,
    Answer,
    Backend,
    Delta,
    Family,
    Frontend,
    IptablesSettings,
    NodeSettings,
    Plan,
    Pool,
    difference,
)
from support.iptables_memory import BUILT_IN, Fate, Memory, Packet, Tracer
from support.plans import PODS, VIPS, answers_of, histories_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.dataplane.iptables.ruleset import Held

OWN: dict[Family, str] = {4: "192.168.0.2", 6: "2001:db8::2"}
OUTSIDE: dict[Family, str] = {4: "203.0.113.7", 6: "2001:db8:99::7"}
CIDRS: dict[Family, tuple[str, ...]] = {
    4: ("10.0.0.0/8", "192.168.0.0/16", "10.1.0.0/16", "203.0.113.7/32"),
    6: ("fd00::/16", "2001:db8::/32", "fd00:10:1::/48", "2001:db8:99::7/128"),
}
EVERYWHERE: dict[Family, str] = {4: "0.0.0.0/0", 6: "::/0"}
PORTS = ("default/web", "default/web:p80", "kube-system/dns:dns")


@st.composite
def pools(draw: st.DrawFn, family: Family) -> Pool:
    backend = st.builds(
        lambda host, port, weight: Backend(f"{PODS[family]}{host}", port, weight),
        st.integers(1, 4),
        st.sampled_from((80, 8080)),
        st.sampled_from((0, 1, 1, 1, 2, 3)),
    )
    found = draw(st.lists(backend, max_size=4, unique_by=lambda backend: (backend.address, backend.port)))
    return Pool(tuple(sorted(found)), draw(st.sampled_from(("reject", "drop"))), draw(st.booleans()))


def answers(frontend: Frontend) -> st.SearchStrategy[Answer]:
    family = frontend.family
    return answers_of(frontend, pools(family), names=PORTS, schedulers=("random",), networks=CIDRS[family])


@st.composite
def plans(draw: st.DrawFn, family: Family) -> Plan:
    frontend = st.builds(
        Frontend,
        st.just(family),
        st.sampled_from((*VIPS[family], NODE_PORT)),
        st.sampled_from(("tcp", "udp", "sctp")),
        st.sampled_from((80, 443)),
    )
    found = draw(st.lists(frontend, max_size=5, unique=True))
    networks = st.lists(st.sampled_from((*CIDRS[4], *CIDRS[6])), max_size=3, unique=True).map(tuple)
    places = networks | st.just((EVERYWHERE[4], EVERYWHERE[6]))
    return Plan(
        {each: draw(answers(each)) for each in found},
        NodeSettings(
            draw(networks),
            (),
            draw(places),
            draw(st.booleans()),
            iptables=IptablesSettings(draw(st.sampled_from((14, 14, 3))), draw(st.booleans())),
        ),
    )


def adopt(memory: Memory, family: Family, plan: Plan) -> Ruleset:
    ruleset = Ruleset(family)
    change = ruleset.adoption(plan.answers, plan.settings, memory.held())
    memory.restore(change.text)
    ruleset.accept(change)
    return ruleset


def step(memory: Memory, ruleset: Ruleset, delta: Delta) -> None:
    change = ruleset.change(delta)
    memory.restore(change.text)
    ruleset.accept(change)


def sorted_lists(held: Held) -> dict[str, dict[str, tuple[str, ...]]]:
    """Put the rules in order whose order is of no importance, and leave out what is the kubelet's, too."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for table, chains in held.items():
        for chain, rules in chains.items():
            if is_own(table, chain):
                ordered = tuple(sorted(rules)) if (table, chain) in LISTS else rules
                found.setdefault(table, {})[chain] = ordered
            elif chain in BUILT_IN[table]:
                found.setdefault(table, {})[chain] = tuple(r for r in rules if not r.endswith("-j KUBE-FIREWALL"))
    return found


def check(memory: Memory, ruleset: Ruleset, plan: Plan) -> None:
    assert sorted_lists(memory.held()) == sorted_lists(ruleset.wanted())
    assert ruleset.sizes() == {table: sum(map(len, chains.values())) for table, chains in ruleset.wanted().items()}
    assert ruleset.answers() == plan.answers
    scratch = adopt(Memory(), ruleset.family, plan)
    assert scratch.wanted() == ruleset.wanted()
    again = Ruleset(ruleset.family).adoption(plan.answers, plan.settings, memory.held())
    assert (again.text, again.added, again.removed) == ("", 0, 0)


@given(histories_of(plans, answers))
@settings(deadline=None, max_examples=30)
def test_changes_lead_where_an_adoption_does(history: tuple[Family, list[Plan]]) -> None:
    family, (first, *rest) = history
    memory = Memory()
    ruleset = adopt(memory, family, first)
    check(memory, ruleset, first)
    before = first
    for plan in rest:
        step(memory, ruleset, difference(before, plan))
        check(memory, ruleset, plan)
        before = plan


@given(histories_of(plans, answers))
@settings(deadline=None, max_examples=30)
def test_an_adoption_leads_there_from_any_plan(history: tuple[Family, list[Plan]]) -> None:
    family, found = history
    memory = Memory()
    for plan in found:
        check(memory, adopt(memory, family, plan), plan)


@given(histories_of(plans, answers), st.data())
@settings(deadline=None, max_examples=40)
def test_foreign_changes_are_repaired(history: tuple[Family, list[Plan]], data: st.DataObject) -> None:
    family, (plan, *_) = history
    memory = Memory()
    adopt(memory, family, plan)
    table = data.draw(st.sampled_from(("nat", "filter")))
    chain = data.draw(st.sampled_from(sorted(memory.held()[table])))
    rules = memory.tables[table][chain]
    match data.draw(st.sampled_from(("flush", "delete", "add", "twice", "turn"))):
        case "flush":
            rules.clear()
        case "delete" if rules:
            rules.pop(data.draw(st.integers(0, len(rules) - 1)))
        case "add":
            rules.insert(data.draw(st.integers(0, len(rules))), f"-A {chain} -j {data.draw(st.sampled_from(TARGETS))}")
        case "twice" if rules:
            rules.append(rules[0])
        case "turn":
            rules.reverse()
    check(memory, adopt(memory, family, plan), plan)


TARGETS = ("KUBE-MARK-MASQ", "KUBE-SERVICES")


@given(histories_of(plans, answers))
@settings(deadline=None, max_examples=30)
def test_connections_go_where_the_plan_says(history: tuple[Family, list[Plan]]) -> None:
    family, found = history
    for plan in found:
        memory = Memory()
        adopt(memory, family, plan)
        tracer = Tracer(memory, {OWN[family]}, plan.settings.iptables.masquerade_bit)
        for frontend, answer in plan.answers.items():
            served = frontend.address != NODE_PORT or _in(OWN[family], plan.settings.node_port_cidrs)
            address = OWN[family] if frontend.address == NODE_PORT else frontend.address
            for source in (f"{PODS[family]}1", OUTSIDE[family], OWN[family]):
                fate = tracer.fate(Packet(source, address, frontend.protocol, frontend.port))
                assert fate == (_expected(plan, answer, source) if served else Fate("none"))


def _expected(plan: Plan, answer: Answer, source: str) -> Fate:
    family: Family = 6 if ":" in source else 4
    pods = [cidr for cidr in plan.settings.pod_cidrs if (":" in cidr) == (family == 6)]
    own, pod = source == OWN[family], _in(source, pods)
    pool = answer.pool if own or pod or answer.outside is None else answer.outside
    some = takers(answer.pool) or (takers(answer.outside) if answer.outside else ())
    if some and answer.source_ranges is not None and (not _in(source, answer.source_ranges) or not takers(pool)):
        return Fate("drop")
    if not takers(pool):
        return Fate(pool.when_empty)
    endpoints = {f"[{b.address}]:{b.port}" if family == 6 else f"{b.address}:{b.port}" for b in takers(pool)}
    # Where pods are told apart, one that is the node, too, is a pod.
    node = own and (answer.outside is None or not pod)
    asked = {"never": False, "always": True, "node": node, "off-cluster": bool(pods) and not pod}
    hairpin = any(backend.address == source for backend in takers(pool))
    return Fate("dnat", frozenset(endpoints), asked[answer.masquerade] or hairpin)


def _in(address: str, networks: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


@given(histories_of(plans, answers))
@settings(deadline=None, max_examples=30)
def test_what_is_held_is_read_back(history: tuple[Family, list[Plan]]) -> None:
    family, found = history
    for plan in found:
        memory = Memory()
        read = adopt(memory, family, plan).backends(memory.held())
        assert read.keys() == plan.answers.keys()
        for frontend, answer in plan.answers.items():
            both = (*takers(answer.pool), *(takers(answer.outside) if answer.outside else ()))
            wanted = set() if answer.source_ranges == () else {(b.address, b.port) for b in both}
            assert {(b.address, b.port) for b in read[frontend]} == wanted


SETTINGS = NodeSettings(("10.1.0.0/16",), (), ("0.0.0.0/0", "::/0"))


def web(number: int, *weights: int, service_port: str = "", **more: object) -> tuple[Frontend, Answer]:
    backends = tuple(Backend(f"10.1.0.{place}", 8080, weight) for place, weight in enumerate(weights or (1, 1), 1))
    answer = Answer(service_port or f"default/web-{number}", "random", Pool(backends), exclusive=True, **more)  # type: ignore[arg-type]  # fields of an answer
    return Frontend(4, f"10.96.{number // 250}.{number % 250 + 1}", "tcp", 80), answer


def adopted(plan: Mapping[Frontend, Answer]) -> tuple[Memory, Ruleset]:
    memory = Memory()
    return memory, adopt(memory, 4, Plan(plan, SETTINGS))


def test_a_change_writes_one_services_chains_and_one_line() -> None:
    memory, ruleset = adopted(dict(web(number) for number in range(300)))
    frontend, answer = web(300)
    text = ruleset.change(Delta({frontend: answer})).text
    memory.restore(text)
    lines = text.splitlines()
    inserted = (
        '-I KUBE-SERVICES -d 10.96.1.51/32 -p tcp -m comment --comment "default/web-300 cluster IP" -m tcp --dport 80 '
        f"-j {port_chain('SVC', 'default/web-300', 'tcp')}"
    )
    assert [line for line in lines if line.startswith("-I")] == [inserted]
    assert sum(line.startswith(":") for line in lines) == 3
    assert sum(line.startswith("-A") for line in lines) == 6
    assert len(lines) == 1 + 3 + 6 + 1 + 1


def test_another_endpoint_leaves_the_others_chains_alone() -> None:
    _, ruleset = adopted(dict([web(1)]))
    text = ruleset.change(Delta(dict([web(1, 1, 1, 1)]))).text
    assert sum(line.startswith(":KUBE-SVC-") for line in text.splitlines()) == 1
    assert sum(line.startswith(":KUBE-SEP-") for line in text.splitlines()) == 1
    assert "KUBE-SERVICES" not in text


def test_nothing_to_do_is_no_text() -> None:
    _, ruleset = adopted(dict([web(1)]))
    change = ruleset.change(Delta(dict([web(1)])))
    assert (change.text, change.added, change.removed) == ("", 0, 0)
    assert change.culprit(1) is None


def test_many_changes_write_the_long_chain_anew() -> None:
    everything = dict(web(number) for number in range(300))
    memory, ruleset = adopted(everything)
    plan = dict(list(everything.items())[:100])
    step(memory, ruleset, difference(Plan(everything, SETTINGS), Plan(plan, SETTINGS)))
    check(memory, ruleset, Plan(plan, SETTINGS))


def test_counts_of_rules() -> None:
    memory, ruleset = adopted(dict([web(1)]))
    before = sum(len(rules) for chains in memory.held().values() for rules in chains.values())
    change = ruleset.change(Delta(dict([web(1, 1, 1, 1), web(2)])))
    memory.restore(change.text)
    after = sum(len(rules) for chains in memory.held().values() for rules in chains.values())
    assert (change.added, change.removed) == (3 + 2 + 6 + 1, 2)
    assert after - before == change.added - change.removed


def test_the_frontend_of_each_line_is_known() -> None:
    one, two = web(1), (Frontend(4, NODE_PORT, "tcp", 30080), web(2)[1])
    ruleset = Ruleset(4)
    ruleset.accept(ruleset.adoption({}, SETTINGS, {}))
    change = ruleset.change(Delta(dict([one, two])))
    owners = {line: change.culprit(number) for number, line in enumerate(change.text.splitlines(), 1)}
    for line, owner in owners.items():
        if line.startswith(("-A", "-I")):
            assert owner == (one[0] if "web-1" in line else two[0]), line
    assert owners["COMMIT"] is None


def test_the_fixed_rules_are_nobodys() -> None:
    change = Ruleset(4).adoption(dict([web(1)]), SETTINGS, {})
    owners = {line: change.culprit(number) for number, line in enumerate(change.text.splitlines(), 1)}
    assert {owner for line, owner in owners.items() if "web-1" in line and "KUBE-SERVICES" not in line} == {web(1)[0]}
    assert {owner for line, owner in owners.items() if "web-1" not in line} == {None}


def test_a_refusal_comes_before_the_translation_goes_and_goes_after_it_comes() -> None:
    _, ruleset = adopted(dict([web(1)]))
    empty = web(1)[1].__class__("default/web-1", "random", Pool(), exclusive=True)
    change = ruleset.change(Delta({web(1)[0]: empty}))
    assert change.text.index("-I KUBE-SERVICES") < change.text.index("*nat") < change.text.index("-D KUBE-SERVICES")
    ruleset.accept(change)
    text = ruleset.change(Delta(dict([web(1)]))).text
    assert text.index("*nat") < text.index("-I KUBE-SERVICES") < text.index("*filter") < text.index("-D KUBE-SERVICES")


@pytest.mark.parametrize(
    ("weights", "probabilities", "read"),
    [
        ((1, 1, 1), ["0.33333333349", "0.50000000000"], (1, 1, 1)),
        ((3, 0, 1), ["0.75000000000"], (3, 1)),
        ((2, 3, 5), ["0.20000000019", "0.37500000000"], (2, 3, 5)),
        ((7,), [], (1,)),
        ((256, 255), ["0.50097847357"], (256, 255)),
    ],
)
def test_weights(weights: tuple[int, ...], probabilities: list[str], read: tuple[int, ...]) -> None:
    memory, ruleset = adopted(dict([web(1, *weights)]))
    rules = next(rules for chain, rules in memory.held()["nat"].items() if chain.startswith("KUBE-SVC-"))
    assert [rule.split("--probability ")[1].split()[0] for rule in rules if "--probability" in rule] == probabilities
    assert tuple(backend.weight for backend in ruleset.backends(memory.held())[web(1)[0]]) == read


def test_affinity_recalls_backends_that_get_connections() -> None:
    memory, _ = adopted(dict([web(1, 1, 0, 1, affinity=10800)]))
    chains = memory.held()["nat"]
    rules = next(rules for chain, rules in chains.items() if chain.startswith("KUBE-SVC-"))
    recalls = [rule for rule in rules if "--rcheck" in rule]
    assert recalls == list(rules[:2])
    assert all("--rcheck --seconds 10800 --reap --name KUBE-SEP-" in rule for rule in recalls)
    remembered = [rule for rules in chains.values() for rule in rules if "-m recent --set" in rule]
    assert len(remembered) == 2
    assert not any("10.1.0.2" in rule for rules in chains.values() for rule in rules)


def test_stale_chains_go_and_others_stay() -> None:
    memory = Memory()
    memory.tables["nat"] |= {
        "KUBE-SVC-OLDOLDOLDOLDOLDO": ["-A KUBE-SVC-OLDOLDOLDOLDOLDO -j KUBE-SEP-OLDOLDOLDOLDOLDO"],
        "KUBE-SEP-OLDOLDOLDOLDOLDO": ["-A KUBE-SEP-OLDOLDOLDOLDOLDO -p tcp -j DNAT --to-destination 10.1.0.9:80"],
        "KUBE-MARK-DROP": ["-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000"],
        "DOCKER": ["-A DOCKER -j RETURN"],
    }
    memory.tables["nat"]["PREROUTING"] = ["-A PREROUTING -j DOCKER", "-A PREROUTING -j KUBE-SVC-OLDOLDOLDOLDOLDO"]
    others = {chain: list(memory.tables["nat"][chain]) for chain in ("KUBE-MARK-DROP", "DOCKER")}
    ruleset = adopt(memory, 4, Plan(dict([web(1)]), SETTINGS))
    check(memory, ruleset, Plan(dict([web(1)]), SETTINGS))
    assert {chain: memory.tables["nat"][chain] for chain in others} == others
    assert memory.tables["nat"]["PREROUTING"] == [*ruleset.wanted()["nat"]["PREROUTING"], "-A PREROUTING -j DOCKER"]
    assert not any("OLD" in chain for chain in memory.tables["nat"])


KUBELETS = (
    "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "
    '"block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP'
)
LOOPBACK = NodeSettings(
    SETTINGS.pod_cidrs, (), SETTINGS.node_port_cidrs, iptables=IptablesSettings(14, localhost_node_ports=True)
)


def test_the_kubelets_firewall_is_completed_and_stays() -> None:
    memory = Memory()
    other = "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"
    memory.tables["filter"]["KUBE-FIREWALL"] = [other]
    memory.tables["filter"]["INPUT"] = ["-A INPUT -j KUBE-FIREWALL"]
    adopt(memory, 4, Plan({}, SETTINGS))
    assert memory.tables["filter"]["KUBE-FIREWALL"] == [other]
    ruleset = adopt(memory, 4, Plan({}, LOOPBACK))
    assert memory.tables["filter"]["KUBE-FIREWALL"] == [other, KUBELETS]
    assert memory.tables["filter"]["INPUT"].count("-A INPUT -j KUBE-FIREWALL") == 1
    assert memory.tables["filter"]["OUTPUT"].count("-A OUTPUT -j KUBE-FIREWALL") == 1
    step(memory, ruleset, Delta({}, settings=SETTINGS))
    assert memory.tables["filter"]["KUBE-FIREWALL"] == [other, KUBELETS]
    step(memory, ruleset, Delta({}, settings=LOOPBACK))
    assert memory.tables["filter"]["KUBE-FIREWALL"] == [other, KUBELETS]
    assert memory.tables["filter"]["OUTPUT"].count("-A OUTPUT -j KUBE-FIREWALL") == 1


def test_loopback_is_guarded_when_it_becomes_known() -> None:
    memory, ruleset = adopted({})
    assert "KUBE-FIREWALL" not in memory.tables["filter"]
    step(memory, ruleset, Delta({}, settings=LOOPBACK))
    assert memory.tables["filter"]["KUBE-FIREWALL"] == [KUBELETS]
    assert ruleset.wanted()["filter"]["KUBE-FIREWALL"] == (KUBELETS,)


@pytest.mark.parametrize(
    ("family", "cidrs", "localhost", "ways"),
    [
        (4, ("0.0.0.0/0",), False, ["! -d 127.0.0.0/8 -m addrtype"]),
        (4, ("0.0.0.0/0",), True, ["-m addrtype"]),
        (6, ("::/0",), True, ["! -d ::1/128 -m addrtype"]),
        (4, ("192.168.0.2/32", "127.0.0.0/8"), False, ["-d 192.168.0.2/32 -m addrtype"]),
        (4, ("192.168.0.2/32", "127.0.0.0/8"), True, ["-d 192.168.0.2/32 -m addrtype", "-d 127.0.0.0/8 -m addrtype"]),
        (4, ("64.0.0.0/2",), False, ["-d 127.0.0.0/8 -j RETURN", "-d 64.0.0.0/2 -m addrtype"]),
        (6, ("::1/128", "2001:db8::1/128"), True, ["-d 2001:db8::1/128 -m addrtype"]),
        (4, ("::/0",), False, []),
    ],
)
def test_node_port_addresses(family: Family, cidrs: tuple[str, ...], ways: list[str], *, localhost: bool) -> None:
    ruleset = Ruleset(family)
    plan = Plan({}, NodeSettings((), (), cidrs, iptables=IptablesSettings(14, localhost_node_ports=localhost)))
    ruleset.accept(ruleset.adoption(plan.answers, plan.settings, {}))
    note = (
        '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
        "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    )
    rules = [f"-A KUBE-SERVICES {way}".replace("-m addrtype", note) for way in ways]
    assert list(ruleset.wanted()["nat"]["KUBE-SERVICES"]) == rules
    rules = [rule.replace("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES") for rule in rules]
    assert list(ruleset.wanted()["filter"]["KUBE-EXTERNAL-SERVICES"]) == rules


def test_a_change_needs_a_plan() -> None:
    with pytest.raises(RuntimeError, match="adopt a plan"):
        Ruleset(4).change(Delta({}))
    assert Ruleset(4).wanted() == {}


def test_connections_are_counted_once() -> None:
    frontend, answer = web(1)
    port = Frontend(4, NODE_PORT, "tcp", 30080)
    outside = Answer("default/web-1", "random", answer.pool, Pool(answer.pool.backends[:1], local=True), None, "node")
    empty = web(2)[0], Answer("default/web-2", "random", Pool((Backend("10.1.0.9", 1, 0),)), exclusive=True)
    memory, ruleset = adopted({frontend: answer, port: outside, empty[0]: empty[1]})
    counted = ruleset.counted()
    rules = {(t, rule) for t, chains in memory.held().items() for found in chains.values() for rule in found}
    assert all(rule in rules for counters in counted.values() for rule in counters.rules)
    assert [len(counters.rules) for counters in counted.values()] == [1, 1, 1]
    assert [table for table, _ in counted[empty[0]].rules] == ["filter"]
    assert counted[empty[0]].backends == {}
    for where, counter in counted[frontend].backends.items():
        assert counter.rules[0].endswith(f"--to-destination {where[0]}:{where[1]}")
        assert ("nat", counter.rules[0]) in rules
        assert counted[port].backends[where] == counter.__class__(1, ())
