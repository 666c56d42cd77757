"""Which configurations count for a Service; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.api.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.proxyconfig import ProxyConfig


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
