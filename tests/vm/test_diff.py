"""`pointsman diff` in mode ipvs: empty in force, and a real or virtual server that goes is named."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.agents import Supervised, seconds_until, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernel.conftest import Ground

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(900)]

VIP, VIP6, NODE_PORT = "10.96.0.80", "fd00:10:96::80", 30080
PATIENCE = 240.0
"""Seconds; the guest is emulated."""
CONFIG = {
    "apiVersion": "pointsman.dev/v1alpha1",
    "kind": "ProxyConfig",
    "metadata": {"name": "wanted"},
    "spec": {"priority": 1, "mode": "ipvs", "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"]},
}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    subprocess.run(["modprobe", "-a", "ip_vs", "ip_vs_rr"], check=True)
    with supervised(ground, tmp_path) as made:
        local = service("local", "10.96.0.81", node_port=30081)
        local["spec"] |= {"externalTrafficPolicy": "Local"}
        made.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *ground.pods))
        made.write("local.json", local, *slices("local", *ground.pods))
        made.write("config.json", CONFIG)
        start(made)
        yield made


def start(node: Supervised) -> None:
    node.agent.start()
    node.agent.daemon.wait_until(lambda: node.agent.healthz()[0] == 200, "is not ready", patience=PATIENCE)


def diff(node: Supervised) -> subprocess.CompletedProcess[str]:
    words = ("diff", "--node-name", "node-1", "-f", str(node.manifests))
    with node.ground.node.namespace.entered():
        return subprocess.run((sys.executable, "-m", "pointsman", *words), capture_output=True, text=True, check=False)


def test_servers_that_go_are_named_until_they_are_there_again(node: Supervised) -> None:
    found = diff(node)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
    node.agent.kill()
    ipvsadm = node.ground.node.namespace.run
    ipvsadm("ipvsadm", "-d", "-t", f"{VIP}:80", "-r", "192.168.1.2:80")
    ipvsadm("ipvsadm", "-D", "-t", f"172.16.0.1:{NODE_PORT}")
    assert diff(node).stdout.splitlines() == [
        "Service test/web:tcp",
        f"  {VIP}:80/tcp",
        "-   -> 192.168.1.2:80",
        f"  172.16.0.1:{NODE_PORT}/tcp",
        *(f"-   -> {pod}:80" for pod in ("192.168.1.1", "192.168.1.2", "192.168.2.3")),
    ]
    start(node)
    seconds_until(lambda: not diff(node).stdout, limit=PATIENCE)
