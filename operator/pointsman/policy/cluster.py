"""What the planner knows of the cluster besides Services and endpoints, and what follows for this node; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.api.proxyconfig import NodeConfiguration, ProxyConfig
from pointsman.api.schedulers import schedulers_of
from pointsman.api.selection import select
from pointsman.policy.context import Context, build_context
from pointsman.policy.schedulers import there
from pointsman.policy.settings import node_settings, settings_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.names import Mode
    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.api.values import PortRange
    from pointsman.model.objects import Namespace, Node, ServiceCIDR
    from pointsman.model.plan import NodeSettings
    from pointsman.model.problems import Problem
    from pointsman.policy.own_schedulers import Scheduler

_DEFAULTS = NodeConfiguration()


class Cluster:
    """Configurations, this Node, ServiceCIDRs, Namespaces.

    Change the attributes and call `resolve`; what follows is in `config`, `settings` and `context`.

    Attributes:
        mode: the dataplane in force.
        schedulers: those that the node has in this mode.
        own_schedulers: those of somebody's own that are installed, by name.
        configs, service_cidrs: objects by name.
        namespaces: labels by name.
        node: this node's own object, or None.
        node_proxy: the newest configuration that the operator resolved for this node; it wins over all others. One
            that is deleted stays in force: whoever deletes it wants no other rules until there is a new one.
        config: the configuration in force.
        settings: the plan's settings.
        context: what every Service's plan depends on.
    """

    def __init__(
        self,
        node_name: str,
        override: NodeConfiguration | None,
        found_addresses: tuple[str, ...],
        mode: Mode,
        own_schedulers: Mapping[str, Scheduler],
    ) -> None:
        self.node_name = node_name
        self.mode = mode
        self.schedulers = there(mode, schedulers_of(mode), own_schedulers)
        self.own_schedulers = own_schedulers
        self.configs: dict[str, ProxyConfig] = {}
        self.service_cidrs: dict[str, ServiceCIDR] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.node: Node | None = None
        self.node_proxy: NodeProxy | None = None
        self._override = override
        self._found_addresses = found_addresses
        self._configured_by = "ProxyConfig"
        self.config: NodeConfiguration
        self.settings: NodeSettings
        self.context: Context
        self.resolve()

    def resolve(self) -> None:
        """Work out what follows from the objects."""
        self.config = self._choose_config()
        addresses, mode = self.addresses, self.mode
        self.settings = node_settings(self.config, self.node, addresses, self.service_cidrs.values(), mode=mode)
        self.context = build_context(
            self.node_name,
            self.config,
            self.settings,
            self.node,
            addresses,
            mode=mode,
            schedulers=self.schedulers,
            own_schedulers=self.own_schedulers,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """The node's addresses: those of its Node object, or, without any, those that the agent found."""
        return (self.node.addresses if self.node is not None else ()) or self._found_addresses

    def node_port_range(self, namespace: str) -> PortRange:
        """Return the node ports that Services of a namespace should have."""
        if not self.config.node_port_ranges:
            return self.config.node_port_range  # spares the labels of 10,000 Services' namespaces
        known = self.namespaces.get(namespace)
        return self.config.node_port_range_in(dict(known.labels) if known is not None else {})

    def problems(self, *, node_ports: bool) -> list[Problem]:
        """Say what is wrong with the configuration on this node; `node_ports`: some Service has one."""
        return settings_problems(
            self.config,
            self.addresses,
            configured_by=self._configured_by,
            node_name=self.node_name,
            node_ports=node_ports,
            mode=self.mode,
            schedulers=self.schedulers,
        )

    def _choose_config(self) -> NodeConfiguration:
        if self.node_proxy is not None:
            spec = self.node_proxy.spec
            self._configured_by = f"ProxyConfig {spec.proxy_config}"
            return spec
        self._configured_by = "ProxyConfig"
        if self._override is not None:
            return self._override
        chosen = select(self.configs.values(), dict(self.node.labels) if self.node is not None else {})
        if chosen is None:
            return _DEFAULTS
        self._configured_by = f"ProxyConfig {chosen.name}"
        return chosen.spec
