"""Upstream's packet flows (tests/vectors/packet_flows.json) in the lab, for whatever mode they hold for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.api.names import Mode
from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.lab.network import Host, Network, has_ipv6
from pointsman.lab.servers import Servers
from support.flows import Flow, Verdict
from support.mode_table import difference
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


Case = dict[str, Any]
"""A suite or a flow of the vectors; their fields are explained there."""

VECTORS: Case = json.loads((Path(__file__).parents[1] / "vectors/packet_flows.json").read_bytes())
CONTEXT: Case = VECTORS["context"]
VERDICTS: Mapping[str, Verdict] = {"dnat": "answered", "reject": "refused", "drop": "dropped", "none": "answered"}
ALIKE: Mapping[Mode, Mode] = {"ipvs": "nftables", "userspace": "nftables"}
"""Modes that the vectors do not name, and the one whose flows hold for it, but for what docs/modes.md says."""
LOCALHOST_NODE_PORTS: bool = CONTEXT["iptablesLocalhostNodePorts"]
KNOWN_CONFIG = {"nodePortAddresses", "masqueradeAll", "localDetector", "iptablesLocalhostNodePorts"}


class Stage(msgspec.Struct):
    """The lab of one suite, with its rules in force."""

    hosts: Mapping[str, Host]
    mode: Mode

    def flow(self, case: Case) -> Flow:
        """Turn a case of the vectors into connections."""
        destination = (case["destIP"], case["destPort"])
        verdict = case["output"]["verdict"]
        if not serves(self.mode, case["protocol"]) and verdict == "dnat":
            verdict = "reject"
        hidden = hides_clients(self.mode) and verdict == "dnat"
        # What the proxy leaves alone is answered by the node's own server.
        endpoints = [destination] if verdict == "none" else map(_endpoint, case["output"]["endpoints"])
        return Flow(
            self.hosts[case["sourceIP"]],
            *destination,
            case["protocol"],
            VERDICTS[verdict],
            frozenset(endpoints),
            CONTEXT["nodeIP"]["IPv4"] if case["masq"] or hidden else case["sourceIP"],
            source=case["sourceIP"],
        )


def phases(mode: Mode) -> Iterator[tuple[Case, bool, Case]]:
    """Yield each flow of a mode with its suite, and whether it comes after the suite's deletions."""

    named = ALIKE.get(mode, mode)

    def chosen(case: Case) -> bool:
        return named in case.get("backends", [named])

    for suite in filter(chosen, VECTORS["suites"]):
        for after, part in ((False, suite), (True, suite.get("after", {}))):
            for case in filter(chosen, part.get("flows", [])):
                yield suite, after, case


def params(mode: Mode) -> Iterator[Any]:
    """Yield mode, suite, phase and flow as a test's parameters."""
    for suite, after, case in phases(mode):
        marks = [pytest.mark.needs("SCTP packets")] if case["protocol"] == "sctp" else []
        yield pytest.param(mode, suite, after, case, id=f"{mode}: {suite['id']}: {case['name']}", marks=marks)


@contextlib.contextmanager
def staged(
    suite: Case, mode: Mode, *, after: bool, prepare: Callable[[Host], None] = lambda _node: None
) -> Iterator[Stage]:  # fmt: skip
    """Build the lab that a suite needs, and bring its objects into the node's kernel.

    Args:
        suite: of the vectors.
        mode: the dataplane.
        after: go on to the suite's deletions.
        prepare: what is done to the node before.
    """
    with Network() as network, Servers() as servers:
        hosts = build(network, suite, mode)
        serve(servers, hosts, suite, mode)
        node = hosts[CONTEXT["nodeIP"]["IPv4"]]
        if mode == "iptables":  # as the agent does for `localhostNodePorts`
            node.namespace.sysctl({"net/ipv4/conf/all/route_localnet": "1"})
        prepare(node)
        with Proxy(node, configuration(suite["config"], mode), mode=mode) as proxy:
            proxy.put(suite["objects"]["services"])
            proxy.put(suite["objects"]["endpointSlices"])
            proxy.sync()
            if after:
                proxy.remove(*suite["after"]["delete"])
                proxy.sync()
            yield Stage(hosts, mode)


def serves(mode: Mode, protocol: str) -> bool:
    """Tell whether a mode serves a protocol, as docs/modes.md has it."""
    return protocol in difference("protocols")[mode]


def hides_clients(mode: Mode) -> bool:
    """Tell whether backends see the node's address in place of their client's, as docs/modes.md has it."""
    return difference("client-address")[mode] == "the node's"


def configuration(config: Case, mode: Mode) -> ProxyConfigSpec:
    """Write the configuration that a suite asks for."""
    assert not config.keys() - KNOWN_CONFIG
    detector, networks = CONTEXT["localDetector"], CONTEXT["serviceCIDRs"]
    return ProxyConfigSpec.model_validate(
        {
            "mode": mode,
            "podCIDRs": [detector["IPv4"], detector["IPv6"]] if config.get("localDetector", True) else [],
            "serviceCIDRs": [networks["IPv4"], networks["IPv6"]],
            # The vectors have the default of the mode that they name.
            "nodePortAddresses": config.get("nodePortAddresses") or (["primary"] if mode in ALIKE else None),
            "masqueradeAll": config.get("masqueradeAll", False),
            "iptables": {"localhostNodePorts": config.get("iptablesLocalhostNodePorts", LOCALHOST_NODE_PORTS)},
        }
    )


def build(network: Network, suite: Case, mode: Mode) -> Mapping[str, Host]:
    """Build the node with its addresses, another node, pods for endpoints and clients, and clients outside.

    Returns:
        All hosts by address. An endpoint whose node is not told is on the other node.
    """
    addresses = [entry.partition("/")[0] for entry in CONTEXT["localAddresses"]["eth0"]]
    node = network.node(CONTEXT["nodeName"], *(a for a in addresses if ":" not in a or has_ipv6()))
    other = network.node("other-node", "192.168.0.3")
    for address, node_name in endpoints(suite):
        network.pod(f"pod-{address}", address, node=node if node_name == node.name else other)
    owned = {address: host for host in network.hosts.values() for address in host.addresses}
    for case in flows(suite, mode):
        address = case["sourceIP"]
        if case["sourceType"] == "localhost":
            owned[address] = node
        elif address not in owned:
            pod = case["sourceType"] == "pod"
            owned[address] = network.pod("client", address, node=node) if pod else network.client("outside", address)
    for case in flows(suite, mode):
        if case["output"]["verdict"] == "none" and case["destIP"] not in owned:
            owned[case["destIP"]] = network.client(f"beyond-{case['destIP']}", case["destIP"])
    network.build()
    for address in {case["destIP"] for case in flows(suite, mode)} - owned.keys():
        network.route(address, via=node)
    return owned


def serve(servers: Servers, hosts: Mapping[str, Host], suite: Case, mode: Mode) -> None:
    """Start servers at every endpoint's ports, and on the node where a flow is none of the proxy's business."""
    wanted = {
        (address, port["port"], port["protocol"].lower())
        for part in suite["objects"]["endpointSlices"]
        for entry in part["endpoints"]
        for address in entry["addresses"]
        for port in part["ports"]
    }
    wanted |= {
        (c["destIP"], c["destPort"], c["protocol"]) for c in flows(suite, mode) if c["output"]["verdict"] == "none"
    }
    for address, port, protocol in sorted(wanted):
        if protocol != "sctp" or any(case["protocol"] == "sctp" for case in flows(suite, mode)):
            servers.start(hosts[address], port, protocol, address=address)


def flows(suite: Case, mode: Mode) -> Iterable[Case]:
    """Return the flows of a suite that hold for a mode."""
    return [case for other, _, case in phases(mode) if other is suite]


def endpoints(suite: Case) -> Iterator[tuple[str, str]]:
    """Yield the endpoints' addresses with their nodes."""
    found = {
        (entry["addresses"][0], entry.get("nodeName", ""))
        for part in suite["objects"]["endpointSlices"]
        for entry in part["endpoints"]
    }
    yield from sorted(found)


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return address, int(port)
