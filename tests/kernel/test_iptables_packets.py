"""What becomes of real packets in the mode iptables, in both of its variants."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.protocol import DataplaneError
from pointsman.dataplane.sysctl import apply_iptables, routes_loopback
from pointsman.lab.traffic import Answered, Held, Refused, TimedOut, connect
from pointsman.model.plan import Answer, Delta, IptablesSettings, Pool
from support.flows import Flow
from support.iptables import VARIANTS, Chained, as_kubelet_does, chained
from support.proxied import Clients, answer, client_address, node_port, pool, reach, unlikely, vip
from support.proxy import Proxy
from support.regulars import Regulars, come_for_longer_than_the_timeout

from .test_nftables_founding import CLUSTER_IP, ENDPOINTS, EXAMPLE, build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.iptables.tools import Failure
    from pointsman.dataplane.iptables.variant import Variant
    from pointsman.lab.network import Network
    from pointsman.lab.servers import Server, Servers
    from pointsman.model.plan import Family, Frontend, Transport

    from .conftest import Ground

pytestmark = pytest.mark.needs("connection tracking", "IPv6")

HOUR = 3600
CLIENTS = 30
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize(
    "protocol", ["tcp", "udp", pytest.param("sctp", marks=pytest.mark.needs("SCTP packets"))]
)  # fmt: skip


@pytest.fixture(params=VARIANTS)
def node(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Chained]:
    with chained(ground, request.param) as made:
        yield made


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_founding_example(network: Network, servers: Servers, variant: Variant) -> None:
    build(network)
    for pod in ("nginx-a", "nginx-b"):
        servers.start(network.hosts[pod], 80)
    master = network.hosts["master"]
    as_kubelet_does(master, variant)
    cluster = EXAMPLE["cluster"]
    config = ProxyConfigSpec.model_validate(
        {"mode": "iptables", "podCIDRs": [cluster["podCIDR"]], "serviceCIDRs": [cluster["serviceCIDR"]]}
    )
    with Proxy(master, config, mode="iptables") as proxy:
        proxy.put([*EXAMPLE["objects"]["services"], *EXAMPLE["objects"]["endpointSlices"]])
        proxy.sync()
        for origin, address, port, seen in (
            ("pod-a", CLUSTER_IP, 8080, "192.168.0.16"),
            ("master", CLUSTER_IP, 8080, "172.16.0.5"),
            ("outside", "172.16.0.5", 30000, "172.16.0.5"),
            ("pod-a", "172.16.0.5", 30000, "172.16.0.5"),
        ):
            Flow(network.hosts[origin], address, port, "tcp", "answered", ENDPOINTS, seen).check()
        listing = master.namespace.run(f"xtables-{variant}-multi", "iptables-save", "-t", "nat")
        held = proxy.dataplane.read()
    # The order of decisions that people know (tests/vectors/founding_example.json).
    chain = "KUBE-SVC-MAU7ERFCJB7QMBT7"
    rules = [line for line in listing.splitlines() if line.startswith(f"-A {chain} ")]
    assert [rule.rpartition(" -j ")[2].startswith("KUBE-SEP-") for rule in rules] == [False, True, True]
    assert "statistic --mode random --probability 0.50000000000" in rules[1]
    assert all("default/test-nginx-service" in rule for rule in rules)
    assert {(b.address, b.port) for backends in held.values() for b in backends} == ENDPOINTS


@FAMILIES
@PROTOCOLS
def test_every_protocol_and_family(node: Chained, protocol: Transport, family: Family) -> None:
    endpoints = node.endpoints(3, protocol, family)
    cluster_ip, port = vip(protocol=protocol, family=family), node_port(protocol, family)
    node.put({cluster_ip: answer(endpoints), port: msgspec.structs.replace(answer(endpoints), masquerade="always")})
    at = node.ground.node.address(family)
    for origin in (node.ground.client, node.ground.pods[2], node.ground.pods[0], node.ground.node):
        assert {reach(origin, cluster_ip) for _ in range(40)} == {"a", "b", "c"}
    assert {reach(node.ground.client, port, at=at) for _ in range(40)} == {"a", "b", "c"}
    node.put({cluster_ip: answer(endpoints[:1])}, gone=[port])
    # From ports that no client had before (the lab and the kernel give those from 32,768 on): connection tracking still
    # knows where the others' packets go.
    assert {reach(node.ground.client, cluster_ip, source_port=each) for each in range(20_000, 20_005)} == {"a"}
    assert isinstance(connect(node.ground.client, at, port.port, protocol, source_port=20_005), Refused)


@FAMILIES
def test_weights_are_shares(node: Chained, family: Family) -> None:
    endpoints = node.endpoints(4, family=family)
    node.put({vip(family=family): answer(endpoints, (5, 0, 1, 2))})
    found = Counter(reach(node.ground.client, vip(family=family)) for _ in range(800))
    assert not unlikely(found, {"a": 5, "c": 1, "d": 2})
    assert [backend.weight > 0 for backend in node.dataplane.read()[vip(family=family)]] == [True] * 3


def test_a_weight_of_zero_lets_connections_go_on(node: Chained) -> None:
    endpoints = node.endpoints(2)
    node.put({vip(): answer(endpoints)})
    with Held(node.ground.client, vip().address, 80, count=20) as held:
        assert set(held.servers) == {"a", "b"}
        node.put({vip(): answer(endpoints, (0, 1))})
        assert {reach(node.ground.client, vip()) for _ in range(10)} == {"b"}
        node.put({vip(): answer([])})
        assert isinstance(connect(node.ground.client, vip().address, 80), Refused)
        assert held.broken() == []


AFFINE = [vip(), vip(family=6), vip(protocol="udp"), node_port(), node_port("udp", 6)]


@pytest.mark.parametrize("frontend", AFFINE, ids=str)
def test_clients_stay_with_their_endpoint_until_it_leaves(node: Chained, frontend: Frontend) -> None:
    clients, endpoints = Clients(node.ground, frontend, CLIENTS), node.endpoints(4, frontend.protocol, frontend.family)
    node.put({frontend: answer(endpoints, affinity=HOUR)})
    first = clients.connect()
    assert len(set(first)) >= 3
    assert [clients.connect() for _ in range(3)] == [first] * 3
    # A restart of the agent loses nobody.
    assert node.restart().added == 0
    assert clients.connect() == first
    node.put({frontend: answer(endpoints[1:], affinity=HOUR)})
    second = clients.connect()
    assert "a" not in second
    assert [new for old, new in zip(first, second, strict=True) if old != "a"] == [n for n in first if n != "a"]
    assert clients.connect() == second


def test_a_drained_endpoint_loses_its_clients(node: Chained) -> None:
    clients, endpoints = Clients(node.ground, vip(), CLIENTS), node.endpoints(3)
    node.put({vip(): answer(endpoints, affinity=HOUR)})
    clients.connect()
    node.put({vip(): answer(endpoints, (0, 1, 1), affinity=HOUR)})
    there = clients.connect()
    assert set(there) == {"b", "c"}
    assert clients.connect() == there


def test_affinity_expires_and_each_new_connection_refreshes_it(node: Chained) -> None:
    clients = Regulars(node.ground, vip(), CLIENTS, timeout=2)
    node.put({vip(): answer(node.endpoints(16), affinity=2)})
    (before,) = come_for_longer_than_the_timeout([clients])
    time.sleep(3.5)
    # Each of 30 clients draws the same one of 16 again in one case of 16: all of them never do.
    assert clients.connect() != before


@FAMILIES
def test_source_ranges_let_some_in(node: Chained, family: Family) -> None:
    endpoints = node.endpoints(2, family=family)
    ranges = {4: ("198.18.0.0/24", "10.0.0.0/8"), 6: ("2001:db8:198::/120",)}[family]
    guarded = msgspec.structs.replace(answer(endpoints), source_ranges=ranges, masquerade="always")
    node.put({vip(9, family=family): guarded, vip(8, family=family): answer(endpoints)})
    client, far = node.ground.client, {4: client_address(300), 6: client_address(300, 6)}[family]
    assert reach(client, vip(9, family=family), source=client_address(3, family)) in "ab"
    for origin, source in ((client, far), (node.ground.pods[2], "")):
        outcome = connect(origin, vip(9, family=family).address, 80, source=source, timeout=0.3)
        assert isinstance(outcome, TimedOut)
        assert reach(origin, vip(8, family=family), source=source) in "ab"


@FAMILIES
def test_empty_is_refused_or_dropped(node: Chained, family: Family) -> None:
    def nobody(how: str) -> Answer:
        return Answer("default/empty", "random", Pool(when_empty=how), exclusive=True)  # type: ignore[arg-type]

    node.put(
        {
            vip(1, family=family): nobody("reject"),
            vip(2, family=family): msgspec.structs.replace(nobody("drop"), service_port="default/local"),
            vip(1, "udp", family): nobody("reject"),
            node_port(family=family): msgspec.structs.replace(nobody("reject"), exclusive=False),
        }
    )
    for origin in (node.ground.client, node.ground.pods[0], node.ground.node):
        assert isinstance(connect(origin, vip(1, family=family).address, 80, "tcp"), Refused)
        assert isinstance(connect(origin, vip(1, family=family).address, 80, "udp"), Refused)
        assert isinstance(connect(origin, vip(2, family=family).address, 80, timeout=0.3), TimedOut)
    assert isinstance(connect(node.ground.client, node.ground.node.address(family), 30080), Refused)


@FAMILIES
def test_pods_and_others_may_get_other_endpoints(node: Chained, family: Family) -> None:
    endpoints = node.endpoints(3, family=family)
    local = msgspec.structs.replace(pool(endpoints[:1]), local=True)
    node.put({vip(family=family): Answer("a/b", "random", pool(endpoints), outside=local, masquerade="node")})
    assert {reach(node.ground.client, vip(family=family)) for _ in range(10)} == {"a"}
    for origin in (node.ground.node, node.ground.pods[0], node.ground.pods[2]):
        assert {reach(origin, vip(family=family)) for _ in range(40)} == {"a", "b", "c"}
    seen = connect(node.ground.client, vip(family=family).address, 80)
    assert isinstance(seen, Answered)
    assert seen.seen[0] == node.ground.client.address(family)


@FAMILIES
def test_a_pod_reaches_itself(node: Chained, family: Family) -> None:
    pod = node.ground.pods[0]
    server = node.ground.servers.start(pod, 9100, address=pod.address(family), name="self")
    node.put({vip(family=family): answer([server])})
    outcome = connect(pod, vip(family=family).address, 80)
    assert isinstance(outcome, Answered)
    assert outcome.server == "self"
    assert outcome.seen[0] != pod.address(family)


def test_node_ports_answer_on_loopback_when_that_is_asked_for(node: Chained) -> None:
    host, endpoints = node.ground.node, node.endpoints(2)
    port = msgspec.structs.replace(answer(endpoints), masquerade="always")
    node.put({node_port(): port})
    host.namespace.sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    assert isinstance(connect(host, "127.0.0.1", 30080), Refused)
    settings = msgspec.structs.replace(node.plan.settings, iptables=IptablesSettings(localhost_node_ports=True))
    node.dataplane.apply(Delta({}, settings=settings))
    assert {reach(host, node_port(), at="127.0.0.1") for _ in range(20)} == {"a", "b"}
    assert "-A KUBE-FIREWALL" in "\n".join(node.rules())
    node.dataplane.apply(Delta({}, settings=node.plan.settings))
    assert isinstance(connect(host, "127.0.0.1", 30080), Refused)
    assert reach(node.ground.client, node_port(), at=host.address()) in "ab"


def test_loopback_is_guarded_until_it_is_not_routed_any_more(node: Chained, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where that can't be, the guard stays until it can."""
    route_loopback(node)
    opened, restore = Path.write_text, Tools.restore
    seen: list[tuple[bool, bool]] = []

    def refuse(path: Path, *arguments: Any, **named: Any) -> int:  # noqa: ANN401 (whatever the caller gives)
        if path.name == "route_localnet":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, *arguments, **named)

    def look(tools: Tools, family: Family, text: str) -> Failure | None:
        failure = restore(tools, family, text)
        if (family, tools.variant) == (4, node.variant):
            seen.append((routes_loopback(), is_guarded(node)))
        return failure

    monkeypatch.setattr(Tools, "restore", look)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refuse)
        with pytest.raises(DataplaneError, match=r"so that KUBE-FIREWALL stays .*; run `sysctl -w .*route_localnet=0`"):
            node.dataplane.cleanup()
    assert seen == [(True, True)]
    assert [rule for rule in node.rules() if "KUBE-S" in rule] == []
    seen.clear()
    node.dataplane.cleanup()
    assert seen == [(False, False)]
    assert not [rule for rule in node.rules() if "KUBE" in rule or "POINTSMAN" in rule]


def route_loopback(node: Chained) -> None:
    settings = msgspec.structs.replace(node.plan.settings, iptables=IptablesSettings(localhost_node_ports=True))
    node.dataplane.apply(Delta({}, settings=settings))
    with node.ground.node.namespace.entered():
        assert apply_iptables(with_loopback=True) == ()


def is_guarded(node: Chained) -> bool:
    return "-A INPUT -j KUBE-FIREWALL" in node.rules()


@FAMILIES
def test_connections_are_counted(node: Chained, family: Family) -> None:
    servers: list[Server] = node.endpoints(2, family=family)
    cluster_ip, port = vip(family=family), node_port(family=family)
    both = msgspec.structs.replace(answer(servers), masquerade="always")
    node.put({cluster_ip: msgspec.structs.replace(both, exclusive=True), port: both})
    made = Counter(reach(node.ground.client, cluster_ip) for _ in range(9))
    made += Counter(reach(node.ground.client, port, at=node.ground.node.address(family)) for _ in range(4))
    found = node.dataplane.traffic()
    assert (found[cluster_ip].connections, found[port].connections) == (9, 4)
    backends = Counter[str]()
    names = {(server.address, server.port): server.name for server in servers}
    for traffic in found.values():
        backends.update({names[where]: got.connections for where, got in traffic.backends.items()})
    assert backends == made
