"""What the operator writes into the status of ProxyConfigs, and of NodeProxies whose agents are silent; pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pointsman.api.names import in_order
from pointsman.api.status import Condition, ModeCount, NodeCounts, ProxyConfigStatus
from pointsman.api.timestamps import rfc3339
from pointsman.controller.actions import PatchNodeProxyStatus
from pointsman.controller.nodes import AGENT_SILENT, READY, is_told_silent, named
from pointsman.controller.progress import COMPLETE, PROGRESSING, STALLED
from pointsman.model.objects import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.api.status import ConditionStatus, ReportedProblem
    from pointsman.controller.nodes import Fleet, NodeState
    from pointsman.controller.progress import Progress
    from pointsman.controller.view import View

_SILENT: Final = "no sign of life from the node's agent; the kernel keeps what it holds"


def config_status(
    fleet: Fleet, progress: Progress, problems: tuple[tuple[ReportedProblem, ...], int], now: float
) -> ProxyConfigStatus:
    """Say what came of a ProxyConfig.

    Args:
        fleet: the ProxyConfig and its nodes.
        progress: how far it has come.
        problems: what is wrong in the cluster as it sees it: the first ones, and how many there are.
        now: Unix seconds.
    """
    nodes = fleet.nodes
    ready = sum(1 for node in nodes if node.ready)
    conditions = (
        _ready(nodes),
        _progressing(nodes, progress, now),
        _degraded(nodes, stalled=progress.is_stalled(now)),
    )
    return ProxyConfigStatus(
        observed_generation=fleet.config.generation,
        nodes=NodeCounts(
            desired=len(nodes),
            updated=sum(1 for node in nodes if node.updated),
            ready=ready,
            summary=f"{ready}/{len(nodes)}",
        ),
        effective_modes=_modes(nodes),
        problems=problems[0],
        problem_count=problems[1],
        conditions=_dated(conditions, fleet.config.status.conditions, fleet.config.generation, now),
    )


def silences(view: View, now: float) -> Iterator[PatchNodeProxyStatus]:
    """Say which NodeProxies have to get `Ready` Unknown, as their agents give no sign of life."""
    for name in sorted(view.silent & view.node_proxies.keys()):
        proxy = view.node_proxies[name]
        if not is_told_silent(proxy):
            version = view.versions.get(ObjectKey("NodeProxy", "", name), 0)
            yield PatchNodeProxyStatus(name, _silent_conditions(proxy, now), version)


def _silent_conditions(proxy: NodeProxy, now: float) -> tuple[Condition, ...]:
    (unknown,) = _dated(
        [(READY, "Unknown", AGENT_SILENT, _SILENT)], proxy.status.conditions, proxy.status.observed_generation, now
    )
    return (unknown, *(each for each in proxy.status.conditions if each.type != READY))


_Said = tuple[str, "ConditionStatus", str, str]
"""Type, status, reason and message of a condition."""


def _ready(nodes: tuple[NodeState, ...]) -> _Said:
    if not nodes:
        return READY, "False", "NoNodes", "no node gets this configuration"
    waiting = [node for node in nodes if not node.ready]
    if not waiting:
        return READY, "True", "AllNodesReady", f"in force on all of {len(nodes)} nodes"
    return READY, "False", "NodesNotReady", f"{len(waiting)} of {len(nodes)} nodes: {_why(waiting)}"


def _progressing(nodes: tuple[NodeState, ...], progress: Progress, now: float) -> _Said:
    if progress.complete:
        return PROGRESSING, "False", COMPLETE, f"{len(nodes)} of {len(nodes)} nodes have it"
    updated = sum(1 for node in nodes if node.updated)
    far = f"{updated} of {len(nodes)} nodes have it"
    waiting = [node for node in nodes if node.updated and not node.ready] or [node for node in nodes if not node.ready]
    if progress.is_stalled(now):
        return PROGRESSING, "False", STALLED, f"{far}, and no more get it before these are ready: {_why(waiting)}"
    return PROGRESSING, "True", "RollingOut", f"{far}; waiting for {named(node.name for node in waiting)}"


def _degraded(nodes: tuple[NodeState, ...], *, stalled: bool) -> _Said:
    faulty = [node for node in nodes if node.fault or (stalled and node.unavailable)]
    if not faulty:
        return "Degraded", "False", "AsExpected", "no node says that it cannot do what is asked"
    return "Degraded", "True", "NodesDegraded", f"{len(faulty)} of {len(nodes)} nodes: {_why(faulty)}"


def _why(nodes: Iterable[NodeState]) -> str:
    return named((f"{node.name}: {node.unavailable or 'not updated yet'}" for node in nodes), "; ")


def _modes(nodes: Iterable[NodeState]) -> tuple[ModeCount, ...]:
    counts = Counter(node.proxy.status.mode for node in nodes if node.proxy is not None)
    return tuple(ModeCount(mode=mode, nodes=counts[mode]) for mode in in_order(filter(None, counts)))


def _dated(
    said: Iterable[_Said], before: Iterable[Condition], generation: int, now: float
) -> tuple[Condition, ...]:  # fmt: skip
    """Give conditions their times: of those whose status is as before, the one that they have."""
    known = {each.type: each for each in before}
    return tuple(
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            observed_generation=generation,
            last_transition_time=known[kind].last_transition_time
            if kind in known and known[kind].status == status
            else rfc3339(now),
        )
        for kind, status, reason, message in said
    )
