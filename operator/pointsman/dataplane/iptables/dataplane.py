"""The iptables dataplane: the chains of each address family, kept in step with the plan by ``iptables-restore``."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.adopting import MOST_QUARANTINED, adopt_families, name_of, part_of, set_aside
from pointsman.dataplane.iptables import probing
from pointsman.dataplane.iptables.fixed import guards_loopback
from pointsman.dataplane.iptables.names import NAT, SHARED
from pointsman.dataplane.iptables.pieces import SIZE, STEPS, cut, declare, keep, whole, without_jumps
from pointsman.dataplane.iptables.removal import HINT, has_hint, is_ours, removal
from pointsman.dataplane.iptables.ruleset import Ruleset
from pointsman.dataplane.iptables.saved import packets, parse, unreadable_table
from pointsman.dataplane.iptables.tools import Failure, Tools, detect, find_culprit
from pointsman.dataplane.iptables.variant import VARIANTS
from pointsman.dataplane.iptables.watch import LegacyWatch, NftWatch
from pointsman.dataplane.nftables.presence import has_chain
from pointsman.dataplane.protocol import DataplaneError, PlainDataplane, ServerTraffic, Support, Traffic, Written
from pointsman.dataplane.sysctl import SYSCTL_ROOT, apply_iptables, routes_loopback, routes_loopback_for_us
from pointsman.model.plan import FAMILIES, IPV4, Delta

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from pointsman.dataplane.iptables.change import Change
    from pointsman.dataplane.iptables.ruleset import Held
    from pointsman.dataplane.iptables.saved import Saved
    from pointsman.dataplane.iptables.watch import Watch
    from pointsman.model.plan import Answer, Backend, Family, Frontend, NodeSettings, Plan

_LOG: Final = logging.getLogger(__name__)
SCHEDULERS: Final = ("random",)

_NONE: Final = "no iptables on this node: xtables-nft-multi is not installed (Debian: the package iptables)"


class IptablesDataplane(PlainDataplane):
    """The mode `iptables` (see `pointsman.dataplane.protocol.Dataplane`).

    Everything happens in the network namespace of the thread that made it, which has to be the one that calls.

    Args:
        clock: monotonic seconds.
        find: finds the programs of the node's variant.
        sysctl_root: where the kernel's parameters are.
    """

    mode = "iptables"

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        find: Callable[[], Tools | None] = detect,
        sysctl_root: Path = SYSCTL_ROOT,
    ) -> None:
        self._clock = clock
        self._find = find
        self._sysctl_root = sysctl_root
        self._tools: Tools | None = None
        self._watch: Watch | None = None
        self._rulesets = {family: Ruleset(family) for family in FAMILIES}
        self._seen: dict[Family, Held] = {}
        self._settings: NodeSettings | None = None
        self._next_look = 0.0
        self._disturbed = False
        self._is_alone = False

    @property
    def variant(self) -> str:
        """The variant that the node uses, ``nft`` or ``legacy``; "" as long as nobody has looked."""
        return self._tools.variant if self._tools is not None else ""

    def support(self) -> Support:
        """See `Dataplane.support`; rules are tried in a chain that nothing leads to, and taken away."""
        reason = _NONE if self._look() is None else probing.reason_against(self._need())
        return Support(available=not reason, schedulers=() if reason else SCHEDULERS, reason=reason)

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`."""
        tools, watch = self._need(), self._ear()
        # From here on everything is looked at, so only what happens meanwhile or later is a disturbance.
        watch.listen()
        self._disturbed, self._settings = False, plan.settings
        self._next_look = self._clock() + plan.settings.sync_period
        written = adopt_families(
            plan, lambda family, answers: self._adopt_family(tools, family, answers, plan.settings)
        )
        self._leave_other_variant(tools)
        return msgspec.structs.replace(written, rules=self._sizes())

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        tools = self._need()
        added = removed = 0
        for family, ruleset in self._rulesets.items():
            part = part_of(delta, family)
            if ruleset.settings is None:
                if part.changed or all(other.settings is None for other in self._rulesets.values()):
                    raise DataplaneError(f"adopt a plan before a delta of IPv{family} is applied")
                continue
            if not part:
                continue
            change = ruleset.change(part)
            failure = self._write(tools, family, change.text, {})
            if failure is not None:
                self._disturbed = True  # some tables of it may be in force
                raise DataplaneError(_refusal(family, change, failure))
            ruleset.accept(change)
            added, removed = added + change.added, removed + change.removed
        self._settings = delta.settings or self._settings
        return Written(added, removed, rules=self._sizes())

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`; rules beside which there is no hint of ours are kube-proxy's, and not read."""
        tools = self._need()
        found: dict[Frontend, tuple[Backend, ...]] = {}
        for family in FAMILIES:
            listing = _saved(tools, family)
            if has_hint(listing):
                found |= self._rulesets[family].backends(parse(listing, is_ours).held)
        return found

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`."""
        found = self._watch is not None and self._watch.disturbed()
        found, self._disturbed = found or self._disturbed, False
        return found

    def tend(self) -> None:
        """Compare what the kernel holds each `sync_period`, where it does not tell of every change by itself."""
        if self._watch is None or self._watch.tells_all or self._settings is None or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + self._settings.sync_period
        self._disturbed = self._disturbed or not all(self._is_intact(family) for family in FAMILIES)

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`.

        Frontends that share chains share their backends' counters: these are told of the first one alone, which is
        the cluster IP where there is one.
        """
        tools = self._need()
        found: dict[Frontend, Traffic] = {}
        for family, ruleset in self._rulesets.items():
            if ruleset.settings is None:
                continue
            counts = packets(tools.save(family, counters=True))
            for frontend, counters in ruleset.counted().items():
                found[frontend] = Traffic(
                    sum(counts.get(rule, 0) for rule in counters.rules),
                    {
                        where: ServerTraffic(sum(counts.get((NAT, rule), 0) for rule in counter.rules), counter.weight)
                        for where, counter in counters.backends.items()
                    },
                )
        return found

    def cleanup(self) -> None:
        """Remove our chains, and the rules that lead there, in both variants; kube-proxy's chains are left alone.

        Loopback is not routed any more, where it was for our node ports, before the rule goes that guards it.
        """
        failed = apply_iptables(self._sysctl_root, with_loopback=False)
        kept = self._guard() | ({HINT} if failed else set())  # so that what stays is found again
        stay: list[str] = []
        for variant in VARIANTS:
            tools = self._tools if self._tools is not None and self._tools.variant == variant else Tools(variant)
            if tools.is_installed:
                stay += self._remove(tools, kept)
        self._rulesets = {family: Ruleset(family) for family in FAMILIES}
        self._seen.clear()
        self._settings = None
        if stay:
            rules = "; ".join(f"`{rule}`" for rule in stay)
            raise DataplaneError(f"rules of others lead to chains of the mode iptables, which stay, empty: {rules}")
        if failed:
            raise DataplaneError(f"{failed[0].message}, so that {SHARED} stays to guard loopback; {failed[0].remedy}")

    def close(self) -> None:
        """Close the sockets."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _sizes(self) -> dict[tuple[Family, str], int]:
        return {
            (family, table): size
            for family, ruleset in self._rulesets.items()
            for table, size in ruleset.sizes().items()
        }

    def _look(self) -> Tools | None:
        if self._tools is None:
            self._tools = self._find()
        return self._tools

    def _need(self) -> Tools:
        tools = self._look()
        if tools is None:
            raise DataplaneError(_NONE)
        return tools

    def _ear(self) -> Watch:
        if self._watch is None:
            self._watch = NftWatch() if self._need().variant == "nft" else LegacyWatch()
        return self._watch

    def _adopt_family(
        self, tools: Tools, family: Family, answers: dict[Frontend, Answer], settings: NodeSettings
    ) -> Written:  # fmt: skip
        refused: dict[str, str] = {}
        for _ in range(MOST_QUARANTINED):
            listing = self._readable(tools, family, answers, settings)
            saved = parse(listing, is_ours)
            held = _held(saved)
            ruleset = Ruleset(family)
            change = ruleset.adoption(answers, settings, held)
            text, hint = keep(change.text, saved.foreign), 0
            if not has_hint(listing):
                text, hint = declare(text, NAT, HINT)
            failure = self._write(tools, family, text, held)
            if failure is None:
                ruleset.accept(change)
                self._rulesets[family] = ruleset
                return Written(change.added, change.removed, refused)
            if 0 < hint < failure.line:
                failure = msgspec.structs.replace(failure, line=failure.line - 1)
            culprit = change.culprit(failure.line)
            if culprit is None or culprit not in answers:
                raise DataplaneError(_refusal(family, change, failure))
            refused[name_of(culprit)] = failure.text
            set_aside(culprit, answers, self._rulesets[family].answers().get(culprit))
        raise DataplaneError(f"iptables refused {len(refused)} frontends: {'; '.join(refused.values())}")

    def _readable(
        self, tools: Tools, family: Family, answers: Mapping[Frontend, Answer], settings: NodeSettings
    ) -> str:  # fmt: skip
        """Read what is there; where somebody's rule in a chain of ours is not iptables', write our chains anew."""
        listing = _saved(tools, family)
        if not unreadable_table(listing):
            return listing
        whole_text = Ruleset(family).adoption(answers, settings, {}).text
        failure = self._write(tools, family, without_jumps(whole_text), {})
        if failure is not None:
            raise DataplaneError(f"iptables refused IPv{family}: {failure.text}")
        listing = _saved(tools, family)
        if table := unreadable_table(listing):
            name = f"{'ip' if family == IPV4 else 'ip6'} {table}"
            raise DataplaneError(
                f"the table {name} has rules that iptables does not understand, so that nobody can read it; see "
                f"`nft list table {name}`, and move those rules to a table of their own"
            )
        return listing

    def _write(self, tools: Tools, family: Family, text: str, held: Held) -> Failure | None:
        """Bring text into the kernel.

        Returns:
            What was refused, with the line of the text as far as it can be found; None when all is in force.
        """
        if not text:
            return None
        known = {table: chains.keys() for table, chains in held.items()}
        given = cut(text, known) if tools.variant == "nft" else whole(text)
        self._seen.pop(family, None)
        with self._ear().unheard(given.commits):
            failure = tools.restore(family, given.text)
            if failure is None:
                return None
            line = failure.line
            if failure.is_final and tools.variant == "legacy":
                line = find_culprit(tools, family, given.text, line)
        origin = given.origins[line - 1] if 0 < line <= len(given.origins) else 0
        return Failure(origin, failure.text, failure.is_final)

    def _is_intact(self, family: Family) -> bool:
        """Tell whether the kernel holds what was written; what was seen to be so is not worked out again."""
        ruleset = self._rulesets[family]
        if ruleset.settings is None:
            return True
        held = _held(parse(_saved(self._need(), family), is_ours))
        if held != self._seen.get(family):
            if ruleset.adoption(ruleset.answers(), ruleset.settings, held).text:
                return False
            self._seen[family] = held
        return True

    def _leave_other_variant(self, tools: Tools) -> None:
        """Remove what an agent left in the other variant, before the node changed to this one."""
        if self._is_alone:
            return
        kept = set() if self._settings and guards_loopback(IPV4, self._settings) else self._guard()
        for other in (Tools(variant) for variant in VARIANTS if variant != tools.variant):
            try:
                stay = self._remove(other, kept) if other.is_installed else []
            except DataplaneError as error:
                _LOG.warning("%s", error)
                continue
            if stay:
                _LOG.warning("rules of others lead to chains of iptables (%s), which stay: %s", other.variant, stay)
        self._is_alone = True

    def _guard(self) -> set[str]:
        """Return the chain that guards loopback as long as anybody on this node has it routed."""
        return {SHARED} if routes_loopback(self._sysctl_root) else set()

    def _remove(self, tools: Tools, kept: Collection[str]) -> list[str]:
        stay: list[str] = []
        for family in FAMILIES:
            try:
                listing = _saved(tools, family)
            except DataplaneError as error:
                # What may not be read was not written by us, as that takes the same rights.
                _LOG.warning("%s", error)
                continue
            if not has_hint(listing):
                continue
            text, strangers = removal(listing, SIZE if tools.variant == "nft" else len(listing), kept)
            failure = tools.restore(family, text)
            if failure is not None:
                raise DataplaneError(f"iptables ({tools.variant}) can't be cleaned up: {failure.text}")
            stay += strangers
        return stay


def has_traces(sysctl_root: Path = SYSCTL_ROOT) -> bool:
    """Tell whether an agent left chains in either variant of the thread's network namespace, or loopback routed.

    Nothing is changed.
    """
    if routes_loopback_for_us(sysctl_root):
        return True
    legacy = Tools("legacy")
    try:
        is_legacy = legacy.is_installed and any(has_hint(_saved(legacy, family)) for family in FAMILIES)
    except DataplaneError:
        is_legacy = False
    return is_legacy or any(has_chain(family, NAT, HINT) for family in FAMILIES)


def _saved(tools: Tools, family: Family) -> str:
    """Read what a variant holds; the legacy one is not asked for tables that it does not have, as that makes them."""
    return tools.save(family) if tools.is_used(family) else ""


def _held(saved: Saved) -> Held:
    """Return what is held, but for what is left of Services' chains that rules of others keep from being deleted."""
    return {
        table: {
            chain: rules
            for chain, rules in chains.items()
            if rules or chain not in saved.foreign.get(table, {}) or not chain.startswith(STEPS)
        }
        for table, chains in saved.held.items()
    }


def _refusal(family: Family, change: Change, failure: Failure) -> str:
    culprit = change.culprit(failure.line) if failure.line else None
    lines = change.text.splitlines()
    where = f" (`{lines[failure.line - 1]}`)" if 0 < failure.line <= len(lines) else ""
    whose = f" {name_of(culprit)}" if culprit is not None else f" IPv{family}"
    return f"iptables refused{whose}: {failure.text}{where}"
