"""Whether a configuration is on its way, has arrived, or is stuck; pure.

Since when nothing goes on is kept in memory, not read out of conditions' times: a node that is updated and stays ready
moves no condition, so that those times would call a rollout stuck that goes on well. What the ProxyConfig says of
itself is believed after a restart: complete stays complete, stalled stays stalled; a running clock starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.controller.nodes import Fleet

STALLED_AFTER: Final = 60.0
"""Seconds without progress."""
PROGRESSING: Final = "Progressing"
COMPLETE: Final = "Complete"
STALLED: Final = "RolloutStalled"


class Progress(NamedTuple):
    """How far a ProxyConfig has come.

    Attributes:
        generation: of the ProxyConfig.
        nodes: names of its nodes.
        best: how many nodes were updated, and how many ready, at most. A node that comes and goes is no progress.
        since: when it came that far, in Unix seconds.
        complete: every node was ready once; one that fails later does not bring the rollout back.
    """

    generation: int
    nodes: frozenset[str]
    best: tuple[int, int]
    since: float
    complete: bool

    def is_stalled(self, now: float) -> bool:
        """Tell whether nothing has gone on for too long."""
        return not self.complete and now - self.since >= STALLED_AFTER

    def due(self, now: float) -> float | None:
        """Return the seconds until it is held stalled, if nothing happens; None when it is, or is complete."""
        return None if self.complete or self.is_stalled(now) else self.since + STALLED_AFTER - now


def follow(before: Progress | None, fleet: Fleet, now: float) -> Progress:
    """Take how a ProxyConfig and its nodes stand now.

    Args:
        before: what this returned last; None after a start.
        fleet: the ProxyConfig and its nodes.
        now: Unix seconds.
    """
    nodes = frozenset(node.name for node in fleet.nodes)
    updated = sum(1 for node in fleet.nodes if node.updated)
    ready = sum(1 for node in fleet.nodes if node.ready)
    known = before or _as_told(fleet.config, nodes, (updated, ready), now)
    is_undone = known.complete and updated < len(nodes)  # somebody else wrote a NodeProxy
    if fleet.config.generation != known.generation or not nodes <= known.nodes or is_undone:
        known = Progress(fleet.config.generation, nodes, (0, 0), now, complete=False)
    best = (max(updated, known.best[0]), max(ready, known.best[1]))
    complete = ready == len(nodes) or known.complete
    since = now if best != known.best else known.since
    return Progress(fleet.config.generation, nodes, best, since, complete)


def _as_told(config: ProxyConfig, nodes: frozenset[str], best: tuple[int, int], now: float) -> Progress:
    told = next((each for each in config.status.conditions if each.type == PROGRESSING), None)
    reason = told.reason if told is not None and told.observed_generation == config.generation else ""
    since = now - STALLED_AFTER if reason == STALLED else now
    return Progress(config.generation, nodes, best, since, complete=reason == COMPLETE)
