"""What there is to do now: the one function that the operator asks after each change, and when time alone is due; pure.

It is level-triggered: what it says follows from the view, whatever the way there was. `Memory` holds what the cluster
does not: since when nothing goes on, and what has been told already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.controller.actions import (
    CreateNodeProxy,
    DeleteNodeProxy,
    PatchNodeProxyStatus,
    PatchProxyConfigStatus,
    UpdateNodeProxy,
)
from pointsman.controller.conditions import Judge
from pointsman.controller.nodes import fleets
from pointsman.controller.progress import follow
from pointsman.controller.rollout import roll_out
from pointsman.controller.statuses import config_status, silences
from pointsman.controller.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.controller.actions import Action
    from pointsman.controller.nodes import Fleet
    from pointsman.controller.progress import Progress
    from pointsman.controller.view import View
    from pointsman.model.objects import Kind

_OfNode = CreateNodeProxy | UpdateNodeProxy | DeleteNodeProxy | PatchNodeProxyStatus
_FOR_NODES: Final[frozenset[Kind]] = frozenset({"Node", "ProxyConfig", "NodeProxy"})
_FOR_SERVICES: Final[frozenset[Kind]] = _FOR_NODES | {"Service", "EndpointSlice", "Namespace"}
_STATUS_EVERY: Final = 1.0
"""Seconds from one status of a ProxyConfig to the next."""
_AGAIN: Final = 5.0
"""Seconds until the same is said of a NodeProxy again: a write that changes nothing (the API server has CRDs of another
release, and drops a field) must not be repeated without end."""
_KEPT: Final = 10.0
"""Seconds for which a node that no ProxyConfig selects any more keeps its NodeProxy: a ProxyConfig that is replaced
(`kubectl replace --force`) is gone for a moment, and comes back to nodes that are changed one by one."""
_NEXT_PORTION: Final = 0.2
"""Seconds until more conditions are written, when there are many."""


class Memory:
    """What the operator remembers between two calls of `reconcile`; a new one is as good, but may tell twice.

    Attributes:
        progress: how far each ProxyConfig has come, by its name.
        written: when the status of each was written last, by its name.
        behind: names of ProxyConfigs whose status waits for its time.
        survey: what is wrong in the cluster.
        judge: of the Services' conditions.
        tried: what was said of NodeProxies, and when, by what it was and their names.
        held_back: of `tried`, what was to be said again and was not.
        unselected: since when no ProxyConfig selects a node that has a NodeProxy, by its name.
    """

    def __init__(self) -> None:
        self.progress: dict[str, Progress] = {}
        self.written: dict[str, float] = {}
        self.behind: set[str] = set()
        self.survey = Survey()
        self.judge = Judge()
        self.tried: dict[tuple[type, str], tuple[Action, float]] = {}
        self.held_back: set[tuple[type, str]] = set()
        self.unselected: dict[str, float] = {}


def reconcile(view: View, memory: Memory, now: float) -> tuple[Action, ...]:
    """Say what there is to do.

    The caller does all of it before it asks again, and puts what the API server answers into the view (`view.put`, or
    `view.remove` of what it deleted, `view.put_condition`): what is not in the view counts as not done, and is said
    again. A write that fails may be left: it is said again too (of a NodeProxy after five seconds).

    Args:
        view: the cluster. Nothing is done before `Node`, `ProxyConfig` and `NodeProxy` are listed (`view.mark_listed`);
            nothing about Services before `Service`, `EndpointSlice` and `Namespace` are.
        memory: of this function alone; changed.
        now: Unix seconds.

    Returns:
        Actions in the order in which to do them.
    """
    if not view.listed >= _FOR_NODES:
        return ()
    every = fleets(view)
    actions: list[Action] = [
        *_news([*_kept(roll_out(view, every), view, memory, now), *silences(view, now)], memory, now)
    ]
    knows_services = view.listed >= _FOR_SERVICES
    if knows_services:
        memory.survey.look(view, every, now)
    actions += _statuses(every, memory, now)
    if knows_services:
        actions += memory.survey.events(now)
        actions += memory.judge.judge(view, now)
    return tuple(actions)


def next_due(memory: Memory, now: float) -> float | None:
    """Return the seconds until time alone makes something due; None: only a change of the view does.

    Args:
        memory: as the last call of `reconcile` left it.
        now: Unix seconds.
    """
    due = [
        *(each.due(now) for each in memory.progress.values()),
        *(memory.written[name] + _STATUS_EVERY - now for name in memory.behind),
        *(memory.tried[what][1] + _AGAIN - now for what in memory.held_back),
        *(since + _KEPT - now for since in memory.unselected.values() if now - since < _KEPT),
        memory.survey.due(now),
        _NEXT_PORTION if memory.judge.is_behind else None,
    ]
    return min((max(each, 0.0) for each in due if each is not None), default=None)


def _kept(actions: Iterable[_OfNode], view: View, memory: Memory, now: float) -> Iterator[_OfNode]:
    """Leave out the deletion of NodeProxies whose nodes may be selected again in a moment."""
    since, memory.unselected = memory.unselected, {}
    for action in actions:
        if isinstance(action, DeleteNodeProxy) and action.node in view.nodes:
            begun = memory.unselected[action.node] = since.get(action.node, now)
            if now - begun < _KEPT:
                continue
        yield action


def _news(actions: Iterable[_OfNode], memory: Memory, now: float) -> Iterator[_OfNode]:
    """Leave out what was said a moment ago of the very same version of a NodeProxy."""
    before = memory.tried
    memory.tried = {}
    memory.held_back.clear()
    for action in actions:
        what = type(action), action.node
        same, at = before.get(what, (None, now))
        if same == action and now - at < _AGAIN:
            memory.tried[what] = action, at
            memory.held_back.add(what)
        else:
            memory.tried[what] = action, now
            yield action


def _statuses(every: tuple[Fleet, ...], memory: Memory, now: float) -> Iterator[PatchProxyConfigStatus]:
    known = memory.progress
    memory.progress = {fleet.config.name: follow(known.get(fleet.config.name), fleet, now) for fleet in every}
    memory.written = {name: at for name, at in memory.written.items() if name in memory.progress}
    memory.behind.clear()
    for fleet in every:
        name = fleet.config.name
        problems = memory.survey.reported(fleet.config)
        status = config_status(fleet, memory.progress[name], problems, now)
        if status == fleet.config.status:
            continue
        if now - memory.written.get(name, 0.0) < _STATUS_EVERY:
            memory.behind.add(name)
        else:
            memory.written[name] = now
            yield PatchProxyConfigStatus(name, status)
