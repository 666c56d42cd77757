"""Objects that an API server admits and nobody means well with: they are told, and harm no other Service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab.traffic import Load, Refused, TimedOut, connect
from support.scenes import PATIENCE, endpoint_slice, made, path, problems, server_of, service
from support.web import PORT, Web, web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from support.scenes import Document

SYSTEM = "kube-system"
"""The webhook leaves this namespace alone: what it would refuse is admitted here."""


@pytest.fixture(scope="module")
def bystander(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "bystander", replicas=2) as running:
        yield running


@pytest.fixture(autouse=True)
def nobody_is_harmed(cluster: LiveCluster, bystander: Web) -> Iterator[None]:
    """Hold each test to it that another Service answers all the while, and that no agent ends."""
    pids = {name: node.agent.daemon.pid for name, node in cluster.nodes.items()}
    with Load(cluster.nodes["node02"].client, bystander.address, PORT, pause=0.01) as load:
        load.wait(3)
        yield
        load.wait(10)
    assert load.spread().failures == []
    for name, node in cluster.nodes.items():
        assert node.agent.daemon.running, f"the agent of {name} ended"
        assert node.agent.daemon.pid == pids[name]
        assert node.agent.healthz()[0] == 200
        assert "Traceback" not in node.agent.daemon.log.read_text("utf-8", "replace")


def backend(bystander: Web) -> str:
    """Return the address of a Pod that answers at port 80."""
    return bystander.cluster.pods.host(min(bystander.pods())).address()


def wait_for_answer(cluster: LiveCluster, address: str, port: int = 80) -> None:
    for name, node in cluster.nodes.items():
        cluster.wait_until(
            lambda: server_of(node.client, address, port) != "",  # noqa: B023 - called at once
            f"{address}:{port} to answer on {name}",
            patience=PATIENCE,
        )


def wait_for(cluster: LiveCluster, address: str, outcome: type, port: int = 80) -> None:
    origin = cluster.nodes["node01"].client
    cluster.wait_until(
        lambda: isinstance(connect(origin, address, port), outcome),
        f"{address}:{port} to be {outcome.__name__}",
        patience=PATIENCE,
    )


# What is wrong with an object, and is said.


def bad_weight(bystander: Web) -> list[Document]:
    piece = endpoint_slice("odd", backend(bystander))
    piece["metadata"]["annotations"] = {"pointsman.dev/weight": "many"}
    return [service("odd"), piece]


def bad_trigger_time(bystander: Web) -> list[Document]:
    piece = endpoint_slice("odd", backend(bystander))
    piece["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": "yesterday"}
    return [service("odd"), piece]


def bad_scheduler(bystander: Web) -> list[Document]:
    written = service("odd", namespace=SYSTEM)
    written["metadata"]["annotations"] = {"pointsman.dev/scheduler": "\x1b[31mfastest\n\u202e"}
    return [written, endpoint_slice("odd", backend(bystander), namespace=SYSTEM)]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (bad_weight, '"many" is no weight'),
        (bad_trigger_time, '"yesterday" is no time'),
        (bad_scheduler, r'"\x1b[31mfastest\n\u202e" is no scheduler of mode nftables; "random" is used'),
    ],
)
def test_what_cannot_be_meant_is_told_and_the_rest_is_done(
    cluster: LiveCluster, bystander: Web, write: Callable[[Web], list[Document]], words: str
) -> None:
    with made(cluster, *write(bystander)) as (odd, *_):
        wait_for_answer(cluster, odd["spec"]["clusterIP"])
        for name in cluster.nodes:
            wait_until_told(cluster, name, words)
            assert words in cluster.nodes[name].agent.daemon.log.read_text("utf-8", "replace")
    for name in cluster.nodes:
        wait_until_told(cluster, name, words, told=False)


def wait_until_told(cluster: LiveCluster, node: str, words: str, *, told: bool = True) -> None:
    def is_so() -> bool:
        return any(words in problem["message"] for problem in problems(cluster, node)) is told

    cluster.wait_until(is_so, f"{node} {'' if told else 'not '}to tell: {words}", patience=PATIENCE)


def test_a_service_cannot_take_the_cluster_ip_of_another(cluster: LiveCluster, bystander: Web) -> None:
    """Even under a name that comes first: external IPs are whatever their author writes."""
    ports = [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": 80}]
    thief = service("a-thief", externalIPs=[bystander.address], ports=ports)
    own = cluster.servers.start(cluster.nodes["master"].client, 80, name="thief")
    try:
        with made(cluster, thief, endpoint_slice("a-thief", own.address)) as (odd, _):
            wait_for_answer(cluster, odd["spec"]["clusterIP"], PORT)
            for name in cluster.nodes:
                words = f"{PORT}/tcp on {bystander.address} belongs to Service default/bystander already"
                wait_until_told(cluster, name, words)
            assert bystander.seen_from(cluster.nodes["node01"].client, 2) == bystander.pods()
    finally:
        cluster.servers.stop(own)


# What looks odd, and is to be served as it is written.


def a_thousand_endpoints(bystander: Web) -> list[Document]:
    piece = endpoint_slice("odd", backend(bystander))
    dead = [f"10.1.{number >> 8}.{number & 255}" for number in range(1, 1000)]
    piece["endpoints"] += [{"addresses": [address], "conditions": {"ready": False}} for address in dead]
    return [service("odd"), piece]


def odd_hints(bystander: Web) -> list[Document]:
    piece = endpoint_slice("odd", backend(bystander))
    hints: dict[str, Any] = {"forZones": [{"name": "nowhere"}], "forNodes": [{"name": "no-such-node"}]}
    piece["endpoints"][0] |= {"hints": hints, "nodeName": "no-such-node", "zone": "nowhere"}
    return [service("odd"), piece]


def a_huge_annotation(bystander: Web) -> list[Document]:
    big = {"example.com/notes": '\u0416"}]\x00' * 40_000}
    written, piece = service("odd"), endpoint_slice("odd", backend(bystander))
    written["metadata"]["annotations"] = piece["metadata"]["annotations"] = big
    return [written, piece]


def a_hundred_ports(bystander: Web) -> list[Document]:
    numbers = [80, *range(1000, 1099)]
    ports = [{"name": f"p{number}", "port": number, "targetPort": 80} for number in numbers]
    piece = endpoint_slice("odd", backend(bystander))
    piece["ports"] = [{"name": f"p{number}", "port": 80} for number in numbers]
    return [service("odd", ports=ports), piece]


def ports_without_numbers(bystander: Web) -> list[Document]:
    good, numberless, portless = (endpoint_slice(f"odd-{part}", backend(bystander), of="odd") for part in "abc")
    numberless["ports"] = [{"name": "http", "protocol": "TCP"}]
    portless["ports"] = []
    return [service("odd"), numberless, portless, good]


def slices_of_other_families(bystander: Web) -> list[Document]:
    other, named = (endpoint_slice(f"odd-{part}", of="odd") for part in "ab")
    other |= {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00:1::1"]}]}
    named |= {"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}
    return [service("odd"), other, named, endpoint_slice("odd-c", backend(bystander), of="odd")]


@pytest.mark.parametrize(
    "write",
    [
        a_thousand_endpoints,
        odd_hints,
        a_huge_annotation,
        a_hundred_ports,
        ports_without_numbers,
        slices_of_other_families,
    ],
)
def test_what_looks_odd_is_served(cluster: LiveCluster, bystander: Web, write: Callable[[Web], list[Document]]) -> None:
    with made(cluster, *write(bystander)) as (odd, *_):
        address, port = odd["spec"]["clusterIP"], odd["spec"]["ports"][-1]["port"]
        wait_for_answer(cluster, address, port)
        assert {server_of(cluster.nodes["node01"].client, address, port) for _ in range(20)} == {min(bystander.pods())}


def test_slices_without_a_service_mean_nothing(cluster: LiveCluster, bystander: Web) -> None:
    """A Service that comes after its slice has it at once; one whose slice is not labelled has none."""
    early, unlabelled = endpoint_slice("late", backend(bystander)), endpoint_slice("apart", "10.1.0.1", of="")
    with made(cluster, early, unlabelled), made(cluster, service("late"), service("apart")) as (late, apart):
        wait_for_answer(cluster, late["spec"]["clusterIP"])
        wait_for(cluster, apart["spec"]["clusterIP"], Refused)


def test_services_without_an_address_are_nobodys_problem(cluster: LiveCluster, bystander: Web) -> None:
    bare = service("bare-headless", clusterIP="None")
    del bare["spec"]["ports"]
    named = service("bare-name", type="ExternalName", externalName="example.com")
    with made(cluster, bare, endpoint_slice("bare-headless", "10.1.0.1"), named):
        with made(cluster, service("later"), endpoint_slice("later", backend(bystander))) as (later, _):
            wait_for_answer(cluster, later["spec"]["clusterIP"])
        for name, node in cluster.nodes.items():
            assert not [problem for problem in problems(cluster, name) if "bare-" in problem["object"]]
            assert "bare-" not in node.agent.daemon.log.read_text("utf-8", "replace")


# Services that come to this proxy and leave it.


def test_a_service_that_is_given_to_another_proxy_and_back(cluster: LiveCluster, bystander: Web) -> None:
    label = "service.kubernetes.io/service-proxy-name"
    with made(cluster, service("shared"), endpoint_slice("shared", backend(bystander))) as (shared, _):
        address = shared["spec"]["clusterIP"]
        wait_for_answer(cluster, address)
        cluster.plane.api.patch(path(shared), {"metadata": {"labels": {label: "other"}}})
        wait_for(cluster, address, TimedOut)
        cluster.plane.api.patch(path(shared), {"metadata": {"labels": {label: None}}})
        wait_for_answer(cluster, address)


def test_an_external_name_gives_its_address_back(cluster: LiveCluster, bystander: Web) -> None:
    with made(cluster, service("moved"), endpoint_slice("moved", backend(bystander))) as (moved, _):
        address = moved["spec"]["clusterIP"]
        wait_for_answer(cluster, address)
        gone = {"type": "ExternalName", "externalName": "example.com", "clusterIP": None, "clusterIPs": None}
        cluster.plane.api.patch(path(moved), {"spec": gone})
        wait_for(cluster, address, TimedOut)
        back = cluster.plane.api.patch(path(moved), {"spec": {"type": "ClusterIP", "externalName": None}})
        wait_for_answer(cluster, back["spec"]["clusterIP"])


def test_endpoints_that_are_not_to_be_mirrored(cluster: LiveCluster, bystander: Web) -> None:
    label = "endpointslice.kubernetes.io/skip-mirror"
    subset = {"addresses": [{"ip": backend(bystander)}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    metadata = {"name": "by-hand", "namespace": "default", "labels": {label: "true"}}
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
    with made(cluster, service("by-hand"), endpoints) as (by_hand, _):
        address = by_hand["spec"]["clusterIP"]
        wait_for(cluster, address, Refused)
        cluster.plane.api.patch(path(endpoints), {"metadata": {"labels": {label: None}}})
        wait_for_answer(cluster, address)
        cluster.plane.api.patch(path(endpoints), {"metadata": {"labels": {label: "true"}}})
        wait_for(cluster, address, Refused)


def test_a_cluster_may_get_more_addresses_for_services(cluster: LiveCluster, bystander: Web) -> None:
    """An address of a ServiceCIDR that no Service has is dropped; one outside goes its way, here to nowhere."""
    unused, given = "10.112.0.200", "10.112.0.100"
    wait_for(cluster, unused, Refused)
    more = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.112.0.0/16"]},
    }
    with made(cluster, more):
        wait_for(cluster, unused, TimedOut)
        cluster.plane.kubectl("wait", "--for=condition=Ready", "servicecidr/more", f"--timeout={PATIENCE:g}s")
        with made(cluster, service("far", clusterIP=given), endpoint_slice("far", backend(bystander))):
            wait_for_answer(cluster, given)
    cluster.wait_until(lambda: cluster.plane.api.find(path(more)) is None, "the ServiceCIDR to go", patience=PATIENCE)
    wait_for(cluster, unused, Refused)
