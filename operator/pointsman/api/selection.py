"""Which ProxyConfig a node gets; the agent and the operator ask the same function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.proxyconfig import ProxyConfig


def select(configs: Iterable[ProxyConfig], node_labels: Mapping[str, str]) -> ProxyConfig | None:
    """Choose the configuration of a node.

    Args:
        configs: all ProxyConfig objects, in any order.
        node_labels: the node's labels.

    Returns:
        Of those whose `spec.nodeSelector` matches (an absent one matches every node) the one with the highest
        `spec.priority`; among equals the first by name. None when none matches.
    """
    matching = (c for c in configs if c.spec.node_selector is None or c.spec.node_selector.matches(node_labels))
    return min(matching, key=lambda config: (-config.spec.priority, config.name), default=None)
