"""What is wrong in the cluster as each ProxyConfig sees it; pure.

Looked at is what can be wrong alone: Services with node ports, Services that ask for a scheduler, nodes. Ten thousand
Services take some milliseconds.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.api.names import SCHEDULER_ANNOTATION, in_order, is_own_name
from pointsman.api.schedulers import is_known, may_have, nearest, schedulers_of
from pointsman.api.selection import select
from pointsman.api.status import ReportedProblem
from pointsman.controller.nodes import named
from pointsman.model.objects import ObjectKey
from pointsman.model.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.values import PortRange
    from pointsman.controller.nodes import Fleet
    from pointsman.controller.view import View
    from pointsman.model.objects import Service

MAX_REPORTED: Final = 50
"""Problems in one status."""
_MAX_WORDS: Final = 500


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        regarding: the object that it is wrong with.
        uid: its `metadata.uid`, or "".
        reason: why, as one word for programs.
        field: path in the object, or "".
        message: what is wrong, with the value.
        remedy: what to do about it.
    """

    regarding: ObjectKey
    uid: str
    reason: str
    field: str
    message: str
    remedy: str

    def reported(self) -> ReportedProblem:
        """Write it as a status has it."""
        return ReportedProblem(
            object=_short(str(self.regarding)),
            field=_short(self.field),
            message=_short(self.message),
            remedy=_short(self.remedy),
        )


def findings(view: View, fleet: Fleet, unready: Mapping[str, str]) -> tuple[Finding, ...]:
    """Find what is wrong as one ProxyConfig sees the cluster, in any order.

    Args:
        view: the cluster.
        fleet: the ProxyConfig and its nodes.
        unready: why agents are not ready, by their nodes; those that have not been for long enough to be told.
    """
    if view.nodes and not fleet.nodes:
        return (_unused(view, fleet.config),)
    found = [*_out_of_range(view, fleet.config), *_without_scheduler(view, fleet), *_unserved(view, fleet, unready)]
    return tuple(found)


def reported(found: Iterable[Finding]) -> tuple[tuple[ReportedProblem, ...], int]:
    """Write findings as a status has them: the first ones by the names of the objects, and how many there are."""
    every = tuple(found)
    return tuple(each.reported() for each in nsmallest(MAX_REPORTED, every, key=_place)), len(every)


def _unused(view: View, config: ProxyConfig) -> Finding:
    selector = config.spec.node_selector
    labels = view.node_labels()
    selected = [name for name, own in labels.items() if selector is None or selector.matches(own)]
    key = ObjectKey("ProxyConfig", "", config.name)
    if not selected:
        message = "it selects none of the cluster's nodes"
        return Finding(key, config.uid, "NoNodes", "spec.nodeSelector", message, "correct it, or label nodes")
    winners = (select(view.configs.values(), labels[name]) for name in selected)
    names = named(sorted({winner.name for winner in winners if winner is not None}))
    message = f"no node gets it: ProxyConfig {names} wins on every node that it selects"
    return Finding(key, config.uid, "NoNodes", "spec.priority", message, "raise it, or delete the ProxyConfig")


def _out_of_range(view: View, config: ProxyConfig) -> Iterator[Finding]:
    ranges: dict[str, PortRange] = {}
    for entry, service in view.catalog.services(view.catalog.node_port_keys):
        wanted = ranges.get(service.namespace)
        if wanted is None:
            wanted = ranges[service.namespace] = config.spec.node_port_range_in(
                view.namespace_labels(service.namespace)
            )
        low, high = wanted
        for index, port in enumerate(service.ports):
            if port.node_port and not low <= port.node_port <= high:
                yield _outside(service, entry.uid, f"spec.ports[{index}].nodePort", port.node_port, wanted)
        if service.health_check_node_port and not low <= service.health_check_node_port <= high:
            field = "spec.healthCheckNodePort"
            yield _outside(service, entry.uid, field, service.health_check_node_port, wanted)


def _outside(service: Service, uid: str, field: str, port: int, wanted: PortRange) -> Finding:
    return Finding(
        _key(service),
        uid,
        "NodePortOutOfRange",
        field,
        f"{port} is outside of the range {wanted}; it is served all the same",
        "choose a port of the range, or correct spec.nodePortRange or spec.nodePortRanges of the ProxyConfig",
    )


def _without_scheduler(view: View, fleet: Fleet) -> Iterator[Finding]:
    modes = _modes(fleet)
    lacking = {
        scheduler: _said_of(scheduler, [mode for mode in modes if not may_have(mode, scheduler)])
        for scheduler in {service.scheduler or "" for _, service in view.catalog.services(view.catalog.scheduler_keys)}
    }
    for entry, service in view.catalog.services(view.catalog.scheduler_keys):
        where = lacking[service.scheduler or ""]
        if where:
            yield Finding(
                _key(service),
                entry.uid,
                "SchedulerNotSupported",
                f"metadata.annotations[{SCHEDULER_ANNOTATION}]",
                f'"{service.scheduler}" is no scheduler of {where}',
                "choose a scheduler of that mode",
            )


def _said_of(scheduler: str, modes: list[Mode]) -> str:
    """Say which modes do not have a scheduler, and what their nodes use as far as their kernels have it."""
    return " and ".join(
        f"mode {mode} (has {', '.join(schedulers_of(mode))}; used is {_used(scheduler, mode)})" for mode in modes
    )


def _used(scheduler: str, mode: Mode) -> str:
    is_somewhere = is_known(scheduler) or is_own_name(scheduler)
    return nearest(scheduler, mode, schedulers_of(mode)) if is_somewhere else "the ProxyConfig's"


def _modes(fleet: Fleet) -> tuple[Mode, ...]:
    """Return the modes that the nodes are in; of those that do not say, the wanted one."""
    modes = {(node.proxy.status.mode if node.proxy else None) or fleet.config.spec.mode for node in fleet.nodes}
    return in_order(modes or {fleet.config.spec.mode})


def _unserved(view: View, fleet: Fleet, unready: Mapping[str, str]) -> Iterator[Finding]:
    members = [node.name for node in fleet.nodes if node.name in unready]
    if not members:
        return
    counts = view.catalog.ready_endpoints()
    for name in members:
        if counts.get(name):
            yield Finding(
                ObjectKey("Node", "", name),
                view.nodes[name].uid,
                "AgentNotReady",
                "",
                f"it has {_ready_endpoints(counts[name])}, and its agent is not ready: {unready[name]}",
                "see its NodeProxy, and the agent's log on this node",
            )


def _place(finding: Finding) -> tuple[str, str, str, str]:
    regarding = finding.regarding
    return regarding.namespace, regarding.name, finding.field, finding.message


def _key(service: Service) -> ObjectKey:
    return ObjectKey("Service", service.namespace, service.name)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MAX_WORDS else f"{text[: _MAX_WORDS - 1]}…"


def _ready_endpoints(count: int) -> str:
    return f"{count} ready endpoint" if count == 1 else f"{count} ready endpoints"
