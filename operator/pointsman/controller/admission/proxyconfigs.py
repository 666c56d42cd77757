"""The rules for ProxyConfigs; pure.

The schema refuses what one object can tell of itself. Here is what the typed model knows beyond that, and what needs
the rest of the cluster. The latter is never refused, as nodes and Services come and go: it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from pointsman.api.errors import FieldProblem, validation_problems
from pointsman.api.names import is_own_name
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.selection import select
from pointsman.controller.admission.causes import Cause, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.controller.admission.picture import Picture
    from pointsman.model.objects import Service

_NAMED: Final = 5
"""Objects that a warning names."""


def review_proxy_config(new: Any, old: Any, picture: Picture) -> Verdict:  # noqa: ANN401 -- any JSON
    """Judge a ProxyConfig.

    Args:
        new: what it shall be, as plain data.
        old: what it was; None for a new one.
        picture: the cluster.
    """
    if _part(new, "metadata").get("deletionTimestamp"):
        return Verdict()  # it is on its way out: whoever takes its finalizers off must not be stopped
    try:
        config = ProxyConfig.read(new)
    except ValidationError as error:
        causes = tuple(_cause(problem) for problem in validation_problems(error))
        if old is not None and _part(old, "spec") == _part(new, "spec"):
            return Verdict(warnings=tuple(f"{cause}; it was so before, and this update leaves it" for cause in causes))
        return Verdict(causes)
    return Verdict(warnings=(*_mode_warnings(config), *_cluster_warnings(config, picture)))


def _part(document: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 -- any JSON
    part = document.get(name) if isinstance(document, dict) else None
    return part if isinstance(part, dict) else {}


def _cause(problem: FieldProblem) -> Cause:
    if problem.message == "is missing":
        return Cause(problem.field, f"Required value: {problem.allowed}", "FieldValueRequired")
    value = problem.message.removesuffix(" is not allowed")
    return Cause(problem.field, f"Invalid value: {value}: allowed: {problem.allowed}", "FieldValueInvalid")


def _mode_warnings(config: ProxyConfig) -> Iterator[str]:
    wanted = config.spec.mode
    if is_own_name(wanted):
        fallbacks = config.spec.fallback_modes_in_force()
        yield (
            f"spec.mode: {wanted} is none of Pointsman's own: nodes are in that mode if the package that has it is in "
            f"the agents' image, else in mode {', or '.join(fallbacks)}"
        )


def _cluster_warnings(config: ProxyConfig, picture: Picture) -> Iterator[str]:
    nodes = picture.node_labels()
    if not nodes:
        yield from _left_outside(config, picture)
        return
    configs = {**picture.configs, config.name: config}
    selected = [name for name, labels in nodes.items() if _selects(config, labels)]
    winners = {name: select(configs.values(), nodes[name]) for name in selected}
    if not selected:
        yield "spec.nodeSelector: it selects none of the cluster's nodes"
    elif all(winner is not config for winner in winners.values()):
        stronger = _listed(list(dict.fromkeys(winner.name for winner in winners.values() if winner is not None)))
        yield f"spec.priority: no node gets it: ProxyConfig {stronger} wins on every node that it selects"
    else:
        yield from _left_outside(config, picture)
    yield from _ties(config, picture, selected, nodes)


def _ties(
    config: ProxyConfig, picture: Picture, selected: list[str], nodes: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Name other configurations of the same priority for the same nodes."""
    for other in picture.configs.values():
        if other.name == config.name or other.spec.priority != config.spec.priority:
            continue
        common = [name for name in selected if _selects(other, nodes[name])]
        if common:
            winner = min(config.name, other.name)
            yield (
                f"spec.priority: ProxyConfig {other.name} has the same ({config.spec.priority}) for nodes that both "
                f"select ({_listed(common)}): {winner} wins there, as the first by name"
            )


def _left_outside(config: ProxyConfig, picture: Picture) -> Iterator[str]:
    """Name the Services whose node ports were in the ranges until now, and no more are."""
    before = picture.configs.get(config.name)
    ranges = (config.spec.node_port_range, config.spec.node_port_ranges)
    if before is not None and ranges == (before.spec.node_port_range, before.spec.node_port_ranges):
        return
    outside = sorted(_outside(config, before, picture))
    if outside:
        yield (
            f"spec.nodePortRange: Services with node ports outside: {len(outside)}: {_listed(outside)}; "
            "these go on answering, and updates that leave them alone are admitted"
        )


def _outside(config: ProxyConfig, before: ProxyConfig | None, picture: Picture) -> Iterator[str]:
    for service in picture.node_port_services():
        labels = picture.namespace_labels(service.namespace)
        wanted = config.spec.node_port_range_in(labels)
        past = before.spec.node_port_range_in(labels) if before is not None else None
        ports = [p for p in _node_ports(service) if not wanted.holds(p) and (past is None or past.holds(p))]
        if ports:
            yield f"{service.namespace}/{service.name} ({', '.join(map(str, ports))})"


def _node_ports(service: Service) -> list[int]:
    ports = [port.node_port for port in service.ports if port.node_port]
    return [*ports, service.health_check_node_port] if service.health_check_node_port else ports


def _selects(config: ProxyConfig, labels: Mapping[str, str]) -> bool:
    return config.spec.node_selector is None or config.spec.node_selector.matches(labels)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
