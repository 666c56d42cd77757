"""What an agent says of its node in `NodeProxy.status`; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

from pointsman.api.status import Condition, HeldVersions, NodeProxyStatus, ReportedProblem
from pointsman.api.timestamps import rfc3339
from pointsman.model.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.agent.outcome import Facts, Outcome
    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.api.status import AgentInfo, ConditionStatus
    from pointsman.model.objects import Kind
    from pointsman.model.problems import Problem

_MAX_PROBLEMS: Final = 20
_MAX_MESSAGE: Final = 1000
"""Characters of a message: a status has to stay small, whatever the kernel or an object says."""
_BLINK: Final = 1.0
"""Seconds for which failing syncs are no failure yet: what the next try mends shall not hold up a rollout."""
_SLOW: Final = frozenset({"services", "endpoints", "lastSyncTime", "resourceVersions"})
"""Fields that change all the time in a living cluster."""


class Account:
    """What has come of the syncs so far.

    Attributes:
        facts: as of the last sync that the kernel took, or None before the first one.
        error: why the kernel took nothing of the newest sync, or "".
        refused: how many parts of the newest full sync, and of those after it, the kernel refused.
        failing_since: Unix seconds since when the kernel lacks something, or None.
        changed_at: Unix seconds when the kernel was last changed, or compared with everything.
    """

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.error = ""
        self.refused = 0
        self.failing_since: float | None = None
        self.changed_at: float | None = None

    def add(self, outcome: Outcome) -> None:
        """Take in what came of one more sync."""
        written = outcome.written
        self.error = outcome.error if written is None else ""
        if written is not None:
            self.facts = outcome.facts
            # A sync of changes says nothing of what an earlier one could not write.
            self.refused = len(written.refused) if outcome.full else max(len(written.refused), self.refused)
            if outcome.full or written.added or written.removed:
                self.changed_at = outcome.finished
        if written is not None and not self.refused:
            self.failing_since = None
        elif self.failing_since is None:
            self.failing_since = outcome.finished


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a status is made from.

    Attributes:
        account: of the syncs.
        healthy: no change has waited too long for the kernel (`pointsman.agent.health.Health`).
        versions: the newest resourceVersions that the kernel holds, by kind.
        problems: all that there are now, sorted.
        agent: this agent.
        now: Unix seconds.
    """

    account: Account
    healthy: bool
    versions: Mapping[Kind, int]
    problems: tuple[Problem, ...]
    agent: AgentInfo
    now: float


def status_of(picture: Picture, known: NodeProxy) -> NodeProxyStatus:
    """Say what holds on this node.

    Before the first sync the kernel still has what the agent before this one wrote: counts and times are left as
    they are.

    Args:
        picture: what this agent knows.
        known: the NodeProxy as it is in the cluster; its conditions say since when they are as they are.
    """
    facts, account, old = picture.account.facts, picture.account, known.status
    reported = tuple(map(_reported, _foremost(picture.problems)))
    common: dict[str, Any] = {"problems": reported, "problem_count": len(picture.problems), "agent": picture.agent}
    if facts is None:
        ready = _ready(picture, known.generation)
        kept = [condition for condition in old.conditions if condition.type != ready.type]
        return old.model_copy(update=common | {"conditions": _since((ready, *kept), old.conditions)})
    source = facts.node_proxy
    observed = source.generation if source is not None and source.uid == known.uid else 0
    conditions = (_ready(picture, observed), _mode_in_force(facts, observed, picture.now))
    return NodeProxyStatus(
        observed_generation=observed,
        mode=facts.mode,
        services=facts.counts.services,
        endpoints=facts.counts.endpoints,
        last_sync_time=rfc3339(account.changed_at) if account.changed_at is not None else None,
        resource_versions=_held(picture.versions),
        conditions=_since(conditions, old.conditions),
        **common,
    )


def status_of_removed(known: NodeProxy, now: float) -> NodeProxyStatus:
    """Say that the agent has removed everything from this node, as Pointsman is uninstalled.

    Args:
        known: the NodeProxy as it is in the cluster.
        now: Unix seconds.
    """
    message = "Pointsman is uninstalled; nothing of it is left in this node's kernel"
    ready = _condition("Ready", "False", "Removed", message, generation=known.status.observed_generation, now=now)
    return NodeProxyStatus(agent=known.status.agent, conditions=_since((ready,), known.status.conditions))


def difference(before: NodeProxyStatus, after: NodeProxyStatus) -> dict[str, Any]:
    """Return the fields that a status has to get, as a merge patch (RFC 7396); empty when there is nothing to do.

    Where there was no status before, zeros are written too: `kubectl get` shows them.
    """
    old, new = (status.model_dump(mode="json", by_alias=True) for status in (before, after))
    patch = {field: value for field, value in new.items() if old[field] != value}
    if patch and before == NodeProxyStatus():
        return {field: value for field, value in new.items() if value is not None}
    return patch


def is_urgent(patch: Mapping[str, Any], *, versions: bool) -> bool:
    """Tell whether a difference has to be written at once.

    Args:
        patch: as `difference` returns it.
        versions: somebody waits for resourceVersions (`serviceConditions`).
    """
    return bool(patch.keys() - _SLOW) or (versions and "resourceVersions" in patch)


def _ready(picture: Picture, generation: int) -> Condition:
    status, reason, message = _readiness(picture)
    return _condition("Ready", status, reason, message, generation=generation, now=picture.now)


def _readiness(picture: Picture) -> tuple[ConditionStatus, str, str]:
    account = picture.account
    since = account.failing_since
    failing = since is not None and picture.now - since >= _BLINK
    if account.error and (failing or account.facts is None):
        return "False", "SyncFailed", f"the kernel took nothing of the last sync: {_short(account.error)}"
    if account.facts is None:
        return "False", "NotSynced", "not all objects are known yet; what the kernel held before stays in force"
    if account.refused and failing:
        return "False", "ElementsRefused", f"the kernel refused {account.refused} parts; see status.problems"
    if not picture.healthy:
        return "False", "SyncFailed", "changes have waited for the kernel for more than twice spec.syncPeriod"
    return "True", "Programmed", "the kernel holds what the configuration and the Services say"


def _mode_in_force(facts: Facts, generation: int, now: float) -> Condition:
    mode, source = facts.mode, facts.node_proxy
    wanted = source.spec.mode if source is not None else mode
    status: ConditionStatus = "True"
    why = f"; {_short(facts.why)}" if facts.why else ""
    if wanted == mode:
        reason, message = "AsConfigured", f"mode {mode} is in force"
    elif source is not None and mode in source.spec.fallback_modes_in_force():
        reason = "FellBack"
        message = f"mode {wanted} is not there on this node; {mode} of fallbackModes is in force{why}"
    else:
        status, reason = "False", "ModeNotSupported"
        message = (
            f"mode {wanted} is not there on this node; {mode} is in force; "
            f"write it into spec.mode of the ProxyConfig, or into spec.fallbackModes{why}"
        )
    message += "".join(
        f"; mode {former} serves the {count} connections that it had, until they end or spec.drainTimeout is over"
        for former, count in facts.draining.items()
    )
    return _condition("ModeInForce", status, reason, message, generation=generation, now=now)


def _condition(
    name: str, status: ConditionStatus, reason: str, message: str, *, generation: int, now: float
) -> Condition:  # fmt: skip
    return Condition(
        type=name,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=rfc3339(now),
        observed_generation=generation,
    )


def _since(new: Iterable[Condition], old: Iterable[Condition]) -> tuple[Condition, ...]:
    """Keep the time of conditions whose status is as before."""
    known = {condition.type: condition for condition in old}
    return tuple(
        condition.model_copy(update={"last_transition_time": before.last_transition_time})
        if (before := known.get(condition.type)) is not None and before.status == condition.status
        else condition
        for condition in new
    )


def _held(versions: Mapping[Kind, int]) -> HeldVersions:
    texts = {kind: str(versions[kind]) for kind in ("Service", "EndpointSlice") if kind in versions}
    return HeldVersions(services=texts.get("Service", ""), endpoint_slices=texts.get("EndpointSlice", ""))


def _foremost(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Choose the problems that are named: the first ones, but some of each kind.

    A thousand Services that ask for the same scheduler must not hide what the kernel refuses.
    """
    if len(problems) <= _MAX_PROBLEMS:
        return problems
    seen: Counter[tuple[str, str]] = Counter()
    ranked: list[tuple[int, int]] = []
    for place, problem in enumerate(problems):
        kind = (problem.source, problem.field)
        ranked.append((seen[kind], place))
        seen[kind] += 1
    return tuple(problems[place] for place in sorted(place for _, place in nsmallest(_MAX_PROBLEMS, ranked)))


def _reported(problem: Problem) -> ReportedProblem:
    return ReportedProblem(
        object=_short(problem.object or problem.source),
        field=_short(problem.field),
        message=_short(problem.message),
        remedy=_short(problem.remedy),
    )


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"
