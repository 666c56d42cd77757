"""How a node stands, as its NodeProxy tells; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.api.nodeproxy import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.nodeproxy import NodeProxy, NodeProxySpec
    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.status import Condition
    from pointsman.controller.view import View

READY: Final = "Ready"
MODE_IN_FORCE: Final = "ModeInForce"
AGENT_SILENT: Final = "AgentSilent"
_FAULTS: Final = frozenset({"SyncFailed", "ElementsRefused", AGENT_SILENT})
"""Reasons of `Ready` that do not go by themselves; `NotSynced` does."""
_NAMED: Final = 3
_MAX_WORDS: Final = 300


class NodeState(NamedTuple):
    """How a node stands with its configuration.

    Attributes:
        name: of the node.
        proxy: its NodeProxy, or None before it has one.
        updated: the NodeProxy says what the ProxyConfig says now.
        unavailable: why its agent does not say that all is in force and the kernel up to date; "" when it does.
        fault: what of that does not go by itself, or "".
        started: an agent has worked here.
        silent: it has, and gives no sign of life now.
    """

    name: str
    proxy: NodeProxy | None
    updated: bool
    unavailable: str
    fault: str
    started: bool = False
    silent: bool = False

    @property
    def ready(self) -> bool:
        """Whether the configuration of now is in force."""
        return self.updated and not self.unavailable


class Fleet(NamedTuple):
    """A ProxyConfig with the nodes that get it.

    Attributes:
        config: the ProxyConfig.
        spec: what it means for a node.
        nodes: in the order of their names.
    """

    config: ProxyConfig
    spec: NodeProxySpec
    nodes: tuple[NodeState, ...]


def fleets(view: View) -> tuple[Fleet, ...]:
    """Return all ProxyConfigs with their nodes, by name; a node is with the one that it gets."""
    members: dict[str, list[str]] = {name: [] for name in sorted(view.configs)}
    for node, config in view.selection().items():
        if config is not None:
            members[config.name].append(node)
    return tuple(_fleet(view, view.configs[name], nodes) for name, nodes in members.items())


def condition(proxy: NodeProxy, kind: str) -> Condition | None:
    """Return a condition of a NodeProxy."""
    return next((each for each in proxy.status.conditions if each.type == kind), None)


def is_told_silent(proxy: NodeProxy) -> bool:
    """Tell whether the operator's word that a node's agent is silent stands in its NodeProxy: the agent ends it."""
    ready = condition(proxy, READY)
    return ready is not None and ready.reason == AGENT_SILENT


def is_ready(proxy: NodeProxy, silent: frozenset[str]) -> bool:
    """Tell whether a node's agent lives, and its kernel is up to date, whichever configuration is in force."""
    ready = condition(proxy, READY)
    return proxy.name not in silent and ready is not None and ready.status == "True"


def named(words: Iterable[str], separator: str = ", ", shown: int = _NAMED) -> str:
    """Write a list for people: the first few, and how many more."""
    every = list(words)
    more = f" and {len(every) - shown} more" if len(every) > shown else ""
    return separator.join(every[:shown]) + more


def _fleet(view: View, config: ProxyConfig, nodes: list[str]) -> Fleet:
    spec = resolve(config)
    return Fleet(config, spec, tuple(_state(name, spec, view.node_proxies, view.silent) for name in nodes))


def _state(name: str, spec: NodeProxySpec, proxies: Mapping[str, NodeProxy], silent_nodes: frozenset[str]) -> NodeState:
    proxy = proxies.get(name)
    if proxy is None:
        return NodeState(name, None, updated=False, unavailable="it has no NodeProxy yet", fault="")
    silent = name in silent_nodes or is_told_silent(proxy)
    unavailable, fault = _unavailable(proxy, is_silent=silent)
    started = proxy.status.mode is not None
    return NodeState(
        name, proxy, proxy.spec == spec, unavailable, unavailable if fault else "", started, silent and started
    )


def _unavailable(proxy: NodeProxy, *, is_silent: bool) -> tuple[str, bool]:
    """Say why a node is unavailable, and whether that is a fault."""
    ready, mode = condition(proxy, READY), condition(proxy, MODE_IN_FORCE)
    if is_silent:
        return "no sign of life from its agent", True
    if proxy.status.observed_generation < proxy.generation or ready is None or mode is None:
        return "its agent does not report this configuration in force yet", False
    if mode.status != "True":
        return _said(mode), True
    if ready.status != "True":
        return _said(ready), ready.reason in _FAULTS
    return "", False


def _said(condition: Condition) -> str:
    words = f"{condition.reason}: {condition.message}" if condition.message else condition.reason
    return words if len(words) <= _MAX_WORDS else f"{words[: _MAX_WORDS - 1]}…"
