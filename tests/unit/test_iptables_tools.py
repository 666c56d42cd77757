"""iptables-restore and -save as programs: how they are called, what they complain about, which is the node's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.iptables import tools as tools_module
from pointsman.dataplane.iptables.pieces import cut, declare, keep, whole, without_jumps
from pointsman.dataplane.iptables.probing import reason_against
from pointsman.dataplane.iptables.tools import Done, Tools, detect, failure_in, find_culprit, refused
from pointsman.dataplane.iptables.variant import Look, choose, look_at
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = "*nat\n:A - [0:0]\n-A A -j RETURN\n-A A -j B\nCOMMIT\n"
HINT = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
RULES = "*filter\n-A FORWARD -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n"
TRY = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"
ABSENT_FILE = "No such file or directory"


class Programs:
    """Stands in for the programs: says what it is told to say, and remembers what it was asked.

    Attributes:
        listings: by variant, what iptables-save prints.
        refusal: a regular expression of rules that the kernel refuses; it tells no line, as the legacy variant's.
        calls: commands with their input.
    """

    def __init__(self, listings: dict[str, str] | None = None, refusal: str = "", version: str = "nf_tables") -> None:
        self.listings = listings or {}
        self.refusal = refusal
        self.version = version
        self.calls: list[tuple[list[str], str]] = []

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        self.calls.append((list(command), text))
        if command[-1] == "--version":
            return Done(0, f"iptables v1.8.9 ({self.version})\n", "")
        if command[1].endswith("-save"):
            variant = "nft" if "nft" in command[0] else "legacy"
            return Done(0, self.listings.get(variant, ""), "")
        if self.refusal and re.search(self.refusal, text):
            return Done(1, "", f"iptables-restore: line {len(text.splitlines())} failed\n")
        return Done(0, "", "")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_module.shutil, "which", lambda program, **_: f"/sbin/{program}")
    monkeypatch.setattr(Tools, "is_used", lambda _, __: True)
    monkeypatch.setattr(tools_module, "has_chain", lambda *_: False)


def test_restore_leaves_others_alone_and_waits_for_the_lock() -> None:
    programs = Programs()
    assert Tools("legacy", programs).restore(6, TEXT) is None
    assert programs.calls == [
        (["/sbin/xtables-legacy-multi", "ip6tables-restore", "--noflush", "-w", "5"], TEXT)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "line", "text"),
    [
        (
            "iptables-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (Invalid argument): rule in chain A\n",
            3,
            "line 3: RULE_APPEND failed (Invalid argument): rule in chain A",
        ),
        (
            f"iptables-restore v1.8.9 (legacy): host/network `1.2.3.x' not found\nError occurred at line: 4\n{TRY}",
            4,
            "host/network `1.2.3.x' not found",
        ),
        (
            f"ip6tables-restore v1.8.9 (legacy): Couldn't load match `x':{ABSENT_FILE}\n\nError occurred at line: 4\n",
            4,
            f"Couldn't load match `x':{ABSENT_FILE}",
        ),
        (
            "iptables-restore: line 4 failed: Bad rule (does a matching rule exist in that chain?).\n",
            4,
            "line 4 failed: Bad rule (does a matching rule exist in that chain?).",
        ),
        ("", 0, "exit status 1"),
    ],
)
def test_complaints_are_understood(errors: str, line: int, text: str) -> None:
    failure = failure_in(Done(1, "", errors), TEXT)
    assert (failure.line, failure.text, failure.is_final) == (line, text, False)


def test_a_refusal_of_the_whole_section_is_told_from_that_of_a_line() -> None:
    assert failure_in(Done(1, "", "iptables-restore: line 5 failed\n"), TEXT).is_final


def test_a_lock_that_is_never_free_is_told() -> None:
    errors = "Another app is currently holding the xtables lock; still 1s 0us time ahead to have a chance.\n"
    tools = Tools("legacy", lambda *_, **__: Done(4, "", errors))
    with pytest.raises(DataplaneError, match=r"held the lock of iptables \(legacy\) for 5 s.*lsof"):
        tools.restore(4, TEXT)


def test_programs_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_module.shutil, "which", lambda *_, **__: None)
    with pytest.raises(DataplaneError, match=r"xtables-nft-multi is not installed \(Debian: the package iptables"):
        Tools("nft", Programs()).save(4)
    assert detect(Programs()) is None


@pytest.mark.parametrize("bad", range(0, 40, 3))
def test_the_rule_at_fault_is_found_where_the_program_does_not_tell(bad: int) -> None:
    rules = [f"-A KUBE-SVC-{number} -s 10.0.0.{number}/32 -j KUBE-SEP-{number}" for number in range(40)]
    rules[bad] += "X"
    rules.insert(0, "-D KUBE-SERVICES -s 10.0.0.1/32 -j RETURN")
    lines = ["*filter", "COMMIT", "*nat", ":KUBE-SVC-1 - [0:0]", *rules, "COMMIT", "*raw", "COMMIT"]
    programs = Programs(refusal=rf"-s 10\.0\.0\.{bad}/32 -j RETURN")
    found = find_culprit(Tools("legacy", programs), 4, "\n".join(lines), lines.index("COMMIT", 3) + 1)
    assert lines[found - 1] == rules[bad + 1]
    # Nothing was tried but in a chain that nothing leads to, which is gone at the end.
    given = [text.splitlines() for _, text in programs.calls]
    assert {line.split(" ")[1] for text in given for line in text if line.startswith("-")} == {"POINTSMAN-TRIAL"}
    assert given[-1] == ["*nat", ":POINTSMAN-TRIAL - [0:0]", "-X POINTSMAN-TRIAL", "COMMIT"]
    assert len(given) < 10


def test_no_rule_is_at_fault_when_each_is_taken_by_itself() -> None:
    assert find_culprit(Tools("legacy", Programs()), 4, TEXT, 5) == 0


def test_what_the_kernel_lacks_is_found_by_trial() -> None:
    wanted = ["-m comment --comment x -j RETURN", "-m recent --name x -j RETURN", "-m statistic -j RETURN"]
    tools = Tools("nft", Programs(refusal="recent|statistic"))
    assert refused(tools, 4, "nat", wanted) == wanted[1:]
    assert refused(Tools("nft", Programs()), 4, "nat", wanted) == []


ABSENT, EMPTY = Look(is_installed=False), Look(is_installed=True)
LOCKED = Look(is_installed=True, is_readable=False)


@pytest.mark.parametrize(
    ("nft", "legacy", "default", "chosen"),
    [
        (ABSENT, ABSENT, "nft", None),
        (EMPTY, ABSENT, "legacy", "nft"),
        (ABSENT, EMPTY, "nft", "legacy"),
        (EMPTY, EMPTY, "nft", "nft"),
        (EMPTY, EMPTY, "legacy", "legacy"),
        (EMPTY, look_at([HINT]), "nft", "legacy"),
        (look_at([HINT]), EMPTY, "legacy", "nft"),
        (look_at([HINT]), look_at([HINT]), "legacy", "nft"),
        (look_at([HINT]), look_at([RULES, RULES]), "legacy", "nft"),
        (look_at([RULES]), look_at([HINT]), "nft", "legacy"),
        (look_at([RULES]), look_at([RULES, RULES]), "nft", "legacy"),
        (look_at([RULES, RULES]), look_at([RULES]), "legacy", "nft"),
        (look_at([RULES]), look_at([RULES]), "legacy", "legacy"),
        (look_at([RULES]), LOCKED, "nft", "legacy"),
        (look_at([HINT]), LOCKED, "legacy", "nft"),
    ],
)
def test_the_variant_is_the_one_that_the_node_uses(nft: Look, legacy: Look, default: str, chosen: str | None) -> None:
    assert choose(nft, legacy, default) == chosen  # type: ignore[arg-type]  # a parameter


def test_rules_are_counted_over_tables_and_families() -> None:
    assert look_at([RULES + RULES, RULES]) == Look(is_installed=True, rules=6)


def test_detection_asks_both_variants() -> None:
    found = detect(Programs({"legacy": HINT}))
    assert found is not None
    assert found.variant == "legacy"
    found = detect(Programs(version="legacy"))
    assert found is not None
    assert found.variant == "legacy"


def section(*lines: str) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


KINDS = ("SEP", "SVC", "SVL", "EXT", "FW")
PORT_CHAINS = [f"KUBE-{kind}-{letter}" for kind in KINDS for letter in "AB"]
LATER_KINDS = {"SEP": ("DNAT",), "SVC": ("SEP",), "SVL": ("SEP",), "EXT": ("SVC", "SVL"), "FW": ("EXT",)}


@given(st.data())
def test_cut_text_has_the_same_lines_in_an_order_that_packets_can_follow(data: st.DataObject) -> None:
    ports = data.draw(st.lists(st.sampled_from(PORT_CHAINS), unique=True))
    chains = [*ports, *data.draw(st.sets(st.sampled_from(["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ"])))]
    deleted = data.draw(
        st.sets(st.sampled_from([chain for chain in PORT_CHAINS if chain not in ports] or ["KUBE-FW-C"]))
    )
    held = data.draw(st.sets(st.sampled_from(PORT_CHAINS))) | deleted
    jumps = [(chain, to) for chain in ports for to in chains if to.split("-")[1] in LATER_KINDS[chain.split("-")[1]]]
    lines = [
        *(f":{chain} - [0:0]" for chain in [*chains, *deleted]),
        *(f"-A {chain} -j {target}" for chain, target in jumps),
        *(f"-A KUBE-SERVICES -j {chain}" for chain in ports if "KUBE-SERVICES" in chains),
        *(f"-D KUBE-SERVICES -j {chain}" for chain in deleted),
        "-I PREROUTING -j KUBE-SERVICES",
        *(f"-X {chain}" for chain in deleted),
    ]
    text = "*filter\n:KUBE-FORWARD - [0:0]\n-A KUBE-FORWARD -j DROP\nCOMMIT\n" + section(*lines)
    found = cut(text, {"nat": held, "filter": set()}, data.draw(st.integers(1, 4)))
    given_lines, cut_lines = text.splitlines(), found.text.splitlines()
    # Every line names the one that it comes from, and none is lost.
    assert all(cut_lines[n] == given_lines[origin - 1] for n, origin in enumerate(found.origins) if origin)
    assert set(given_lines) == set(cut_lines)
    assert found.commits == cut_lines.count("COMMIT")
    parts = [part.splitlines() for part in re.findall(r"\*nat\n((?:.*\n)*?)COMMIT\n", found.text)]
    (decisive,) = [number for number, part in enumerate(parts) if "-I PREROUTING -j KUBE-SERVICES" in part]
    there, rules = set(held), dict[str, list[str]]()
    for number, part in enumerate(parts):
        for line in part:
            if line.startswith(":"):
                there.add(line[1:].split(" ")[0])
                rules[line[1:].split(" ")[0]] = []
            elif line.startswith("-X"):
                assert number >= decisive, "nothing leads there any more"
                assert not rules.pop(line[3:])
            elif line.startswith("-A"):
                assert line.split(" ")[3] in there, "a chain is there before a rule leads to it"
                rules[line.split(" ")[1]].append(line)
        if number < decisive:
            # Until then nothing changes but what a Service's chains do by themselves.
            assert all(line.startswith((":KUBE", "-A KUBE")) and "KUBE-SERVICES -j" not in line for line in part)
    wanted = {chain: [f"-A {c} -j {t}" for c, t in jumps if c == chain] for chain in ports}
    assert {chain: rules[chain] for chain in ports} == wanted
    assert rules.keys() == set(chains)


def test_chains_are_filled_after_those_that_they_lead_to() -> None:
    names = [f"KUBE-{kind}-{number}" for number in range(5) for kind in ("FW", "EXT", "SVC", "SEP")]
    found = cut(section(*(f":{name} - [0:0]" for name in names), *(f"-A {name} -j X" for name in names)), {}, 3)
    order = [line.split("-")[2] for line in found.text.splitlines() if line.startswith("-A")]
    assert order == ["SEP"] * 5 + ["SVC"] * 5 + ["EXT"] * 5 + ["FW"] * 5


def test_what_is_small_is_left_whole() -> None:
    text = section(":KUBE-A - [0:0]", "-A KUBE-A -j DROP")
    assert cut(text, {}) == whole(text)
    assert (whole(text).text, whole(text).commits) == (text, 1)


def test_kubelets_hint_spares_reading_all_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, str]] = []

    def has_chain(family: int, table: str, chain: str) -> bool:
        asked.append((family, table, chain))
        return (family, chain) == (6, "KUBE-KUBELET-CANARY")

    monkeypatch.setattr(tools_module, "has_chain", has_chain)
    programs = Programs({"legacy": HINT})
    found = detect(programs)
    assert found is not None
    assert (found.variant, programs.calls) == ("nft", [])
    assert {table for _, table, _ in asked} == {"mangle"}


def test_a_legacy_variant_that_may_not_be_read_is_the_nodes() -> None:
    def run(command: Sequence[str], text: str = "") -> Done:
        if "legacy" in command[0]:
            return Done(1, "", "iptables-save v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)")
        return Programs()(command, text)

    found = detect(run)
    assert found is not None
    assert found.variant == "legacy"
    assert re.search(r"legacy\) does not work here .*CAP_NET_RAW.*agent\.iptablesLegacy", reason_against(found))


def test_modules_that_the_kernel_lacks_are_named() -> None:
    lacking = Tools("nft", Programs(refusal=r"-m (?:recent|statistic) "))
    assert reason_against(lacking).endswith("run `modprobe -a xt_statistic xt_recent`")
    assert reason_against(Tools("nft", Programs())) == ""
    assert "CAP_NET_ADMIN" in reason_against(Tools("nft", Programs(refusal="nat")))


def test_chains_that_others_lead_to_are_emptied_in_place_of_deleted() -> None:
    text = section(":KUBE-SVC-A - [0:0]", ":KUBE-SVC-B - [0:0]", "-X KUBE-SVC-A", "-X KUBE-SVC-B")
    assert keep(text, {}) == text
    assert keep(text, {"filter": ["KUBE-SVC-A"]}) == text
    assert keep(text, {"nat": ["KUBE-SVC-A"]}) == text.replace("-X KUBE-SVC-A", "-F KUBE-SVC-A")


def test_jumps_from_the_kernels_own_chains_can_be_left_out() -> None:
    kept = [":KUBE-A - [0:0]", "-A KUBE-A -j DROP"]
    text = section(*kept, "-D INPUT -j KUBE-A", "-I INPUT -j KUBE-A")
    assert without_jumps(text) == section(*kept)


@pytest.mark.parametrize(("before", "line"), [("", 2), ("*filter\n:KUBE-FORWARD - [0:0]\nCOMMIT\n", 5)])
def test_a_chain_is_declared_in_the_transaction_that_is_there(before: str, line: int) -> None:
    text = before + section("-A PREROUTING -j *nat", "-X KUBE-A")
    found, at = declare(text, "nat", "HINT")
    lines = found.splitlines()
    assert (lines.pop(at - 1), at) == (":HINT - [0:0]", line)
    assert lines == text.splitlines()


def test_a_chain_is_declared_in_a_transaction_of_its_own_where_there_is_none() -> None:
    assert declare("", "nat", "HINT") == (section(":HINT - [0:0]"), 0)
    other = "*filter\n:KUBE-FORWARD - [0:0]\nCOMMIT\n"
    assert declare(other, "nat", "HINT") == (other + section(":HINT - [0:0]"), 0)
