"""One address family's rules: what the kernel holds, and the way from there to what it shall hold. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables import reading
from pointsman.dataplane.iptables.change import Change
from pointsman.dataplane.iptables.counting import counters_of
from pointsman.dataplane.iptables.fixed import (
    JUMPS,
    LISTS,
    SHARED_JUMPS,
    SHARED_RULE,
    ends,
    fixed_chains,
    guards_loopback,
)
from pointsman.dataplane.iptables.names import FILTER, NAT, SHARED, TABLES, is_own
from pointsman.dataplane.iptables.services import port_rules
from pointsman.dataplane.iptables.words import pods_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.iptables.change import PortKey
    from pointsman.dataplane.iptables.counting import FrontendCounters
    from pointsman.dataplane.iptables.fixed import Rules
    from pointsman.dataplane.iptables.names import Place
    from pointsman.dataplane.iptables.services import Line, PortRules
    from pointsman.model.plan import Answer, Backend, Delta, Family, Frontend, NodeSettings

Held = Mapping[str, Mapping[str, tuple[str, ...]]]
"""What ``iptables-save`` prints of our chains: table, chain, rules, each as ``-A CHAIN …`` without counters.

Of the built-in chains (PREROUTING, INPUT, …) it has only the rules that jump to our chains.
"""


_MOST_REMOVED: Final = 64
"""Of a long chain so many lines are removed one by one; are there more, the chain is written anew.

``iptables-restore`` compares a line that goes with each rule in front of it: removing 64 of 5,000 takes as long as
writing 5,000.
"""


class Ruleset:
    """What the kernel's rules of one family are, as far as the agent wrote them.

    Nothing here talks to the kernel: `adoption` and `change` make a `Change`, its text goes to the kernel, and `accept`
    remembers it.
    """

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.settings: NodeSettings | None = None
        self._members: dict[PortKey, dict[Frontend, Answer]] = {}
        self._rules: dict[PortKey, PortRules] = {}
        self._port_of: dict[Frontend, PortKey] = {}
        self._shared: set[str] = set()
        self._counters: dict[PortKey, dict[Frontend, FrontendCounters]] = {}
        self._sizes: Counter[str] = Counter()

    def adoption(self, answers: Mapping[Frontend, Answer], settings: NodeSettings, held: Held) -> Change:
        """Make the change that leads from whatever the kernel holds to a whole plan.

        Args:
            answers: the plan's frontends of this family.
            settings: the plan's settings.
            held: what the kernel holds.
        """
        change = Change(whole=True)
        change.settings = settings
        pods = pods_of(self.family, settings.pod_cidrs)
        members: defaultdict[PortKey, dict[Frontend, Answer]] = defaultdict(dict)
        for frontend, answer in answers.items():
            members[answer.service_port, frontend.protocol][frontend] = answer
        for key, of_port in members.items():
            change.ports[key] = of_port, port_rules(of_port, pods)
        rules = {key: found[1] for key, found in change.ports.items() if found is not None}
        self._adopt_chains(change, rules, settings, held)
        self._adopt_jumps(change, held)
        _complete_shared(change, self.family, settings, set(_shared_held(held)))
        return change

    def change(self, delta: Delta) -> Change:
        """Make the change for one delta of this family; its rules alone are written.

        Raises:
            RuntimeError: no plan has been adopted.
        """
        if self.settings is None:
            raise RuntimeError("adopt a plan before a delta is applied")
        change = Change()
        settings = delta.settings or self.settings
        pods = pods_of(self.family, settings.pod_cidrs)
        members = self._touched(delta)
        if pods != pods_of(self.family, self.settings.pod_cidrs):
            members = self._members | members
        lines: defaultdict[Place, tuple[list[Line], list[Line]]] = defaultdict(lambda: ([], []))
        for key, of_port in members.items():
            old, new = self._rules.get(key), port_rules(of_port, pods) if of_port else None
            change.ports[key] = None if new is None else (of_port, new)
            _write_chains(change, old, new)
            _compare_lines(lines, old, new)
        anew = self._write_lines(change, lines, settings)
        if delta.settings is not None:
            self._write_settings(change, self.settings, settings, anew)
        return change

    def accept(self, change: Change) -> None:
        """Remember a change that the kernel has taken."""
        if change.whole:
            self._members, self._rules, self._port_of, self._counters = {}, {}, {}, {}
            self._sizes.clear()
        for key, found in change.ports.items():
            for frontend in self._members.pop(key, {}):
                if self._port_of.get(frontend) == key:
                    del self._port_of[frontend]
            self._count(self._rules.pop(key, None), -1)
            self._counters.pop(key, None)
            if found is not None:
                self._members[key], self._rules[key] = found
                self._count(found[1], +1)
                self._port_of.update(dict.fromkeys(found[0], key))
        self.settings = change.settings or self.settings
        self._shared = change.shared if change.whole else self._shared | change.shared

    def wanted(self) -> Held:
        """Return all chains as they should be now, in the form of `Held`; KUBE-FIREWALL is the kubelet's, too."""
        if self.settings is None:
            return {}
        found: dict[str, dict[str, tuple[str, ...]]] = {NAT: {}, FILTER: {}}
        for (table, chain), rules in fixed_chains(self.family, self.settings).items():
            found[table][chain] = rules
        for (table, chain), rules in self._lists(self._rules, self.settings).items():
            found[table][chain] = rules
        for port in self._rules.values():
            found[NAT].update(port.chains)
        for (table, chain), rules in JUMPS.items():
            found[table][chain] = rules
        if guards_loopback(self.family, self.settings):
            found[FILTER][SHARED] = (SHARED_RULE,)
            for (table, chain), rule in SHARED_JUMPS.items():
                found[table][chain] = (rule, *found[table][chain])
        return found

    def sizes(self) -> dict[str, int]:
        """Return how many rules each table has, in our chains and in those of the kernel that lead there."""
        if self.settings is None:
            return {}
        fixed = (fixed_chains(self.family, self.settings), ends(self.family, self.settings), JUMPS)
        found = {
            table: self._sizes[table] + sum(len(part[place]) for part in fixed for place in part if place[0] == table)
            for table in (NAT, FILTER)
        }
        if guards_loopback(self.family, self.settings):
            found[FILTER] += 1 + len(SHARED_JUMPS)
        return found

    def _count(self, port: PortRules | None, by: int) -> None:
        if port is None:
            return
        self._sizes[NAT] += by * sum(map(len, port.chains.values()))
        for line in port.lines:
            self._sizes[line.place[0]] += by

    def answers(self) -> dict[Frontend, Answer]:
        """Return what is in force, as far as the agent wrote it."""
        return {frontend: answer for members in self._members.values() for frontend, answer in members.items()}

    def counted(self) -> Mapping[Frontend, FrontendCounters]:
        """Say which rules count the connections of each frontend and of its backends."""
        for key in self._rules.keys() - self._counters.keys():
            self._counters[key] = counters_of(self._rules[key], self._members[key])
        return {frontend: found for port in self._counters.values() for frontend, found in port.items()}

    def backends(self, held: Held) -> Mapping[Frontend, tuple[Backend, ...]]:
        """Read what held rules do: each frontend with the backends that get its new connections."""
        return reading.backends(self.family, held)

    def _touched(self, delta: Delta) -> dict[PortKey, dict[Frontend, Answer]]:
        """Return the ports that a delta changes, with the frontends that they then have."""
        found: dict[PortKey, dict[Frontend, Answer]] = {}

        def members(key: PortKey) -> dict[Frontend, Answer]:
            return found.setdefault(key, dict(self._members.get(key, {})))

        for frontend in (*delta.removed, *delta.changed):
            key = self._port_of.get(frontend)
            if key is not None:
                members(key).pop(frontend, None)
        for frontend, answer in delta.changed.items():
            members((answer.service_port, frontend.protocol))[frontend] = answer
        return found

    def _adopt_chains(
        self, change: Change, ports: Mapping[PortKey, PortRules], settings: NodeSettings, held: Held
    ) -> None:
        last = ends(self.family, settings)
        wanted: set[Place] = set()
        for place, rules in self._lists(ports, settings).items():
            _adopt_list(change, place, rules, last[place], held)
            wanted.add(place)
        for place, rules in fixed_chains(self.family, settings).items():
            _adopt_chain(change, place, rules, held)
            wanted.add(place)
        for port in ports.values():
            for chain, rules in port.chains.items():
                _adopt_chain(change, (NAT, chain), rules, held, port.order[0])
                wanted.add((NAT, chain))
        for table in TABLES:
            for chain, rules in held.get(table, {}).items():
                if is_own(table, chain) and (table, chain) not in wanted:
                    change.delete((table, chain), len(rules))

    @staticmethod
    def _adopt_jumps(change: Change, held: Held) -> None:
        """Have the jumps into our chains, each once; those that nobody wants go, lest a chain stays in use."""
        found: dict[Place, Rules] = {
            (table, chain): rules
            for table in TABLES
            for chain, rules in held.get(table, {}).items()
            if not is_own(table, chain) and chain != SHARED
        }
        for place in dict.fromkeys((*JUMPS, *found)):
            have = tuple(rule for rule in found.get(place, ()) if not rule.endswith(f" {SHARED}"))
            want = JUMPS.get(place, ())
            if have != want:
                change.remove(place[0], have)
                change.add(place[0], want, first=True)

    def _lists(self, ports: Mapping[PortKey, PortRules], settings: NodeSettings) -> dict[Place, Rules]:
        """Return the chains with a rule for each frontend, whole."""
        found: dict[Place, list[str]] = {place: [] for place in LISTS}
        for key in sorted(ports):
            for line in ports[key].lines:
                found[line.place].append(line.rule)
        last = ends(self.family, settings)
        return {place: (*rules, *last[place]) for place, rules in found.items()}

    def _write_lines(
        self, change: Change, lines: Mapping[Place, tuple[list[Line], list[Line]]], settings: NodeSettings
    ) -> set[Place]:
        """Write the difference in the chains that all share.

        Returns:
            Those that are written anew, their last rules included.
        """
        anew = {place for place, (gone, come) in lines.items() if len(gone) > _MOST_REMOVED}
        lists: Mapping[Place, Rules] = self._lists(self._rules_after(change), settings) if anew else {}
        for place, (gone, come) in lines.items():
            if place in anew:
                change.rewrite(place, lists[place], len(lists[place]) - len(come) + len(gone))
                continue
            for line in gone:
                change.remove(place[0], (line.rule,), line.frontend, late=True)
            for line in reversed(come):
                change.add(place[0], (line.rule,), line.frontend, first=True)
        return anew

    def _rules_after(self, change: Change) -> dict[PortKey, PortRules]:
        found = {key: rules for key, rules in self._rules.items() if key not in change.ports}
        return found | {key: port[1] for key, port in change.ports.items() if port is not None}

    def _write_settings(self, change: Change, old: NodeSettings, new: NodeSettings, anew: set[Place]) -> None:
        change.settings = new
        before, after = fixed_chains(self.family, old), fixed_chains(self.family, new)
        for place, rules in after.items():
            if before.get(place) != rules:
                change.rewrite(place, rules, len(before.get(place, ())))
        for place in before.keys() - after.keys():
            change.delete(place, len(before[place]))
        last, wanted = ends(self.family, old), ends(self.family, new)
        for place in wanted:
            if last[place] != wanted[place] and place not in anew:
                change.remove(place[0], last[place])
                change.add(place[0], wanted[place])
        _complete_shared(change, self.family, new, set(self._shared))


def _adopt_chain(change: Change, place: Place, rules: Rules, held: Held, owner: Frontend | None = None) -> None:
    have = held.get(place[0], {}).get(place[1])
    if have != rules:
        change.rewrite(place, rules, len(have or ()), owner)


def _adopt_list(change: Change, place: Place, rules: Rules, last: Rules, held: Held) -> None:
    """Edit a chain that all share where little differs; the order of its rules is of no importance but at the end."""
    have = held.get(place[0], {}).get(place[1])
    if have is None or have[len(have) - len(last) :] != last or len(set(have)) != len(have):
        _adopt_chain(change, place, rules, held)
        return
    present, wanted = set(have), set(rules)
    gone, come = [rule for rule in have if rule not in wanted], [rule for rule in rules if rule not in present]
    if len(gone) > _MOST_REMOVED:
        _adopt_chain(change, place, rules, held)
        return
    change.remove(place[0], gone, late=True)
    change.add(place[0], come, first=True)


def _write_chains(change: Change, old: PortRules | None, new: PortRules | None) -> None:
    """Write the chains of a Service's port that differ, and delete those that are not needed any more."""
    before: Mapping[str, Rules] = {} if old is None else old.chains
    after: Mapping[str, Rules] = {} if new is None else new.chains
    for chain, rules in after.items():
        if before.get(chain) != rules:
            change.rewrite((NAT, chain), rules, len(before.get(chain, ())), None if new is None else new.order[0])
    for chain, rules in before.items():
        if chain not in after:
            change.delete((NAT, chain), len(rules))


def _compare_lines(
    lines: Mapping[Place, tuple[list[Line], list[Line]]], old: PortRules | None, new: PortRules | None
) -> None:
    before = {} if old is None else {(line.place, line.rule): line for line in old.lines}
    after = {} if new is None else {(line.place, line.rule): line for line in new.lines}
    for key, line in before.items():
        if key not in after:
            lines[line.place][0].append(line)
    for key, line in after.items():
        if key not in before:
            lines[line.place][1].append(line)


def _shared_held(held: Held) -> Iterator[str]:
    chains = held.get(FILTER, {})
    if SHARED in chains:
        yield SHARED
        yield from chains[SHARED]
    for _, chain in SHARED_JUMPS:
        yield from chains.get(chain, ())


def _complete_shared(change: Change, family: Family, settings: NodeSettings, have: set[str]) -> None:
    """Have the rule that guards loopback where it is needed, and leave what else is there alone.

    Args:
        change: what is written.
        family: address family.
        settings: the new settings.
        have: the chain's name and its rules as far as they are there; what is written joins them.
    """
    change.shared = have
    if not guards_loopback(family, settings):
        return
    if SHARED not in have:
        change.make((FILTER, SHARED))
    if SHARED_RULE not in have:
        change.add(FILTER, (SHARED_RULE,))
    for rule in SHARED_JUMPS.values():
        if rule not in have:
            change.add(FILTER, (rule,), first=True)
    have.update((SHARED, SHARED_RULE, *SHARED_JUMPS.values()))
