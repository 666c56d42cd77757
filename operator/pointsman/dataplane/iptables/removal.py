"""Taking away what is ours, as input of ``iptables-restore``; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.names import FILTER, NAT, SHARED, is_own
from pointsman.dataplane.iptables.saved import parse
from pointsman.dataplane.iptables.variant import look_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from pointsman.dataplane.iptables.saved import Saved

HINT: Final = "POINTSMAN-HINT"
"""An empty chain of the table nat: the chains beside it are Pointsman's, not kube-proxy's of the same names."""
_BESIDES: Final = frozenset({(FILTER, SHARED), (NAT, HINT)})


def is_ours(table: str, chain: str) -> bool:
    """Tell whether a chain is one that the mode `iptables` writes; KUBE-FIREWALL is the kubelet's, too."""
    return is_own(table, chain) or (table, chain) in _BESIDES


def has_hint(listing: str) -> bool:
    """Tell by what ``iptables-save`` printed whether Pointsman's chains are there."""
    return f"\n:{HINT} " in listing


def removal(listing: str, size: int, stay: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Write what removes every chain of ours and every rule that leads there from the kernel's own chains.

    Packets are led past our chains at first; the hint goes last, so that what is interrupted is found again.

    Args:
        listing: what ``iptables-save`` printed.
        size: how many chains a section has.
        stay: names of chains that are left alone, with the rules that lead there.

    Returns:
        The input, and the rules of others that lead to chains of ours, which stay for them, empty.
    """
    stay = {*stay, SHARED} if look_at([listing]).has_hint else stay
    saved = parse(listing, lambda table, chain: is_ours(table, chain) and chain not in stay)
    lines = [line for table in (NAT, FILTER) for line in _unhook(saved, table)]
    strangers: list[str] = []
    for table in (FILTER, NAT):
        chains = [chain for chain in saved.held.get(table, {}) if is_ours(table, chain)]
        for some in _batches(chains, size):
            lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in some), "COMMIT"]
        foreign = saved.foreign.get(table, {})
        strangers += [rule for rules in foreign.values() for rule in rules]
        go = sorted((chain for chain in chains if chain not in foreign), key=lambda chain: chain == HINT)
        if strangers:
            go = [chain for chain in go if chain != HINT]
        for some in _batches(go, size):
            lines += [f"*{table}", *(f"-X {chain}" for chain in some), "COMMIT"]
    return "".join(f"{line}\n" for line in lines), tuple(strangers)


def _unhook(saved: Saved, table: str) -> Iterator[str]:
    chains: Mapping[str, tuple[str, ...]] = saved.held.get(table, {})
    rules = [rule for chain, found in chains.items() if not is_ours(table, chain) for rule in found]
    if rules:
        yield f"*{table}"
        yield from (f"-D{rule[2:]}" for rule in rules)
        yield "COMMIT"


def _batches(chains: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(chains), size):
        yield chains[start : start + size]
