"""From a KubeProxyConfiguration to the ProxyConfig that does the same; pure.

What is said of a field is said only where it has another value than kube-proxy's default: nobody asked for that one.
Defaults of kube-proxy that are not Pointsman's in the same mode are written out, with one exception: ``minSyncPeriod``.
There it is 1 s because a sync is dear; here it would only make changes slow.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pointsman.api.kubeproxy import HEALTHZ, METRICS, KubeProxyConfiguration, leaves, split_address, unknown
from pointsman.api.names import API_VERSION
from pointsman.api.proxyconfig import NodeConfiguration, ProxyConfig
from pointsman.api.resource import read_document, without_nulls
from pointsman.api.values import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.api.names import Mode

_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")
_LOCALHOST_GATE: Final = "KubeProxyNFTablesLocalhostNodePorts"
_WINDOWS: Final = "of Windows nodes, which Pointsman does not serve: they keep kube-proxy"
_LOG: Final = "no counterpart; the agent writes a line at a time to its standard error"
_CLIENT: Final = "no counterpart; the agent's connection to the API server needs no tuning"
_FORMER: Final = "kube-proxy itself has not had it since 1.26; without effect"
_UNMARKED: Final = "no packet is marked for masquerading, so rules of yours that look for the mark find nothing"

_NO_COUNTERPART: Final[Mapping[str, str]] = {
    "clientConnection.kubeconfig": "no counterpart; the agent uses its Pod's ServiceAccount, and the API server that "
    "the chart values apiServer.host and apiServer.port name. Outside of a cluster: pointsman agent --kubeconfig FILE",
    "clientConnection.acceptContentTypes": _CLIENT,
    "clientConnection.contentType": _CLIENT,
    "clientConnection.qps": _CLIENT,
    "clientConnection.burst": _CLIENT,
    "logging.format": "not of a ProxyConfig: set the chart value logFormat (text or json)",
    "logging.flushFrequency": _LOG,
    "logging.verbosity": "not of a ProxyConfig: set the chart value agent.verbose to have every sync logged",
    "logging.vmodule": _LOG,
    "logging.options.text.splitStream": _LOG,
    "logging.options.text.infoBufferSize": _LOG,
    "logging.options.json.splitStream": _LOG,
    "logging.options.json.infoBufferSize": _LOG,
    "hostnameOverride": "no counterpart; an agent of the chart knows its Node. Outside of a cluster: "
    "pointsman agent --node-name NAME",
    "bindAddressHardFail": "no counterpart; an address that is taken is tried again, and nothing else waits for it",
    "enableProfiling": "no counterpart",
    "showHiddenMetricsForVersion": "no counterpart; no metric is hidden",
    "winkernel.networkName": _WINDOWS,
    "winkernel.sourceVip": _WINDOWS,
    "winkernel.enableDSR": _WINDOWS,
    "winkernel.rootHnsEndpointName": _WINDOWS,
    "winkernel.forwardHealthCheckVip": _WINDOWS,
    "windowsRunAsService": _WINDOWS,
    "oomScoreAdj": "no counterpart; the priority class of the agents' Pods (chart value agent.priorityClassName) "
    "decides who is killed first",
    "configSyncPeriod": "no counterpart; objects are watched, and listed anew when a watch is lost",
    "portRange": "kube-proxy itself does not use it any more; without effect. It is not about node ports: those are "
    "spec.nodePortRange",
    "resourceContainer": _FORMER,
}
"""What is said of a field that becomes nothing, when it is set."""

_OF_ONE_MODE: Final[Mapping[str, tuple[str, ...]]] = {
    "iptables.syncPeriod": ("iptables", "userspace"),
    "iptables.minSyncPeriod": ("iptables", "userspace"),
    "iptables.masqueradeAll": ("iptables", "ipvs", "userspace"),
    "ipvs.syncPeriod": ("ipvs",),
    "ipvs.minSyncPeriod": ("ipvs",),
    "ipvs.scheduler": ("ipvs",),
    "nftables.syncPeriod": ("nftables",),
    "nftables.minSyncPeriod": ("nftables",),
    "nftables.masqueradeAll": ("nftables",),
    "nftables.masqueradeBit": ("nftables",),
}
"""Fields that count in some modes alone, and have no place of their own in a ProxyConfig."""


class Note(msgspec.Struct, frozen=True):
    """What is to be known of one field.

    Attributes:
        field: as users write it (``ipvs.strictARP``).
        value: as it is written.
        note: what becomes of it, and what to do.
        becomes: the field of a ProxyConfig that it became, or "".
    """

    field: str
    value: object
    note: str
    becomes: str = ""


class Migration(NamedTuple):
    """What came of it.

    Attributes:
        document: a ProxyConfig, as plain data in the order to write it.
        notes: in the order of kube-proxy's fields; those on unknown fields come last.
    """

    document: dict[str, Any]
    notes: tuple[Note, ...]


def migrate(plain: dict[str, object], name: str) -> Migration:
    """Write the ProxyConfig that does what a KubeProxyConfiguration does.

    Args:
        plain: the KubeProxyConfiguration, as a YAML or JSON reader gives it.
        name: of the ProxyConfig.

    Raises:
        pydantic.ValidationError: what is wrong with it (`pointsman.api.errors.validation_problems`).
    """
    config = read_document(KubeProxyConfiguration, plain)
    head = {"apiVersion": API_VERSION, "kind": "ProxyConfig", "metadata": {"name": name}}
    made = ProxyConfig.read({**head, "spec": _spec(config)}).spec
    # What is Pointsman's default anyway is left out.
    spec = {"mode": made.mode} | made.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return Migration({**head, "spec": spec}, tuple(_notes(config, plain)))


def _mode(config: KubeProxyConfiguration) -> Mode:
    return config.mode or "iptables"


def _spec(config: KubeProxyConfiguration) -> dict[str, object]:
    """Return the spec, fields with Pointsman's defaults among them."""
    mode, periods = _mode(config), config.pacing[1]
    spec: dict[str, object] = {
        "mode": mode,
        "nodePortAddresses": list(dict.fromkeys(config.node_port_addresses)),
        "podCIDRs": list(dict.fromkeys(config.cluster_cidr)),
        "localDetection": _local_detection(config),
        "masqueradeAll": (config.nftables if mode == "nftables" else config.iptables).masquerade_all,
        "syncPeriod": format_duration(periods.sync_period),
        "ipvs": _ipvs(config),
        "iptables": {
            "masqueradeBit": config.iptables.masquerade_bit,
            "localhostNodePorts": mode == "iptables" and _has_localhost_node_ports(config),
        },
        "conntrack": _conntrack(config),
    }
    if mode == "ipvs" and config.ipvs.scheduler:
        spec["scheduler"] = config.ipvs.scheduler
    pause = periods.min_sync_period if config.has_own_pause else NodeConfiguration().min_sync_period
    spec["minSyncPeriod"] = format_duration(min(pause, periods.sync_period))
    if config.udp_idle_timeout:
        spec["userspace"] = {"udpIdleTimeout": format_duration(config.udp_idle_timeout)}
    return spec


def _local_detection(config: KubeProxyConfiguration) -> str:
    """Return how pods are told; by an interface, pods are those of the node, unless their networks are known."""
    wanted = config.detect_local_mode or "ClusterCIDR"
    if wanted in ("BridgeInterface", "InterfaceNamePrefix"):
        return "ClusterCIDR" if config.cluster_cidr else "NodeCIDR"
    return wanted


def _ipvs(config: KubeProxyConfiguration) -> dict[str, object]:
    ipvs = config.ipvs
    timeouts = {
        "tcpTimeout": ipvs.tcp_timeout, "tcpFinTimeout": ipvs.tcp_fin_timeout, "udpTimeout": ipvs.udp_timeout,
    }  # fmt: skip
    hashed = config.mode == "ipvs" and ipvs.scheduler == "mh"
    return {
        "strictARP": ipvs.strict_arp,
        **_durations(timeouts),
        "excludeCIDRs": list(dict.fromkeys(ipvs.exclude_cidrs)),
        # kube-proxy has this scheduler hash the client's port as well.
        "schedulerFlags": ["mh-port"] if hashed else [],
    }


def _conntrack(config: KubeProxyConfiguration) -> dict[str, object]:
    conntrack = config.conntrack
    timeouts = {
        "tcpEstablishedTimeout": conntrack.tcp_established_timeout,
        "tcpCloseWaitTimeout": conntrack.tcp_close_wait_timeout,
        "udpTimeout": conntrack.udp_timeout,
        "udpStreamTimeout": conntrack.udp_stream_timeout,
    }
    return {
        # Without a number for each core kube-proxy ignores the least one, too.
        **({"maxPerCore": conntrack.max_per_core, "min": conntrack.min} if conntrack.max_per_core else {}),
        **_durations(timeouts),
        **({"tcpBeLiberal": True} if conntrack.tcp_be_liberal else {}),
    }


def _durations(seconds: Mapping[str, float]) -> dict[str, str]:
    """Write durations; 0 leaves the kernel's value alone, as an absent field does."""
    return {name: format_duration(value) for name, value in seconds.items() if value}


def _has_localhost_node_ports(config: KubeProxyConfiguration) -> bool:
    """Tell whether node ports answer on 127.0.0.1 in mode iptables: only where the addresses allow for it, too."""
    if not config.iptables.localhost_node_ports:
        return False
    addresses = config.node_port_addresses
    networks = [ipaddress.ip_network(each) for each in addresses if each not in ("all", "localhost", "primary")]
    return not addresses or bool({"all", "localhost"} & {*addresses}) or any(map(_LOOPBACK.overlaps, networks))


def _notes(config: KubeProxyConfiguration, plain: dict[str, object]) -> Iterator[Note]:
    written = without_nulls(plain)
    mode = _mode(config)
    special = {note.field: note for note in _special(config, mode)}
    for leaf in leaves(config):
        if leaf.path == "featureGates":
            yield from _gates(config, mode)
        elif leaf.value == leaf.default or (not leaf.value and leaf.path != "oomScoreAdj"):
            continue
        elif (note := special.get(leaf.path)) is not None:
            yield msgspec.structs.replace(note, value=_written(written, leaf.path))
        elif leaf.path in _NO_COUNTERPART:
            yield Note(leaf.path, _written(written, leaf.path), _NO_COUNTERPART[leaf.path])
        elif mode not in _OF_ONE_MODE.get(leaf.path, (mode,)):
            text = f"counts in mode {' and '.join(_OF_ONE_MODE[leaf.path][:2])} alone, and the mode is {mode}: "
            yield Note(leaf.path, _written(written, leaf.path), text + "without effect, there and here")
    for field in unknown(plain):
        remedy = f"did you mean {field.nearest}?" if field.nearest else "take it out"
        text = f"no field of a KubeProxyConfiguration, and kube-proxy ignores it; {remedy}"
        yield Note(field.path, _written(written, field.path), text)


def _special(config: KubeProxyConfiguration, mode: Mode) -> Iterator[Note]:
    """Yield what is said of fields whose values matter; whether they are said at all is decided elsewhere."""
    yield from _listeners(config)
    yield from _detection(config)
    if mode == "userspace":
        yield Note("mode", None, "kube-proxy itself has not had this mode since 1.26; Pointsman has it", "mode")
    if mode != "iptables":
        yield Note(
            "iptables.masqueradeBit",
            None,
            f"counts in mode iptables alone; in mode {mode} {_UNMARKED}",
            "iptables",
        )
    if mode == "nftables":
        yield Note(
            "nftables.masqueradeBit",
            None,
            f"no counterpart; {_UNMARKED}",
        )
    if (note := _node_ports(config, mode)) is not None:
        yield note
    if mode == "ipvs":
        yield Note(
            "ipvs.excludeCIDRs",
            None,
            "kube-proxy deletes virtual servers of others but for these; Pointsman never does. Here it only says where "
            "a Service's address may be another program's without a problem being told",
            "ipvs",
        )
    if config.has_own_pause:
        yield Note(
            f"{config.pacing[0]}.minSyncPeriod",
            None,
            "as written; leave it out for Pointsman's default of 50ms, as a change costs little here",
            "minSyncPeriod",
        )
    if config.udp_idle_timeout:
        yield Note("udpIdleTimeout", None, "of releases before 1.26; counts in mode userspace alone", "userspace")


def _listeners(config: KubeProxyConfiguration) -> Iterator[Note]:
    """Yield where kube-proxy listens, if it is elsewhere than the agent does."""
    everywhere = {split_address(HEALTHZ)[0], "::"}
    address, port = split_address(config.healthz_bind_address or HEALTHZ)
    text = "the agent answers on all addresses of both families"
    if port not in (None, split_address(HEALTHZ)[1]):
        yield Note(
            "healthzBindAddress", None, f"not of a ProxyConfig: set the chart value agent.healthPort={port}; {text}"
        )
    elif address not in everywhere:
        yield Note("healthzBindAddress", None, f"no counterpart; {text}, port {port or split_address(HEALTHZ)[1]}")
    address, port = split_address(config.metrics_bind_address or METRICS)
    if (address, port or split_address(METRICS)[1]) != split_address(METRICS):
        values = f"metrics.bindAddress={address} and metrics.port={port or split_address(METRICS)[1]}"
        yield Note("metricsBindAddress", None, f"not of a ProxyConfig: set the chart values {values}")
    if config.bind_address and ipaddress.ip_address(config.bind_address) not in map(ipaddress.ip_address, everywhere):
        yield Note("bindAddress", None, "no counterpart; the Node object says which addresses the node has")


def _detection(config: KubeProxyConfiguration) -> Iterator[Note]:
    """Yield what is said of the ways to tell pods that Pointsman does not have."""
    wanted = config.detect_local_mode
    fields = {
        "BridgeInterface": "detectLocal.bridgeInterface",
        "InterfaceNamePrefix": "detectLocal.interfaceNamePrefix",
    }
    if wanted in fields:
        what = "podCIDRs, from clusterCIDR" if config.cluster_cidr else "the Node's own spec.podCIDRs"
        yield Note(
            "detectLocalMode",
            None,
            f"pods are told by their addresses, not by interfaces: those in {what}. Where that is not right, name the "
            "pods' networks in spec.podCIDRs, with localDetection: ClusterCIDR",
            "podCIDRs" if config.cluster_cidr else "localDetection",
        )
    for mode, field in fields.items():
        if mode == wanted:
            yield Note(field, None, "no counterpart; see detectLocalMode")
        else:
            yield Note(field, None, f"counts with detectLocalMode {mode} alone: without effect, there and here")


def _node_ports(config: KubeProxyConfiguration, mode: Mode) -> Note | None:
    if "localhost" not in config.node_port_addresses:
        return None
    if mode == "ipvs":
        text = '"localhost": node ports do not answer on loopback in mode ipvs, there and here'
    elif mode == "nftables":
        gate = config.feature_gates.get(_LOCALHOST_GATE, False)
        there = "TCP alone" if gate else f"nothing, without the feature gate {_LOCALHOST_GATE}"
        text = f'"localhost": the agent serves node ports of TCP and UDP on loopback; kube-proxy {there}'
    else:
        return None
    return Note("nodePortAddresses", None, text, "nodePortAddresses")


def _gates(config: KubeProxyConfiguration, mode: Mode) -> Iterator[Note]:
    for gate, value in config.feature_gates.items():
        text = "no counterpart; Pointsman has no feature gates"
        if gate == _LOCALHOST_GATE and mode == "nftables":
            text += ". Node ports answer on loopback where nodePortAddresses has localhost"
        yield Note(f"featureGates.{gate}", value, text)


def _written(plain: object, path: str) -> object:
    """Return what is written at a path."""
    for name in path.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain
