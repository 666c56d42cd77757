"""When to look for what is wrong in the cluster, and what was found; pure.

A look is taken when the view changed, once a second at most. An agent that starts, or takes a new configuration, is not
ready for a moment: a node is told of when it has not been for a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.api.timestamps import unix_seconds
from pointsman.controller.nodes import READY, condition
from pointsman.controller.reports import findings, reported
from pointsman.controller.telling import Teller

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.status import ReportedProblem
    from pointsman.controller.actions import SendEvent
    from pointsman.controller.nodes import Fleet, NodeState
    from pointsman.controller.reports import Finding
    from pointsman.controller.view import View

_EVERY: Final = 1.0
_PATIENCE: Final = 60.0
"""Seconds that a node may be unavailable before that is told."""


class Survey:
    """What is wrong in the cluster, as of the last look."""

    def __init__(self) -> None:
        self._found: Mapping[str, tuple[Finding, ...]] = {}
        self._reported: Mapping[str, tuple[tuple[ReportedProblem, ...], int]] = {}
        self._unready_since: dict[str, float] = {}
        self._unready: Mapping[str, str] = {}
        self._seen: tuple[int, frozenset[str]] | None = None
        self._looked_at: float | None = None
        self._is_behind = False
        self._told_at = 0.0
        self._teller = Teller()

    def look(self, view: View, fleets: Iterable[Fleet], now: float) -> None:
        """Look at the cluster, if anything changed and the time has come."""
        every = tuple(fleets)
        self._watch(every, now)
        seen = (view.revision, frozenset(self._unready))
        self._is_behind = seen != self._seen and self._looked_at is not None and now - self._looked_at < _EVERY
        if seen == self._seen or self._is_behind:
            return
        self._seen, self._looked_at = seen, now
        self._found = {fleet.config.name: findings(view, fleet, self._unready) for fleet in every}
        self._reported = {name: reported(found) for name, found in self._found.items()}

    def events(self, now: float) -> tuple[SendEvent, ...]:
        """Return the events to send; some only after a look."""
        if self._looked_at != now and not (self._teller.is_behind and now - self._told_at >= _EVERY):
            return ()
        self._told_at = now
        return self._teller.tell((each for found in self._found.values() for each in found), now)

    def reported(self, config: ProxyConfig) -> tuple[tuple[ReportedProblem, ...], int]:
        """Return what to write into a ProxyConfig's status; what stands there before the first look."""
        return self._reported.get(config.name, (config.status.problems, config.status.problem_count))

    def due(self, now: float) -> float | None:
        """Return the seconds until there is something to look at or to tell that no change of the view makes due."""
        times = [since + _PATIENCE for name, since in self._unready_since.items() if name not in self._unready]
        if self._looked_at is not None and self._is_behind:
            times.append(self._looked_at + _EVERY)
        if self._teller.is_behind:
            times.append(self._told_at + _EVERY)
        return max(min(times) - now, 0.0) if times else None

    def _watch(self, fleets: Iterable[Fleet], now: float) -> None:
        """Note since when nodes are unavailable."""
        down = {node.name: node for fleet in fleets for node in fleet.nodes if node.unavailable}
        self._unready_since = {name: self._unready_since.get(name, _since(node, now)) for name, node in down.items()}
        self._unready = {
            name: node.unavailable for name, node in down.items() if now - self._unready_since[name] >= _PATIENCE
        }


def _since(node: NodeState, now: float) -> float:
    """Tell since when a node is unavailable; a restart forgets nothing that stands in its NodeProxy."""
    ready = condition(node.proxy, READY) if node.proxy is not None else None
    if ready is None or ready.status == "True":
        return now
    told = unix_seconds(ready.last_transition_time)
    return now if told is None else min(told, now)
