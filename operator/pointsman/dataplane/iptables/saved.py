"""What ``iptables-save`` printed, read.

The output of both variants is the same but for comments (``#``)::

    *nat
    :PREROUTING ACCEPT [0:0]
    :KUBE-SERVICES - [0:0]
    [12:720] -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
    COMMIT

The packet counters in brackets are there with ``-c`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_TARGET: Final = re.compile(r" -[jg] (\S+)")
_UNREADABLE: Final = re.compile(r"^# Table `(nat|filter)' is incompatible", re.MULTILINE)


class Saved(msgspec.Struct, frozen=True):
    """What one family's listing has of ours.

    Attributes:
        held: by table and chain, our chains with their rules, and chains of the kernel's own with the rules that
            lead to ours; each rule as ``-A CHAIN …``, without counters.
        foreign: by table and chain of ours, the rules in others' chains that lead there.
    """

    held: Mapping[str, Mapping[str, tuple[str, ...]]]
    foreign: Mapping[str, Mapping[str, tuple[str, ...]]]


def parse(listing: str, is_ours: Callable[[str, str], bool]) -> Saved:
    """Read a listing.

    Args:
        listing: of any tables, with counters or without.
        is_ours: tells by table and name whether a chain is ours.
    """
    held: dict[str, Mapping[str, tuple[str, ...]]] = {}
    foreign: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for table, lines in _tables(listing):
        ours, theirs = _read_table(table, lines, is_ours)
        if ours:
            held[table] = ours
        if theirs:
            foreign[table] = theirs
    return Saved(held, foreign)


def _tables(listing: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the tables of a listing with the lines of their chains and rules."""
    lines = listing.splitlines()
    start = 0
    for end, line in enumerate(lines):
        if line[:1] == "*":
            start = end
        elif line == "COMMIT":
            yield lines[start][1:], lines[start + 1 : end]


def _read_table(
    table: str, lines: Iterable[str], is_ours: Callable[[str, str], bool]
) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """Return what is held, and what leads to it from others' chains."""
    ours: dict[str, list[str]] = {}
    built_in: set[str] = set()
    strangers: list[tuple[str, str]] = []
    for each in lines:
        if each[:1] == ":":
            chain, policy, *_ = each[1:].split(" ")
            if policy != "-":
                built_in.add(chain)
            elif is_ours(table, chain):
                ours[chain] = []
            continue
        line = each.partition("] ")[2] if each[:1] == "[" else each
        if line[:1] != "-":
            continue
        chain = line.split(" ", 2)[1]
        if chain in ours:
            ours[chain].append(line)
        else:
            strangers.append((chain, line))
    kept, theirs = _sort_out(strangers, ours, built_in)
    return {chain: tuple(rules) for chain, rules in ours.items()} | kept, theirs


def unreadable_table(listing: str) -> str:
    """Return the table that ``iptables-nft-save`` left out, as it has rules that only nft understands; "" for none."""
    found = _UNREADABLE.search(listing)
    return found[1] if found else ""


def packets(listing: str) -> Mapping[tuple[str, str], int]:
    """Read the packet counters of a listing with counters: by table and rule; equal rules are summed."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for line in listing.splitlines():
        start = line[:1]
        if start == "[":
            counters, _, rule = line.partition("] ")
            key = table, rule
            found[key] = found.get(key, 0) + int(counters[1:].partition(":")[0])
        elif start == "*":
            table = line[1:]
    return found


def _sort_out(
    strangers: list[tuple[str, str]], ours: Mapping[str, object], built_in: set[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Find the rules in others' chains that lead to ours.

    Returns:
        Those in chains of the kernel's own, by that chain; those in others' own chains, by our chain.
    """
    kept: dict[str, list[str]] = {}
    theirs: dict[str, list[str]] = {}
    for chain, rule in strangers:
        target = target_of(rule)
        if target not in ours:
            continue
        if chain in built_in:
            kept.setdefault(chain, []).append(rule)
        else:
            theirs.setdefault(target, []).append(rule)
    return ({c: tuple(rules) for c, rules in kept.items()}, {c: tuple(rules) for c, rules in theirs.items()})


def target_of(rule: str) -> str:
    """Return the target or chain that a rule leads to; "" when it leads nowhere."""
    # What is quoted may look like anything.
    found = _TARGET.search(_QUOTED.sub("", rule) if '"' in rule else rule)
    return found[1] if found else ""
