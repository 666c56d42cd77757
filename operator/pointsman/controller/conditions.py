"""The condition `pointsman.dev/Programmed` of Services; pure.

It is True when the kernel of each ready node holds the newest form of the Service and of its EndpointSlices. Asked are
the nodes whose NodeProxy has `serviceConditions` and whose agent is `Ready`: the others do not say in time which
resourceVersions they hold. While no such node is there, what stands is left alone, unless the Service changed: kernels
keep what they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.api.names import GROUP
from pointsman.api.status import Condition
from pointsman.api.timestamps import rfc3339
from pointsman.controller.actions import PatchServiceCondition
from pointsman.controller.nodes import is_ready, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.api.status import ConditionStatus
    from pointsman.controller.catalog import ServiceEntry
    from pointsman.controller.view import View

PROGRAMMED: Final = f"{GROUP}/Programmed"
MAX_AT_ONCE: Final = 200
"""Writes that are asked for in one pass, so that ten thousand of them do not hold up a rollout."""
_NAMED: Final = 2


class Holding(NamedTuple):
    """What a node's kernel holds at the least.

    Attributes:
        node: its name.
        services: the newest resourceVersion of Services.
        slices: the newest resourceVersion of EndpointSlices.
    """

    node: str
    services: int
    slices: int

    def has(self, entry: ServiceEntry) -> bool:
        """Tell whether that includes the newest form of a Service."""
        return self.services >= entry.form_version and self.slices >= entry.slices_version


class Judge:
    """Remembers which Services have to be looked at again, so that a quiet cluster costs nothing.

    Attributes:
        is_behind: there is more to write than was returned last.
    """

    def __init__(self) -> None:
        self.is_behind = False
        self._open: set[str] = set()
        self._last = ""
        self._asked: tuple[Holding, ...] = ()
        self._least = _least(())
        self._on = False
        self._switching = False

    def judge(self, view: View, now: float) -> tuple[PatchServiceCondition, ...]:
        """Say which conditions have to be written.

        Args:
            view: the cluster; its dirty Services are taken.
            now: Unix seconds.
        """
        on = any(config.spec.service_conditions for config in view.effective_configs())
        asked = holdings(view) if on else ()
        self._switching = on and _is_switching(view)
        if on != self._on or _asks_more(self._asked, asked):
            self._open.update(view.catalog.entries)
        self._on, self._asked, self._least = on, asked, _least(asked)
        self._open |= view.take_dirty()
        actions: list[PatchServiceCondition] = []
        # On from where the last portion ended: Services whose writes are refused must not keep the others waiting.
        for key in sorted(self._open, key=lambda each: (each <= self._last, each)):
            status = self._flip(key, view.catalog.entries.get(key))
            if status is not None:
                actions.append(self._action(key, view.catalog.entries[key], status, now))
                if len(actions) == MAX_AT_ONCE:
                    break
        self.is_behind = len(actions) == MAX_AT_ONCE
        self._last = f"{actions[-1].namespace}/{actions[-1].name}" if self.is_behind else ""
        return tuple(actions)

    def _flip(self, key: str, entry: ServiceEntry | None) -> str | None:
        """Return the status that a condition has to get ("": it has to go); None when it may stay as it is."""
        if entry is None or entry.service is None:
            self._open.discard(key)
            return None
        wanted = self._wanted(entry)
        if wanted != entry.condition:
            return wanted  # It stays open until the view shows it.
        entry.judged = entry.forms
        if wanted != "False":
            self._open.discard(key)
        return None

    def _wanted(self, entry: ServiceEntry) -> str:
        if not self._on or entry.service is None or entry.service.ignored:
            return ""
        if self._switching and not entry.condition:
            return ""  # its first one speaks for all nodes, not for those that were told first
        if not self._asked:
            return entry.condition if entry.condition and entry.judged in (-1, entry.forms) else "False"
        return "True" if self._least.has(entry) else "False"

    def _action(self, key: str, entry: ServiceEntry, status: str, now: float) -> PatchServiceCondition:
        namespace, _, name = key.partition("/")
        if not status:
            return PatchServiceCondition(namespace, name, None)
        waiting = [each.node for each in self._asked if not each.has(entry)]
        if status == "True":
            count = len(self._asked)
            said = _condition("True", "InEveryKernel", f"in the kernel of {count} of {count} ready nodes", now)
        elif waiting:
            said = _condition("False", "WaitingForNodes", f"waiting for {named(waiting, shown=_NAMED)}", now)
        else:
            said = _condition("False", "NoReadyNode", "no node with spec.serviceConditions is ready", now)
        return PatchServiceCondition(namespace, name, said)


def holdings(view: View) -> tuple[Holding, ...]:
    """Return what the nodes hold that are asked, in the order of their names."""
    asked = (view.node_proxies[name] for name in sorted(view.node_proxies.keys() & view.nodes.keys()))
    return tuple(_holding(each) for each in asked if each.spec.service_conditions and is_ready(each, view.silent))


def _is_switching(view: View) -> bool:
    """Tell whether a ready node has yet to hear that Services get conditions."""
    wanted = {
        node for node, config in view.selection().items() if config is not None and config.spec.service_conditions
    }
    proxies = (view.node_proxies[name] for name in wanted & view.node_proxies.keys())
    return any(not each.spec.service_conditions and is_ready(each, view.silent) for each in proxies)


def _holding(proxy: NodeProxy) -> Holding:
    held = proxy.status.resource_versions
    return Holding(proxy.name, _number(held.services), _number(held.endpoint_slices))


def _least(asked: Iterable[Holding]) -> Holding:
    """Return what all of the nodes hold, so that a Service need not be compared with each of a thousand."""
    every = tuple(asked)
    services = min((each.services for each in every), default=0)
    return Holding("", services, min((each.slices for each in every), default=0))


def _number(version: str) -> int:
    return int(version) if version.isascii() and version.isdigit() else 0


def _asks_more(before: Iterable[Holding], after: Iterable[Holding]) -> bool:
    """Tell whether a node is asked that was not, or holds less than it did: what was True may be so no more."""
    known = {each.node: each for each in before}
    return any(
        (old := known.get(new.node)) is None or new.services < old.services or new.slices < old.slices for new in after
    )


def _condition(status: ConditionStatus, reason: str, message: str, now: float) -> Condition:
    return Condition(type=PROGRAMMED, status=status, reason=reason, message=message, last_transition_time=rfc3339(now))
