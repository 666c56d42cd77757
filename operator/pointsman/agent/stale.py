"""Which UDP frontends may have stale connection-tracking entries; pure.

A UDP client with a fixed source port keeps its entry alive by sending. When its backend is gone, or when there was
none at its first packet, the entry has to be deleted, or the client stays stuck (kubernetes/kubernetes#139628).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Answer, Delta, Frontend


def stale_udp(before: Mapping[Frontend, Answer], delta: Delta) -> dict[Frontend, Answer | None]:
    """Find the UDP frontends of a delta that lost a backend, got their first one, or are gone.

    So are those that serve some clients no more, even if their backends drain: a proxy has no port for these then.

    Args:
        before: the answers of UDP frontends before the delta; other frontends may be missing.
        delta: what changed since.

    Returns:
        Each of them with its answer as it is now, None for one that is gone.
    """
    found: dict[Frontend, Answer | None] = dict.fromkeys(f for f in delta.removed if f.protocol == "udp")
    for frontend, answer in delta.changed.items():
        if frontend.protocol != "udp":
            continue
        old, new = backends(before.get(frontend)), backends(answer)
        if old - new or (new and not old) or _served(before.get(frontend)) - _served(answer):
            found[frontend] = answer
    return found


def backends(answer: Answer | None) -> set[tuple[str, int]]:
    """Return address and port of all that may answer, whoever the client is; those that drain are among them."""
    if answer is None:
        return set()
    pools = [answer.pool] if answer.outside is None else [answer.pool, answer.outside]
    return {(backend.address, backend.port) for pool in pools for backend in pool.backends}


def _served(answer: Answer | None) -> set[str]:
    """Return which clients get a backend for a new connection: those inside, where they have a pool, and the others."""
    if answer is None:
        return set()
    pools = {"": answer.pool} if answer.outside is None else {"": answer.outside, "inside": answer.pool}
    return {clients for clients, pool in pools.items() if any(backend.weight for backend in pool.backends)}
