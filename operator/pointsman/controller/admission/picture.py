"""What the rules ask of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.api.proxyconfig import ProxyConfig
    from pointsman.api.values import PortRange
    from pointsman.model.objects import Service
    from pointsman.model.plan import Transport


class Picture(Protocol):
    """The cluster as the rules see it."""

    @property
    def configs(self) -> Mapping[str, ProxyConfig]:
        """All ProxyConfigs, by name."""
        ...

    def effective_configs(self) -> tuple[ProxyConfig, ...]:
        """Return the ProxyConfigs that some node gets; all of them while no node is known."""
        ...

    def node_port_ranges(self, namespace: str) -> tuple[tuple[str, PortRange], ...]:
        """Return the ranges that hold in a namespace, each with its ProxyConfig's name; at least one."""
        ...

    def node_port_users(self, port: int, protocol: Transport) -> tuple[str, ...]:
        """Return the Services (``namespace/name``) that have a node port."""
        ...

    def node_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each node, by its name."""
        ...

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace; none of one that is not known."""
        ...

    def node_port_services(self) -> Iterable[Service]:
        """Return the Services that have node ports."""
        ...
