"""Which iptables the node uses: the one over nf_tables, or the legacy one.

Rules of both are obeyed at once, and neither sees the other's: a second variant beside the node's own makes rules that
nobody finds. As with kubernetes-sigs/iptables-wrappers, which kube-proxy's own image has, it is the variant in which
kubelet has its hint. Without one that takes ``nft``; here it is the one with more rules (as there in older releases),
else what the command ``iptables`` is, since a node without kubelet may well use the legacy one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Variant = Literal["nft", "legacy"]
VARIANTS: Final[tuple[Variant, ...]] = ("nft", "legacy")

HINTS: Final = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Chains that kubelet makes in the table mangle, since Kubernetes 1.17."""
_HINT: Final = re.compile(rf"^:(?:{'|'.join(HINTS)}) ", re.MULTILINE)
_RULE: Final = re.compile(r"^-", re.MULTILINE)


class Look(msgspec.Struct, frozen=True):
    """What one variant holds.

    Attributes:
        is_installed: its program is there.
        is_readable: what it holds is known; False for one that is in use, and may not be read.
        has_hint: kubelet uses it.
        rules: of all tables and both families.
    """

    is_installed: bool
    is_readable: bool = True
    has_hint: bool = False
    rules: int = 0


def look_at(listings: Iterable[str]) -> Look:
    """Look at what ``iptables-save`` and ``ip6tables-save`` of one variant printed, without counters."""
    found = list(listings)
    return Look(
        is_installed=True,
        has_hint=any(_HINT.search(listing) for listing in found),
        rules=sum(len(_RULE.findall(listing)) for listing in found),
    )


def choose(nft: Look, legacy: Look, default: Variant = "nft") -> Variant | None:
    """Choose the node's variant.

    Args:
        nft: what it holds.
        legacy: what it holds.
        default: what the command ``iptables`` is.

    Returns:
        The variant, which is installed; None when none is.
    """
    if not (nft.is_installed and legacy.is_installed):
        return "nft" if nft.is_installed else "legacy" if legacy.is_installed else None
    if not (nft.has_hint or legacy.is_readable):
        return "legacy"  # it says what it lacks when it is asked to work
    if nft.has_hint or legacy.has_hint:
        return "nft" if nft.has_hint else "legacy"
    if nft.rules == legacy.rules:
        return default
    return "legacy" if legacy.rules > nft.rules else "nft"
