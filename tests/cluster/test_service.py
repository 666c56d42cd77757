"""Pods, nodes and clients outside reach Services through Pointsman alone."""

from __future__ import annotations

import json
import re
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.controlplane.plane import KubectlError
from pointsman.lab.traffic import Answered, connect, spread
from support.deployed import deployment, ready_pods, service

if TYPE_CHECKING:
    from pointsman.lab.network import Host

    from .conftest import Ground, Web

EXAMPLE = json.loads((Path(__file__).parents[1] / "vectors/founding_example.json").read_bytes())
CLUSTER_IP, PORT, NODE_PORT = "10.96.200.75", 8080, 30000


def names(web: Web) -> set[str]:
    return {pod["metadata"]["name"] for pod in web.pods}


def origins(web: Web) -> dict[str, Host]:
    return web.clients | {f"the host {name}": node.host for name, node in web.ground.cluster.nodes.items()}


def test_pods_run_on_both_nodes(web: Web) -> None:
    assert {pod["spec"]["nodeName"] for pod in web.pods} == set(web.clients)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_cluster_ip_answers_from_pods_and_nodes(web: Web, protocol: str) -> None:
    for label, origin in origins(web).items():
        seen = spread(origin, web.address, 80, protocol, count=60, patience=1)
        assert not seen.failures, (label, seen.failures)
        assert set(seen.servers) == names(web), label


def test_a_pod_sees_the_address_of_a_pod_that_connects(web: Web) -> None:
    for client in web.clients.values():
        assert set(spread(client, web.address, 80, count=20).sources) == {client.address()}


def test_the_node_port_answers_at_every_node(web: Web) -> None:
    cluster = web.ground.cluster
    for node in cluster.nodes.values():
        seen = spread(cluster.outside, node.host.address(), web.node_port, count=60, patience=1)
        assert not seen.failures
        assert set(seen.servers) == names(web)


def test_names_of_services_are_resolved(web: Web) -> None:
    """CoreDNS hears of Services through the cluster IP of the API server, and is asked through one of its own."""
    plane = web.ground.cluster.plane
    plane.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")
    program = "import socket; print(socket.gethostbyname('web.default.svc.cluster.local'))"
    command = ("exec", "deployment/client-node-1", "--", "/opt/pointsman/bin/python", "-c", program)
    assert plane.kubectl(*command).strip() == web.address


def test_the_api_server_is_reached_through_its_service(web: Web) -> None:
    cluster = web.ground.cluster
    address = cluster.plane.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    context = ssl.create_default_context(cadata=cluster.plane.authority.certificate.decode())
    for client in web.clients.values():
        with client.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
            plain.settimeout(5)
            plain.connect((address, 443))
            with context.wrap_socket(plain, server_hostname=address) as secure:
                assert secure.version() == "TLSv1.3"


def test_the_founding_example_answers_from_both_nodes(ground: Ground, web: Web) -> None:
    cluster = ground.cluster
    services = EXAMPLE["objects"]["services"]
    cluster.plane.apply([deployment("nginx", ground.release.image.name, replicas=2, ports=("80/tcp",)), *services])
    try:
        pods = ready_pods(cluster, "app=nginx", 2)
        assert {pod["spec"]["nodeName"] for pod in pods} == set(cluster.nodes)
        wanted = {pod["metadata"]["name"] for pod in pods}
        outside = [(cluster.outside, node.host.address(), NODE_PORT) for node in cluster.nodes.values()]
        for origin, address, port in [*((origin, CLUSTER_IP, PORT) for origin in origins(web).values()), *outside]:
            cluster.wait_until(
                lambda origin=origin, address=address, port=port: isinstance(connect(origin, address, port), Answered),
                f"{address}:{port} to answer",
            )
            cluster.wait_until(
                lambda origin=origin, address=address, port=port: (
                    set(spread(origin, address, port, count=40).servers) == wanted
                ),
                f"{address}:{port} to lead to both Pods",
            )
            assert not spread(origin, address, port, count=40, patience=1).failures
    finally:
        objects = (f"service/{service['metadata']['name']}" for service in services)
        cluster.plane.kubectl("delete", "deployment/nginx", *objects)


def test_the_webhook_refuses_in_the_words_of_the_api_server(ground: Ground) -> None:
    """Through the real API server, with the certificates that the chart's operator made."""
    with pytest.raises(KubectlError) as refusal:
        ground.cluster.plane.apply([service("refused", EXAMPLE["refused"]["nodePort"])])
    assert EXAMPLE["refused"]["message"] in refusal.value.said


def test_kubectl_tells_what_is_in_force(ground: Ground, web: Web) -> None:  # noqa: ARG001 - there are Services
    lines = [r"^proxyconfig\S*/default +nftables +2/2 +Complete"]
    lines += [rf"^nodeproxy\S*/{node} +nftables +True +Programmed +\d+" for node in ground.cluster.nodes]

    def told() -> str:
        return ground.cluster.plane.kubectl("get", "pxc,npx")

    def is_told() -> bool:
        said = told()
        return all(re.search(line, said, re.MULTILINE) for line in lines)

    # The operator tells what the nodes said up to a second ago.
    ground.cluster.wait_until(is_told, lambda: f"{lines} in:\n{told()}", patience=30)
