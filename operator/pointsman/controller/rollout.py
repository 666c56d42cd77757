"""Which nodes get their configuration now; pure.

New nodes at once. Changed ones in the order of their names, as long as no more of the configuration's nodes are
unavailable than it allows; nodes where no agent has ever worked are not among these. Nodes that are unavailable already
have nothing to lose and are changed at once. A node that does not come back keeps its place in the budget: a bad
configuration stops there. A node whose agent fell silent is left as it is until the agent is heard again: many can fall
silent at one time, and what they would find when they come back has to have been tried on few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.controller.actions import CreateNodeProxy, DeleteNodeProxy, UpdateNodeProxy
from pointsman.model.objects import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.controller.nodes import Fleet
    from pointsman.controller.view import View


def budget(max_unavailable: int | str, nodes: int) -> int:
    """Return how many of `nodes` may be unavailable: a number, or a share as ``10%`` rounded up; 1 at the least."""
    if isinstance(max_unavailable, int):
        return max(max_unavailable, 1)
    percent = int(max_unavailable.removesuffix("%"))
    return max(-(-percent * nodes // 100), 1)


def to_update(fleet: Fleet) -> tuple[str, ...]:
    """Return the names of the nodes whose NodeProxies are to be changed now, in order."""
    outdated = [node for node in fleet.nodes if node.proxy is not None and not node.updated]
    down = [node.name for node in outdated if node.unavailable and not node.silent]
    up = [node.name for node in outdated if not node.unavailable]
    unavailable = sum(1 for node in fleet.nodes if node.unavailable and node.started)
    room = budget(fleet.config.spec.rollout.max_unavailable, len(fleet.nodes)) - unavailable
    return tuple(sorted([*down, *up[: max(room, 0)]]))


def roll_out(view: View, fleets: Iterable[Fleet]) -> Iterator[CreateNodeProxy | UpdateNodeProxy | DeleteNodeProxy]:
    """Say which NodeProxies to make, to change and to delete now."""
    wanted: set[str] = set()
    for fleet in fleets:
        wanted.update(node.name for node in fleet.nodes)
        for node in fleet.nodes:
            if node.proxy is None:
                yield CreateNodeProxy(node.name, view.nodes[node.name].uid, fleet.spec)
        for name in to_update(fleet):
            version = view.versions.get(ObjectKey("NodeProxy", "", name), 0)
            yield UpdateNodeProxy(name, fleet.spec, version)
    for name in sorted(view.node_proxies.keys() - wanted):
        yield DeleteNodeProxy(name)
