"""One table of connections for IPv4 and IPv6, TCP, UDP and SCTP: dual-stack Services of every kind, real packets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.lab.network import Host, Network
from pointsman.lab.servers import Servers
from support.flows import Flow, Verdict, check
from support.latest import Latest
from support.manifests import service, slices
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Transport

PROTOCOLS: Final[tuple[Transport, ...]] = ("tcp", "udp", "sctp")
FAMILIES: Final = (4, 6)
SERVICE_NETWORK: Final = {4: "10.96.0.", 6: "fd00:10:96::"}
EXTERNAL_NETWORK: Final = {4: "198.51.100.", 6: "2001:db8:198::"}
CONFIG: Final = ProxyConfigSpec.model_validate(
    {
        "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"],
        "serviceCIDRs": ["10.96.0.0/16", "fd00:10:96::/112"],
    }
)
PLAIN: Final = 8080
"""A port that no Service has, with a server on the node."""

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")
every_protocol = pytest.mark.parametrize(
    "protocol", ["tcp", "udp", pytest.param("sctp", marks=pytest.mark.needs("SCTP packets"))]
)
every_family = pytest.mark.parametrize("family", FAMILIES)


class Case(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        origin: name of the host that connects.
        to: a Service and one of its addresses (``open cluster``, ``open balancer``, ``open external``,
            ``open node-port``), or something else that `Ground.target` knows.
        verdict: what becomes of it.
        by: who answers.
        seen: the client keeps its address, or shows that of the node.
        port: instead of the one that `to` implies.
    """

    origin: str
    to: str
    verdict: Verdict = "answered"
    by: tuple[str, ...] = ()
    seen: Literal["kept", "node"] = "kept"
    port: int = 0

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.origin} to {self.to}{port}: {self.verdict} {','.join(self.by)}".strip()


BOTH: Final = ("near", "far")
NEAR: Final = ("near",)
FAR: Final = ("far",)
EXTERNAL_LOCAL: Final = {"externalTrafficPolicy": "Local"}
INTERNAL_LOCAL: Final = {"internalTrafficPolicy": "Local"}


class Kind(msgspec.Struct, frozen=True):
    """A Service of the table; it has a cluster IP, a load balancer's address, an external IP and a node port.

    Attributes:
        number: the last part of its addresses, and its node port above 30000.
        pods: its endpoints.
        spec: more fields.
    """

    number: int
    pods: tuple[str, ...]
    spec: Mapping[str, object]


SERVICES: Final[Mapping[str, Kind]] = {
    "open": Kind(10, BOTH, {"loadBalancerSourceRanges": ["203.0.113.0/25", "2001:db8:203::/113"]}),
    "local": Kind(11, BOTH, EXTERNAL_LOCAL),
    "away": Kind(12, FAR, EXTERNAL_LOCAL),
    "empty": Kind(13, (), {}),
    "inner": Kind(14, BOTH, INTERNAL_LOCAL),
    "inner-away": Kind(15, FAR, INTERNAL_LOCAL),
    "near-local": Kind(16, NEAR, EXTERNAL_LOCAL),
}

ANSWERED: Final = (
    # Cluster IPs: pods keep their address, all others show the node's.
    Case("pod", "open cluster", by=BOTH),
    Case("far-pod", "inner cluster", by=NEAR),
    Case("node", "open cluster", by=BOTH, seen="node"),
    Case("client", "open cluster", by=BOTH, seen="node"),
    Case("other", "open cluster", by=BOTH, seen="node"),
    Case("pod", "inner cluster", by=NEAR),
    Case("client", "inner cluster", by=NEAR, seen="node"),
    Case("client", "local cluster", by=BOTH, seen="node"),
    # From outside of the cluster's policy: everybody shows the node's.
    Case("pod", "open node-port", by=BOTH, seen="node"),
    Case("node", "open node-port", by=BOTH, seen="node"),
    Case("client", "open node-port", by=BOTH, seen="node"),
    Case("stranger", "open node-port", by=BOTH, seen="node"),
    Case("pod", "open external", by=BOTH, seen="node"),
    Case("node", "open external", by=BOTH, seen="node"),
    Case("client", "open external", by=BOTH, seen="node"),
    Case("stranger", "open external", by=BOTH, seen="node"),
    Case("client", "open balancer", by=BOTH, seen="node"),
    # externalTrafficPolicy Local: outside clients keep their address; pods and the node reach every endpoint.
    *(Case("client", f"local {kind}", by=NEAR) for kind in ("node-port", "external", "balancer")),
    *(Case("other", f"local {kind}", by=NEAR) for kind in ("node-port", "external", "balancer")),
    *(Case("pod", f"local {kind}", by=BOTH) for kind in ("node-port", "external", "balancer")),
    *(Case("node", f"local {kind}", by=BOTH, seen="node") for kind in ("node-port", "external", "balancer")),
    *(Case("pod", f"away {kind}", by=FAR) for kind in ("node-port", "external", "balancer")),
    *(Case("node", f"away {kind}", by=FAR, seen="node") for kind in ("node-port", "external", "balancer")),
    # Hairpin: a pod that reaches itself.
    Case("near", "inner cluster", by=NEAR, seen="node"),
    Case("near", "near-local node-port", by=NEAR, seen="node"),
    Case("near", "near-local external", by=NEAR, seen="node"),
    Case("near", "near-local balancer", by=NEAR, seen="node"),
    # None of the proxy's business.
    Case("client", "near address", by=NEAR),
    Case("pod", "far address", by=FAR),
    Case("client", "node", by=("node",), port=PLAIN),
    Case("pod", "node", by=("node",), port=PLAIN),
    Case("client", "second", by=("node",), port=30010),
    Case("client", "near address", by=NEAR, port=30010),
)
REFUSED: Final = (
    *(
        Case(origin, f"empty {kind}", "refused")
        for origin in ("pod", "node", "client")
        for kind in ("cluster", "node-port", "external", "balancer")
    ),
    *(Case(origin, "open cluster", "refused", port=81) for origin in ("pod", "node", "client", "far-pod")),
    *(Case(origin, "empty cluster", "refused", port=81) for origin in ("pod", "node", "client")),
)
DROPPED: Final = (
    *(Case("client", f"away {kind}", "dropped") for kind in ("node-port", "external", "balancer")),
    *(Case(origin, "inner-away cluster", "dropped") for origin in ("pod", "node", "client")),
    *(Case(origin, "unallocated", "dropped") for origin in ("pod", "node", "client", "far-pod")),
    *(Case(origin, "open balancer", "dropped") for origin in ("stranger", "pod", "node", "other")),
)


class Ground(msgspec.Struct):
    """A node with its rules, and what is around it."""

    hosts: Mapping[str, Host]

    def target(self, case: Case, family: int) -> tuple[str, int]:
        """Return the address and port that a case connects to."""
        name, _, kind = case.to.partition(" ")
        match name, kind:
            case "unallocated", "":
                return SERVICE_NETWORK[family] + "250", case.port or 80
            case "node", "":
                return self.hosts["node"].address(family), case.port
            case "second", "":
                return second_address(self.hosts["node"], family), case.port
            case pod, "address":
                return self.hosts[pod].address(family), case.port or 80
            case _, "node-port":
                return self.hosts["node"].address(family), case.port or 30000 + SERVICES[name].number
            case _:
                return service_address(name, kind, family), case.port or 80

    def flow(self, case: Case, family: int, protocol: Transport) -> Flow:
        """Turn a case into connections."""
        origin, (address, port) = self.hosts[case.origin], self.target(case, family)
        direct = case.to.split()[-1] in {"node", "second", "address"}
        endpoints = {(self.hosts[name].address(family), 80) for name in case.by}
        seen = (origin if case.seen == "kept" else self.hosts["node"]).address(family)
        return Flow(
            origin,
            address,
            port,
            protocol,
            case.verdict,
            frozenset([(address, port)] if direct else endpoints),
            seen,
            source=origin.address(family),
        )


def second_address(node: Host, family: int) -> str:
    return [address for address in node.addresses if (":" in address) == (family == 6)][1]


def service_address(name: str, kind: str, family: int) -> str:
    number = SERVICES[name].number
    match kind:
        case "cluster":
            return f"{SERVICE_NETWORK[family]}{number}"
        case "balancer":
            return f"{EXTERNAL_NETWORK[family]}{number}"
        case _:
            return f"{EXTERNAL_NETWORK[family]}{number + 100}"


@contextlib.contextmanager
def built() -> Iterator[Ground]:
    with Network() as network, Servers() as servers:
        hosts = build(network)
        node = hosts["node"]
        for pod in ("near", "far"):
            for protocol in PROTOCOLS:
                servers.start_everywhere(hosts[pod], 80, protocol)
                servers.start_everywhere(hosts[pod], 30010, protocol)
        for protocol in PROTOCOLS:
            servers.start_everywhere(node, PLAIN, protocol)
            servers.start_everywhere(node, 30010, protocol)
        with Proxy(node, CONFIG) as proxy:
            put_services(proxy, hosts)
            proxy.sync()
            yield Ground(hosts)


def build(network: Network) -> Mapping[str, Host]:
    node = network.node("node", "172.16.0.1", "172.16.9.1", "fd00:172:16::1", "2001:db8:172::1")
    other = network.node("other", "172.16.0.2", "fd00:172:16::2")
    network.pod("near", "192.168.1.1", "fd00:192:168:1::1", node=node)
    network.pod("pod", "192.168.1.2", "fd00:192:168:1::2", node=node)
    network.pod("far", "192.168.2.1", "fd00:192:168:2::1", node=other)
    network.pod("far-pod", "192.168.2.2", "fd00:192:168:2::2", node=other)
    network.client("client", "203.0.113.1", "2001:db8:203::1")
    network.client("stranger", "203.0.113.201", "2001:db8:203::8001")
    network.build()
    for destination in ("10.96.0.0/16", "fd00:10:96::/112", "198.51.100.0/24", "2001:db8:198::/112"):
        network.route(destination, via=node)
    return network.hosts


def put_services(proxy: Proxy, hosts: Mapping[str, Host]) -> None:
    for name, kind in SERVICES.items():
        addresses = {
            role: [service_address(name, role, f) for f in FAMILIES] for role in ("cluster", "balancer", "external")
        }
        document = service(
            name,
            *addresses["cluster"],
            node_port=30000 + kind.number,
            protocols=PROTOCOLS,
            balancer_ips=addresses["balancer"],
            external_ips=addresses["external"],
            spec=kind.spec,
        )
        proxy.put([document, *slices(name, *(hosts[pod] for pod in kind.pods), protocols=PROTOCOLS)])


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Ground]]:
    with Latest[Ground]() as made:
        yield made


@pytest.fixture
def ground(latest: Latest[Ground], _needs: None) -> Ground:
    return latest.get("ground", built)


@every_family
@every_protocol
@pytest.mark.parametrize("case", ANSWERED, ids=str)
def test_answered(ground: Ground, case: Case, family: int, protocol: Transport) -> None:
    ground.flow(case, family, protocol).check()


@every_family
@every_protocol
@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused(ground: Ground, case: Case, family: int, protocol: Transport) -> None:
    ground.flow(case, family, protocol).check()


@every_family
@every_protocol
def test_dropped(ground: Ground, family: int, protocol: Transport) -> None:
    """All at once, as each costs a timeout."""
    flows = [ground.flow(case, family, protocol) for case in DROPPED]
    with ThreadPoolExecutor(len(flows)) as pool:
        for flow, outcomes in zip(flows, pool.map(Flow.connect, flows), strict=True):
            check(flow, outcomes)
