"""What holds for the whole node: from the configuration, the Node and ServiceCIDR objects; pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from pointsman.api.schedulers import default_scheduler, schedulers_of
from pointsman.model.address import family_of
from pointsman.model.plan import IPV4, IPV6, IptablesSettings, IpvsSettings, NodeSettings, UserspaceSettings
from pointsman.model.problems import Problem
from pointsman.policy.schedulers import not_there, remedy_for, scheduler_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.objects import Node, ServiceCIDR

_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")
_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_ROUTED_LOOPBACK: Final = "iptables"
"""The mode in which loopback has to be routed for node ports; IPv4 alone can be."""
_PROXIED_LOOPBACK: Final = ("nftables", "userspace")
"""Modes in which node ports answer on loopback through the userspace proxy, so that no network stands for them."""
_WITHOUT_LOOPBACK: Final = ("ipvs",)
"""Modes without node ports on loopback; in kube-proxy it is the same (`pkg/proxy/ipvs/README.md`)."""
_FIELD: Final = "spec.nodePortAddresses"
_OPT_IN: Final = "spec.iptables.localhostNodePorts"


def node_settings(
    config: NodeConfiguration,
    node: Node | None,
    addresses: tuple[str, ...],
    service_cidrs: Iterable[ServiceCIDR],
    *,
    mode: Mode = "nftables",
) -> NodeSettings:
    """Work out the settings of a node.

    Args:
        config: its configuration.
        node: its Node object, if there is one.
        addresses: its own addresses, the most important of each family first.
        service_cidrs: all ServiceCIDR objects; when there is one, the configuration's networks don't count.
        mode: the dataplane in force, whatever the configuration asks for.
    """
    pod_cidrs = config.pod_cidrs
    if config.local_detection == "NodeCIDR":
        pod_cidrs = node.pod_cidrs if node is not None else ()
    objects = list(service_cidrs)
    networks = [cidr for entry in objects for cidr in entry.cidrs] if objects else config.service_cidrs
    return NodeSettings(
        pod_cidrs=_distinct(pod_cidrs),
        service_cidrs=_distinct(networks),
        node_port_cidrs=_distinct(_node_port_cidrs(config, addresses, mode)),
        drop_invalid=not config.conntrack.tcp_be_liberal,
        sync_period=config.sync_period,
        drain_timeout=config.drain_timeout,
        localhost_node_ports=mode in _PROXIED_LOOPBACK and "localhost" in config.node_port_addresses_in(mode),
        ipvs=_ipvs(config),
        iptables=IptablesSettings(config.iptables.masquerade_bit, routes_loopback(config, mode)),
        userspace=UserspaceSettings(config.userspace.udp_idle_timeout),
    )


def settings_problems(
    config: NodeConfiguration,
    addresses: tuple[str, ...],
    *,
    configured_by: str,
    node_name: str,
    node_ports: bool,
    mode: Mode = "nftables",
    schedulers: tuple[str, ...] | None = None,
) -> list[Problem]:
    """Say what is wrong with the configuration on this node.

    Args:
        config: the configuration in force.
        addresses: the node's own addresses.
        configured_by: the object that it comes from, for people.
        node_name: this node's name.
        node_ports: some Service has a node port.
        mode: the dataplane in force.
        schedulers: those that the node has in this mode; None: all of them.
    """
    wanted = config.node_port_addresses_in(mode)
    problems = _mode_problems(config, configured_by, mode)
    there = schedulers_of(mode) if schedulers is None else schedulers
    problems += _scheduler_problems(config, configured_by, mode, there)
    problems += _loopback_problems(config, configured_by, mode)
    if "primary" in wanted and node_ports and not addresses:
        problems.append(
            Problem(
                source="",
                object=f"Node {node_name}",
                field="status.addresses",
                message='the node\'s addresses are not known, so that node ports do not answer on "primary"',
                remedy=f"add the Node object with its InternalIP, or write networks in {_FIELD}",
                dropped="node ports",
            )
        )
    return problems


def routes_loopback(config: NodeConfiguration, mode: Mode) -> bool:
    """Tell whether loopback has to be routed for node ports, so that they answer on 127.0.0.1.

    That weakens the node, so `localhost` in `nodePortAddresses`, which is harmless in other modes, does not do.
    kube-proxy wants both as well (``NewProxier`` in ``pkg/proxy/iptables/proxier.go``).
    """
    wanted = config.node_port_addresses_in(mode)
    return mode == _ROUTED_LOOPBACK and config.iptables.localhost_node_ports and any(map(_has_loopback, wanted))


def primary_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the first address of each family, as kube-proxy understands ``primary`` (KEP-3866)."""
    first: dict[int, str] = {}
    for address in addresses:
        first.setdefault(family_of(address), address)
    return tuple(first.values())


def _loopback_problems(config: NodeConfiguration, configured_by: str, mode: Mode) -> list[Problem]:
    """Tell of node ports that are asked for on loopback, and do not answer there."""

    def problem(field: str, message: str, remedy: str, dropped: str) -> list[Problem]:
        return [Problem("", configured_by, field, message, remedy=remedy, dropped=dropped)]

    wanted = config.node_port_addresses_in(mode)
    if "localhost" in wanted and mode in _WITHOUT_LOOPBACK:
        message = f'"localhost": node ports on loopback are not served in mode {mode}'
        return problem(_FIELD, message, "connect to an address of the node", "this entry")
    if mode != _ROUTED_LOOPBACK:
        return []
    if "localhost" in wanted and not config.iptables.localhost_node_ports:
        message = f'"localhost": node ports on loopback are not served in mode {mode} without {_OPT_IN}'
        return problem(_FIELD, message, f"set {_OPT_IN}: true, or connect to an address of the node", "this entry")
    if config.iptables.localhost_node_ports and not any(map(_has_loopback, wanted)):
        message = f"node ports do not answer on 127.0.0.1, as {_FIELD} leaves it out"
        return problem(_OPT_IN, message, f'add "localhost" to {_FIELD}, or take this field out', "this setting")
    return []


def _has_loopback(entry: str) -> bool:
    """Tell whether an entry of `nodePortAddresses` takes in 127.0.0.1, or a neighbour of it."""
    if entry in {"all", "localhost"}:
        return True
    if entry == "primary":
        return False
    network = ipaddress.ip_network(entry)
    return network.version == IPV4 and network.overlaps(ipaddress.ip_network(_LOOPBACK[0]))


def _mode_problems(config: NodeConfiguration, configured_by: str, mode: Mode) -> list[Problem]:
    """Tell of a mode in force that nobody asked for. One of the fallbacks is no problem: `ModeInForce` says it."""
    fallbacks = config.fallback_modes_in_force()
    if mode in (config.mode, *fallbacks):
        return []
    asked = ", ".join(dict.fromkeys((config.mode, *fallbacks)))
    return [
        Problem(
            source="",
            object=configured_by,
            field="spec.mode",
            message=f"this node supports none of {asked}; {mode} is in force",
            remedy=f"see ModeInForce of its NodeProxy, or write {mode} into spec.mode or spec.fallbackModes",
            dropped="the mode",
        )
    ]


def _scheduler_problems(
    config: NodeConfiguration, configured_by: str, mode: Mode, schedulers: tuple[str, ...]
) -> list[Problem]:  # fmt: skip
    """Tell of the scheduler for all Services, where another one has to be used."""
    wanted = config.scheduler or default_scheduler(mode, schedulers)
    used = scheduler_in(config, mode, schedulers)
    if used == wanted:
        return []
    return [
        Problem(
            source="",
            object=configured_by,
            field="spec.scheduler",
            message=not_there(wanted, used, mode),
            remedy=remedy_for(wanted, mode, config.mode, schedulers),
            dropped="the scheduler",
        )
    ]


def _ipvs(config: NodeConfiguration) -> IpvsSettings:
    ipvs = config.ipvs
    return IpvsSettings(
        exclude_cidrs=_distinct(ipvs.exclude_cidrs),
        graceful_termination=ipvs.graceful_termination,
        tcp_timeout=ipvs.tcp_timeout,
        tcp_fin_timeout=ipvs.tcp_fin_timeout,
        udp_timeout=ipvs.udp_timeout,
    )


def _node_port_cidrs(config: NodeConfiguration, addresses: tuple[str, ...], mode: Mode) -> list[str]:
    cidrs: list[str] = []
    for entry in config.node_port_addresses_in(mode):
        match entry:
            case "primary":
                cidrs += [f"{a}/{32 if family_of(a) == IPV4 else 128}" for a in primary_addresses(addresses)]
            case "all":
                cidrs += _EVERYWHERE
            case "localhost":
                cidrs += _LOOPBACK if mode not in (*_PROXIED_LOOPBACK, *_WITHOUT_LOOPBACK) else ()
            case network:
                cidrs.append(network)
    return cidrs


def _distinct(cidrs: Iterable[str]) -> tuple[str, ...]:
    """Sort networks and leave out those that another one holds, so that equal settings are written equally."""
    sorted_by_family: list[str] = []
    parsed = [ipaddress.ip_network(cidr) for cidr in cidrs]
    for version in (IPV4, IPV6):
        of_family = [network for network in parsed if network.version == version]
        sorted_by_family += [str(network) for network in ipaddress.collapse_addresses(of_family)]  # type: ignore[type-var]  # one family
    return tuple(sorted_by_family)
