"""What there is to do now: the one function that the operator asks after each change, and when time alone is due; pure.

It is level-triggered: what it says follows from the view, whatever the way there was. `Memory` holds what the cluster
does not: since when nothing goes on, and what has been told already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pointsman.controller.actions import Action
    from pointsman.controller.view import View


class Memory:
    """What the operator remembers between two calls of `reconcile`; a new one is as good, but may tell twice."""


def reconcile(view: View, memory: Memory, now: float) -> tuple[Action, ...]:
    """Say what there is to do.

    The caller does all of it before it asks again, and puts what the API server answers into the view (`view.put`, or
    `view.remove` of what it deleted, `view.put_condition`): what is not in the view counts as not done, and is said
    again. A write that fails may be left: it is said again too.

    Args:
        view: the cluster. Nothing is done before `Node`, `ProxyConfig` and `NodeProxy` are listed (`view.mark_listed`);
            nothing about Services before `Service`, `EndpointSlice` and `Namespace` are.
        memory: of this function alone; changed.
        now: Unix seconds.

    Returns:
        Actions in the order in which to do them.
    """
    raise NotImplementedError


def next_due(view: View, memory: Memory, now: float) -> float | None:
    """Return the seconds until time alone makes something due; None: only a change of the view does."""
    raise NotImplementedError
