"""Tables in memory: they take the input of iptables-restore as the kernel does, and tell what becomes of a packet.

It is stricter than the kernel, and fails on every word that it does not know.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pointsman.dataplane.iptables.removal import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILT_IN = {
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
TARGETS = {"ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "MASQUERADE", "DNAT"}
Chains = dict[str, list[str]]


class Memory:
    """What one family's tables hold; rules are text as ``iptables-save`` prints it."""

    def __init__(self) -> None:
        self.tables: dict[str, Chains] = {table: {chain: [] for chain in BUILT_IN[table]} for table in BUILT_IN}

    def restore(self, text: str) -> None:
        """Do what ``iptables-restore --noflush`` does with a text."""
        table, chains = "", Chains()
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
                chains = {chain: list(rules) for chain, rules in self.tables[table].items()}
            elif line == "COMMIT":
                _check(chains)
                self.tables[table] = chains
                table = ""
            elif line.startswith(":"):
                assert line.endswith(" - [0:0]"), line
                assert table
                chains[line[1:].split()[0]] = []
            else:
                _command(chains, line)
        assert not table

    def held(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return what is ours, as the listing's parser does."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for table, chains in self.tables.items():
            for chain, rules in chains.items():
                own = is_ours(table, chain)
                kept = rules if own else [rule for rule in rules if is_ours(table, jump_of(rule))]
                if own or (kept and chain in BUILT_IN[table]):
                    found.setdefault(table, {})[chain] = tuple(kept)
        return found


def jump_of(rule: str) -> str:
    """Return where a rule leads to."""
    words = shlex.split(rule)
    return words[words.index("-j") + 1] if "-j" in words else ""


def _command(chains: Chains, line: str) -> None:
    verb, chain, *_ = line.split(" ")
    rule = f"-A{line[2:]}"
    match verb:
        case "-A":
            chains[chain].append(rule)
        case "-I":
            chains[chain].insert(0, rule)
        case "-D":
            chains[chain].remove(rule)
        case "-X":
            assert not chains.pop(chain), f"{chain} is not empty"
        case _:
            raise AssertionError(line)


def _check(chains: Chains) -> None:
    for rules in chains.values():
        for rule in rules:
            target = jump_of(rule)
            assert not target or target in TARGETS or target in chains, rule


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, on its way."""

    source: str
    destination: str
    protocol: str
    port: int
    marked: bool = False
    translated: str = ""


@dataclass(frozen=True)
class Fate:
    """What becomes of a connection.

    Attributes:
        verdict: dnat, reject, drop, or none.
        endpoints: where it may be translated to.
        masqueraded: the source is replaced, for any of the endpoints.
    """

    verdict: str
    endpoints: frozenset[str] = frozenset()
    masqueraded: bool = False


class Tracer:
    """Sends packets through tables in memory, as a node with some addresses would."""

    def __init__(self, memory: Memory, own: set[str], mark: int = 14) -> None:
        self._tables = memory.tables
        self._own = own
        self._mark = f"{1 << mark:#x}"

    def fate(self, packet: Packet) -> Fate:
        """Return what becomes of a connection; every way that chance may take has to end alike."""
        found: defaultdict[str, list[Packet]] = defaultdict(list)
        for verdict, last in self._through(packet):
            found["dnat" if verdict == "none" and last.translated else verdict].append(last)
        assert len(found) == 1, dict(found)
        verdict, packets = next(iter(found.items()))
        endpoints = frozenset(last.translated for last in packets if verdict == "dnat")
        return Fate(verdict, endpoints, any(last.marked for last in packets if verdict == "dnat"))

    def _through(self, packet: Packet) -> Iterator[tuple[str, Packet]]:
        mine = packet.source in self._own
        for _, translated in self._walk("nat", "OUTPUT" if mine else "PREROUTING", packet):
            local = translated.destination in self._own
            hook = "INPUT" if local else "FORWARD"
            hooks = ["OUTPUT", *(["INPUT"] if local else [])] if mine else [hook]
            yield from self._filtered(hooks, translated)

    def _filtered(self, hooks: list[str], packet: Packet) -> Iterator[tuple[str, Packet]]:
        if not hooks:
            for _, last in self._walk("nat", "POSTROUTING", packet):
                yield "none", last
            return
        for verdict, passed in self._walk("filter", hooks[0], packet):
            if verdict in ("drop", "reject"):
                yield verdict, passed
            else:
                yield from self._filtered(hooks[1:], passed)

    def _walk(self, table: str, chain: str, packet: Packet) -> Iterator[tuple[str, Packet]]:
        """Yield each end of a chain that chance may lead to: a verdict, or "" for the end of the chain."""
        yield from self._rules(table, self._tables[table][chain], packet)

    def _rules(self, table: str, rules: list[str], packet: Packet) -> Iterator[tuple[str, Packet]]:
        if not rules:
            yield "", packet
            return
        matches, chance, target, words = self._read(rules[0], packet)
        if not matches or chance:
            yield from self._rules(table, rules[1:], packet)
        if not matches:
            return
        for verdict, after in self._act(table, target, words, packet):
            if verdict:
                yield verdict, after
            else:
                yield from self._rules(table, rules[1:], after)

    def _act(self, table: str, target: str, words: list[str], packet: Packet) -> Iterator[tuple[str, Packet]]:
        match target:
            case "":
                yield "", packet
            case "ACCEPT" | "DROP" | "REJECT":
                yield target.lower(), packet
            case "RETURN":
                yield "return", packet
            case "MARK":
                assert words[0] == "--set-xmark"
                assert words[1] in (f"{self._mark}/{self._mark}", f"{self._mark}/0x0")
                # The mark goes where masquerading comes: `marked` then says what has been asked for.
                yield "", replace(packet, marked=True)
            case "MASQUERADE":
                assert packet.marked
                yield "accept", packet
            case "DNAT":
                address = words[1].rpartition(":")[0].strip("[]")
                yield "accept", replace(packet, destination=address, translated=words[1])
            case _:
                for verdict, after in self._walk(table, target, packet):
                    yield "" if verdict == "return" else verdict, after

    def _read(self, rule: str, packet: Packet) -> tuple[bool, bool, str, list[str]]:
        """Return whether a rule matches, whether that is by chance, its target and what the target is told."""
        words = shlex.split(rule)[2:]
        matches, chance, negated = True, False, False
        while words:
            word = words.pop(0)
            if word == "!":
                negated = True
                continue
            if word == "-j":
                return matches, chance, words[0], words[1:]
            found: bool | None
            match word, words[0]:
                case "-m", _:
                    words.pop(0)
                    continue
                case "--comment" | "--mode" | "--name" | "--mask" | "--seconds", _:
                    words.pop(0)
                    continue
                case (("--rsource" | "--reap" | "--set"), _):
                    continue
                case "--rcheck", _:
                    found = False  # nobody has been here before
                case "--probability", value:
                    words.pop(0)
                    assert 0 < float(value) < 1
                    chance, found = True, True
                case _, value:
                    words.pop(0)
                    found = self._matches(word, value, packet)
            matches, negated = matches and found != negated, False
        return matches, chance, "", []

    def _matches(self, word: str, value: str, packet: Packet) -> bool:
        own = {"--src-type": packet.source, "--dst-type": packet.destination}
        networks = {"-s": packet.source, "-d": packet.destination}
        if word in networks:
            return ipaddress.ip_address(networks[word]) in ipaddress.ip_network(value)
        if word in own:
            assert value == "LOCAL"
            return own[word] in self._own
        if word == "--ctstate":
            states = value.split(",")
            assert set(states) <= {"NEW", "INVALID", "RELATED", "ESTABLISHED", "DNAT"}
            return "NEW" in states or ("DNAT" in states and bool(packet.translated))
        known = {
            "-p": packet.protocol == value,
            "--dport": not packet.translated and str(packet.port) == value,
            "--mark": packet.marked,
        }
        assert word != "--mark" or value == f"{self._mark}/{self._mark}"
        return known[word]
