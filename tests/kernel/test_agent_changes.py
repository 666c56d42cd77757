"""The agent's promises on time and on faults: quick changes, broken files, probes, metrics, its end."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Refused, connect, fetch
from support.agents import METRICS_PORT, Supervised, seconds_until, server_at, server_now, supervised, text_of
from support.manifests import service, slices
from support.promptness import assert_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.lab.network import Host
    from support.manifests import Document

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP = "10.96.0.1"
HEALTHZ_PORT = 10256
QUICK = 1.0
"""Seconds; a fifth of it is what is promised, on a machine with nothing else to do."""


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        yield made


def web(node: Supervised, *numbers: int) -> list[Document]:
    pods = [node.ground.pods[number - 1] for number in numbers]
    return [service("web", VIP), *slices("web", *pods)]


def renamed_in(node: Supervised, text: bytes) -> None:
    draft = node.manifests / ".draft"
    draft.write_bytes(text)
    draft.rename(node.manifests / "web.json")


def in_place(node: Supervised, text: bytes) -> None:
    (node.manifests / "web.json").write_bytes(text)


def in_pieces(node: Supervised, text: bytes) -> None:
    with (node.manifests / "web.json").open("wb", buffering=0) as file:
        for start in range(0, len(text), 200):
            file.write(text[start : start + 200])


def test_a_change_is_in_the_kernel_at_once(node: Supervised, capsys: pytest.CaptureFixture[str]) -> None:
    node.write("web.json", *web(node, 1))
    node.start()
    took: dict[str, list[float]] = {}
    for write in (renamed_in, in_place, in_pieces):
        for number in (2, 3, 1) * 3:
            write(node, text_of(*web(node, number)))
            wanted = f"web-{number}"
            seconds = seconds_until(lambda: server_now(node.ground.client, VIP) == wanted)  # noqa: B023 (used at once)
            took.setdefault(write.__name__, []).append(seconds)
    with capsys.disabled():
        for how, found in took.items():
            median, most = statistics.median(found) * 1000, max(found) * 1000
            print(f"\na file {how}: in the kernel after {median:.0f} ms (median), {most:.0f} ms (most)", end="")  # noqa: T201 (a measurement)
    for found in took.values():
        assert_prompt(found, QUICK)


def test_objects_come_change_and_go_with_their_files(node: Supervised) -> None:
    client = node.ground.client
    node.start()
    node.write("a.json", service("a", "10.96.0.1"), *slices("a", node.ground.pods[0]))
    (node.manifests / "deep").mkdir()
    node.write("deep/b.yaml", service("b", "10.96.0.2"), *slices("b", node.ground.pods[1]))
    took = [
        seconds_until(lambda: server_now(client, "10.96.0.1") == "web-1"),
        seconds_until(lambda: server_now(client, "10.96.0.2") == "web-2"),
    ]
    (node.manifests / "a.json").unlink()
    took.append(seconds_until(lambda: server_now(client, "10.96.0.1") == ""))
    assert_prompt(took, QUICK)
    assert server_at(client, "10.96.0.2") == "web-2"


def test_a_broken_file_keeps_its_last_good_objects_in_force(node: Supervised) -> None:
    client, file = node.ground.client, node.manifests / "web.json"
    node.write("web.json", *web(node, 3))
    node.start()
    for number, broken in enumerate((b"", b"{", b'{"kind": "Service"', b"\0\xff\xfe", b"a: [b", b"- - -\n: :"), 2):
        good = number % 2 + 1
        node.put("web.json", *web(node, good))
        told = node.log.read_text("utf-8").count("web.json")
        file.write_bytes(broken)
        seconds_until(lambda: node.log.read_text("utf-8").count("web.json") > told)  # noqa: B023 (used at once)
        # What comes after it is in force, and so is what it said before.
        more, address = f"more-{number}", f"10.96.0.{number}"
        node.put(f"{more}.json", service(more, address), *slices(more, node.ground.pods[1]))
        assert server_at(client, address) == "web-2"
        assert server_at(client, VIP) == f"web-{good}"
    assert fetch(node.ground.node, "127.0.0.1", HEALTHZ_PORT, "/healthz")[0] == 200
    node.put("web.json", *web(node, 3))
    assert server_at(client, VIP) == "web-3"


def test_a_broken_object_harms_no_other_in_its_file(node: Supervised) -> None:
    client = node.ground.client
    node.write("web.json", *web(node, 1))
    node.start()
    bad = service("web", VIP)
    bad["spec"]["ports"] = [{"port": "eighty"}]
    more = [service("more", "10.96.0.2"), *slices("more", node.ground.pods[1])]
    node.put("web.json", bad, *web(node, 2)[1:], *more)
    assert server_at(client, "10.96.0.2") == "web-2"
    assert server_at(client, VIP) == "web-2"
    assert "test/web" in node.log.read_text("utf-8")


def test_health_before_and_after_the_first_sync(node: Supervised) -> None:
    """Another process owns a table of our name, so that the first sync cannot be."""
    node.write("web.json", *web(node, 1))
    with node.ground.node.namespace.entered():
        owner = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert owner.stdin is not None
    with owner, owner.stdin as pipe:
        pipe.write(b"add table ip pointsman { flags owner; }\n")
        pipe.flush()
        seconds_until(lambda: "pointsman" in node.ground.node.namespace.run("nft", "list", "tables"))
        node.agent.start()
        failures = 'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}'
        seconds_until(lambda: "refused" in node.log.read_text("utf-8"))
        for path in ("/healthz", "/livez"):
            status, body = fetch(node.ground.node, "127.0.0.1", HEALTHZ_PORT, path)
            assert status == 503
            assert json.loads(body)["healthy"] is False
        assert node.metrics()[failures] >= 1
    node.agent.wait_until_ready()
    status, body = fetch(node.ground.client, node.ground.node.address(), HEALTHZ_PORT, "/healthz")
    assert (status, json.loads(body)["healthy"], json.loads(body)["nodeEligible"]) == (200, True, True)
    assert server_at(node.ground.client, VIP) == "web-1"


def test_the_health_check_port_of_a_service(node: Supervised) -> None:
    client, address, port = node.ground.client, node.ground.node.address(), 32100
    local = service(
        "local",
        VIP,
        node_port=30080,
        balancer_ips=["198.51.100.1"],
        spec={"externalTrafficPolicy": "Local", "healthCheckNodePort": port},
    )

    def fours(*pods: Host) -> list[Document]:
        return [document for document in slices("local", *pods) if document["addressType"] == "IPv4"]

    node.write("local.json", local, *fours(*node.ground.pods))
    node.start()

    def asked(path: str = "/") -> tuple[int, int]:
        status, body = fetch(client, address, port, path)
        found = json.loads(body)
        assert found["service"] == {"namespace": "test", "name": "local"}
        assert found["serviceProxyHealthy"] is True
        return status, found["localEndpoints"]

    seconds_until(lambda: "health check port 32100 is open" in node.log.read_text("utf-8"))
    assert asked() == asked("/any/path") == (200, 2)
    node.put("local.json", local, *fours(*node.ground.pods[1:]))
    assert asked() == (200, 1)
    node.put("local.json", local, *fours(node.ground.pods[2]))
    assert asked() == (503, 0)
    node.put("local.json", local)
    assert asked() == (503, 0)
    (node.manifests / "local.json").unlink()
    seconds_until(lambda: is_closed(client, address, port))


def is_closed(origin: Host, address: str, port: int) -> bool:
    return isinstance(connect(origin, address, port), Refused)


def test_metrics_count_what_happened(node: Supervised) -> None:
    node.write("web.json", *web(node, 1))
    node.start()
    first = node.metrics()
    for number in (2, 3):
        node.put("web.json", *web(node, number))
    node.put("more.json", service("more", "10.96.0.2"))
    now = node.metrics()

    def grown(name: str) -> float:
        return now[name] - first[name]

    assert first["kubeproxy_sync_proxy_rules_service_changes_total"] == 1
    assert grown("kubeproxy_sync_proxy_rules_service_changes_total") == 1
    # Two slices, IPv4 and IPv6, changed twice.
    assert grown("kubeproxy_sync_proxy_rules_endpoint_changes_total") == 4
    assert now["kubeproxy_sync_proxy_rules_service_changes_pending"] == 0
    assert now["kubeproxy_sync_proxy_rules_endpoint_changes_pending"] == 0
    assert now['kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}'] == 1
    assert grown('kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}') == 3
    assert now['kubeproxy_proxy_healthz_total{code="200"}'] > 0
    assert now['kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}'] == 0
    assert abs(now['kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'] - time.time()) < 60
    assert fetch(node.ground.node, "127.0.0.1", METRICS_PORT, "/proxyMode") == (200, b"nftables")


def test_sigterm_ends_it_with_status_0_and_leaves_the_rules(node: Supervised) -> None:
    node.write("web.json", *web(node, 1))
    node.start()
    process = node.agent.daemon._process
    assert process is not None
    node.agent.stop()
    assert process.returncode == 0
    assert server_at(node.ground.client, VIP) == "web-1"
    assert "the kernel keeps its rules" in node.log.read_text("utf-8")
