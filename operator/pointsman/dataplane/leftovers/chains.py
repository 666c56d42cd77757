"""Whose the chains and rules of ``iptables-save`` are, and what removes kube-proxy's; pure.

A chain is kube-proxy's by its name; it has no other mark. A jump from a chain of the kernel's own into one of them is
its own by the comment that it writes there. Every other rule that leads into a chain of kube-proxy's is somebody
else's (a CNI plugin's that has ports of the node masqueraded through KUBE-MARK-MASQ): it stays, with the chains that it
needs.

Names and comments are those of kube-proxy 1.20 to 1.37 in its modes iptables, ipvs and userspace. What kubelet makes
(KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP, KUBE-FIREWALL of the table filter) is not among them.
"""

from __future__ import annotations

import re
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.leftovers.found import Leftover

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

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
_JUMP: Final = re.compile(
    r"-A [A-Z]+"
    r"(?: -m conntrack --ctstate NEW| -m state --state NEW| -m addrtype --dst-type LOCAL"
    r'| -m comment --comment "(?P<comment>[^"]*)")*'
    r" -j \S+"
)
"""A jump as kube-proxy writes them; nothing else may be in it."""
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"')
_TARGET: Final = re.compile(r" -[jg] (\S+)")
_NO_POLICY: Final = "-"


class Rule(msgspec.Struct, frozen=True, gc=False):
    """One rule: the chain that it is in, what it leads to ("" for nothing), and itself, as ``-A CHAIN ...``."""

    chain: str
    target: str
    text: str


class SavedTable(msgspec.Struct):
    """One table: its chains, in order, each with whether it is the kernel's own; and all rules."""

    chains: dict[str, bool]
    rules: list[Rule]


class Removal(msgspec.Struct, frozen=True):
    """What is kube-proxy's in one listing.

    Attributes:
        found: what can be removed, and what is kept for the rules of others.
        script: the input of ``iptables-restore --noflush`` that removes it; "" when there is nothing to do.
    """

    found: tuple[Leftover, ...]
    script: str


def parse(saved: str) -> dict[str, SavedTable]:
    """Read what ``iptables-save`` has printed, by table."""
    tables: dict[str, SavedTable] = {}
    table = SavedTable({}, [])
    for line in saved.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), SavedTable({}, []))
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table.chains[name] = policy != _NO_POLICY
        elif line.startswith("-A "):
            target = _TARGET.search(_QUOTED.sub('""', line))
            table.rules.append(Rule(line.split(" ", 2)[1], target[1] if target else "", line))
    return tables


def is_kube_proxys(table: str, chain: str) -> bool:
    """Tell by its name whether a chain is kube-proxy's."""
    return chain in NAMES.get(table, ()) or (table == "nat" and chain.startswith(PREFIXES))


def removal(saved: str, place: str) -> Removal:
    """Decide about one listing.

    Args:
        saved: what ``iptables-save`` has printed.
        place: where that is, for people: ``{}`` stands for the table.
    """
    found: list[Leftover] = []
    scripts: list[str] = []
    for name, table in parse(saved).items():
        of_table, script = _of_table(name, table, place.format(name))
        found += of_table
        scripts += script
    return Removal(tuple(found), "".join(f"{line}\n" for line in scripts))


def _of_table(name: str, table: SavedTable, place: str) -> tuple[list[Leftover], list[str]]:
    chains = {chain for chain in table.chains if is_kube_proxys(name, chain)}
    if not chains:
        return [], []
    entries = [rule for rule in table.rules if rule.chain not in chains and rule.target in chains]
    jumps = [rule for rule in entries if table.chains.get(rule.chain) and _is_own_jump(rule)]
    others = [rule for rule in entries if rule not in jumps]
    kept = _needed({rule.target for rule in others}, table.rules, chains)
    jumps = [rule for rule in jumps if not (rule.target == _MASQUERADE and _MASQUERADE in kept)]
    gone = [chain for chain in table.chains if chain in chains - kept]
    found = list(_told(place, table, gone, len(jumps)))
    if kept:
        reason = f"rules of others lead there: {'; '.join(rule.text for rule in others)}"
        found.append(Leftover("chains", place, members=tuple(sorted(kept)), kept=reason))
    if not gone and not jumps:
        return found, []
    deleted = [rule.text.replace("-A ", "-D ", 1) for rule in jumps]
    flushed = [f":{chain} - [0:0]" for chain in gone]
    return found, [f"*{name}", *flushed, *deleted, *(f"-X {chain}" for chain in gone), "COMMIT"]


def _is_own_jump(rule: Rule) -> bool:
    match = _JUMP.fullmatch(rule.text)
    return match is not None and match["comment"] in _COMMENTS


def _needed(roots: AbstractSet[str], rules: Iterable[Rule], chains: AbstractSet[str]) -> set[str]:
    """Return all of kube-proxy's chains that packets of others' rules come through."""
    ways: dict[str, set[str]] = {}
    for rule in rules:
        if rule.chain in chains and rule.target in chains:
            ways.setdefault(rule.chain, set()).add(rule.target)
    # The mark is read there: without it the packets that others have marked keep their source.
    ways.setdefault(_MARK, set()).update({_MASQUERADE} & chains)
    found: set[str] = set()
    waiting = set(roots)
    while waiting:
        chain = waiting.pop()
        found.add(chain)
        waiting |= ways.get(chain, set()) - found
    return found


def _told(place: str, table: SavedTable, gone: list[str], jumps: int) -> Iterator[Leftover]:
    if not gone and not jumps:
        return
    inside = Counter(rule.chain for rule in table.rules)
    rules = sum(inside[chain] for chain in gone)
    detail = f"{rules} {'rule' if rules == 1 else 'rules'}, {jumps} {'jump' if jumps == 1 else 'jumps'} to them"
    yield Leftover("chains", place, members=tuple(sorted(gone)), detail=detail)
