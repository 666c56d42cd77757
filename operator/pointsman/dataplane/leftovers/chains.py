"""Whose the chains and rules of ``iptables-save`` are, and what removes kube-proxy's; pure.

A chain is kube-proxy's by its name; it has no other mark. Pointsman's mode iptables has chains of the same names, and
a hint beside them: where that is, they are its own. A jump from a chain of the kernel's own into one of them is
its own by the comment that it writes there. Every other rule that leads into a chain of kube-proxy's is somebody
else's (a CNI plugin's that has ports of the node masqueraded through KUBE-MARK-MASQ): it stays, with the chains that it
needs.

Names and comments are those of kube-proxy 1.20 to 1.37 in its modes iptables, ipvs and userspace. What kubelet makes
(KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP, KUBE-FIREWALL of the table filter) is not among them.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.iptables.removal import has_hint, is_ours
from pointsman.dataplane.iptables.saved import parse, target_of
from pointsman.dataplane.leftovers.found import Leftover, many

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Rules = Mapping[str, tuple[str, ...]]

_CANARY: Final = "KUBE-PROXY-CANARY"
_MARK: Final = "KUBE-MARK-MASQ"
_MASQUERADE: Final = "KUBE-POSTROUTING"
NAMES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "nat": frozenset(
            {
                *("KUBE-SERVICES", "KUBE-NODEPORTS", _MASQUERADE, _MARK, _CANARY),
                *("KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-FIREWALL"),  # ipvs
                *("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST"),  # userspace, until 1.25
                *("KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-HOST"),
            }
        ),
        "filter": frozenset(
            {
                *("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD"),
                *("KUBE-PROXY-FIREWALL", _CANARY),
                *("KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"),
                "KUBE-NODEPORT-NON-LOCAL",
            }
        ),
        "mangle": frozenset({_CANARY}),
    }
)
"""Chains that there is one of, by table."""
PREFIXES: Final = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-XLB-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
"""Of the table nat: what the chains of Services and endpoints begin with. KUBE-XLB- is KUBE-EXT- until 1.23."""

_COMMENTS: Final = frozenset(
    {
        "kubernetes service portals",
        "kubernetes externally-visible service portals",
        "kubernetes health check service ports",
        "kubernetes forwarding rules",
        "kubernetes postrouting rules",
        "kubernetes load balancer firewall",
        "kubernetes health check rules",
        "kube-proxy firewall rules",
        "kubernetes ipvs access filter",
        "handle ClusterIPs; NOTE: this must be before the NodePort rules",
        "handle service NodePorts; NOTE: this must be the last rule in the chain",
        "Ensure that non-local NodePort traffic can flow",
    }
)
_OURS: Final = (
    "Pointsman's mode iptables is there, and chains of the same names are its own; bring another mode in force, or "
    "stop the agent and run `pointsman cleanup --mode iptables`"
)
_JUMP: Final = re.compile(
    r"-A [A-Z]+"
    r"(?: -m conntrack --ctstate NEW| -m state --state NEW| -m addrtype --dst-type LOCAL"
    r'| -m comment --comment "(?P<comment>[^"]*)")*'
    r" -j \S+"
)
"""A jump as kube-proxy writes them; nothing else may be in it."""


class Removal(msgspec.Struct, frozen=True):
    """What is kube-proxy's in one listing.

    Attributes:
        found: what can be removed, and what is kept for the rules of others.
        script: the input of ``iptables-restore --noflush`` that removes it; "" when there is nothing to do.
    """

    found: tuple[Leftover, ...]
    script: str


def is_kube_proxys(table: str, chain: str) -> bool:
    """Tell by its name whether a chain is kube-proxy's."""
    return chain in NAMES.get(table, ()) or (table == "nat" and chain.startswith(PREFIXES))


def removal(listing: str, place: str) -> Removal:
    """Decide about one listing.

    Args:
        listing: what ``iptables-save`` has printed.
        place: where that is, for people: ``{}`` stands for the table.
    """
    taken = has_hint(listing)
    saved = parse(listing, is_kube_proxys if not taken else _is_beside_ours)
    found: list[Leftover] = []
    if taken:
        found.append(Leftover("chains", place.format("nat"), members=("KUBE-…",), kept=_OURS))
    script: list[str] = []
    for table, held in saved.held.items():
        of_table, lines = _of_table(table, held, saved.foreign.get(table, {}), place.format(table))
        found += of_table
        script += lines
    return Removal(tuple(found), "".join(f"{line}\n" for line in script))


def _of_table(table: str, held: Rules, foreign: Rules, place: str) -> tuple[list[Leftover], list[str]]:
    chains = {chain: rules for chain, rules in held.items() if is_kube_proxys(table, chain)}
    entries = [rule for chain, rules in held.items() if chain not in chains for rule in rules]
    jumps = [rule for rule in entries if _is_own_jump(rule)]
    others = [rule for rule in entries if not _is_own_jump(rule)]
    others += [rule for rules in foreign.values() for rule in rules]
    kept = _needed(map(target_of, others), chains)
    if _MASQUERADE in kept:
        jumps = [rule for rule in jumps if target_of(rule) != _MASQUERADE]
    gone = sorted(chains.keys() - kept)
    found: list[Leftover] = []
    if gone or jumps:
        rules = sum(len(chains[chain]) for chain in gone)
        detail = f"{many(rules, 'rule')}, {many(len(jumps), 'jump')} to them"
        found.append(Leftover("chains", place, members=tuple(gone), detail=detail))
    if kept:
        reason = f"rules of others lead there: {'; '.join(others)}"
        found.append(Leftover("chains", place, members=tuple(sorted(kept)), kept=reason))
    if not gone and not jumps:
        return found, []
    deleted = [rule.replace("-A ", "-D ", 1) for rule in jumps]
    flushed = [f":{chain} - [0:0]" for chain in gone]
    return found, [f"*{table}", *flushed, *deleted, *(f"-X {chain}" for chain in gone), "COMMIT"]


def _is_beside_ours(table: str, chain: str) -> bool:
    """Tell a chain that is kube-proxy's where Pointsman's mode iptables has those of the same names."""
    return is_kube_proxys(table, chain) and not is_ours(table, chain)


def _is_own_jump(rule: str) -> bool:
    match = _JUMP.fullmatch(rule)
    return match is not None and match["comment"] in _COMMENTS


def _needed(roots: Iterable[str], chains: Rules) -> set[str]:
    """Return all of kube-proxy's chains that packets of others' rules come through."""
    found: set[str] = set()
    waiting = set(roots)
    while waiting:
        chain = waiting.pop()
        found.add(chain)
        ways = {target_of(rule) for rule in chains[chain]}
        # The mark is read there: without it the packets that others have marked keep their source.
        ways |= {_MASQUERADE} if chain == _MARK else set()
        waiting |= (ways & chains.keys()) - found
    return found
