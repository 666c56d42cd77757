"""Which node ports a configuration allows in a namespace; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.api.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.values import PortRange


def range_in(config: ProxyConfig, namespace_labels: Mapping[str, str]) -> PortRange:
    """Return the node ports that Services of a namespace may have: its own range, or the one for all."""
    own = (entry.range for entry in config.spec.node_port_ranges if entry.namespace_selector.matches(namespace_labels))
    return next(own, config.spec.node_port_range)


def effective(configs: Iterable[ProxyConfig], nodes: Iterable[Mapping[str, str]]) -> tuple[ProxyConfig, ...]:
    """Return the configurations that some node gets, by name; all of them while no node is known.

    Args:
        configs: all of them.
        nodes: the labels of each node.
    """
    by_name = sorted(configs, key=lambda config: config.name)
    labels = list(nodes)
    if not labels:
        return tuple(by_name)
    chosen = {config.name for config in (select(by_name, each) for each in labels) if config is not None}
    return tuple(config for config in by_name if config.name in chosen)
