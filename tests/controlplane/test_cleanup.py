"""What a real kube-proxy leaves on a node, and `pointsman cleanup --kube-proxy` removes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab.components.build import provide
from pointsman.lab.controlplane import commands, documents
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pointsman.lab.namespaces import Namespace

pytestmark = [pytest.mark.needs("nftables", "connection tracking"), pytest.mark.timeout(900)]

NODE, VIP, NODE_PORT = "node-1", "10.96.0.100", 30100
OTHERS = """\
*nat
:CNI-HOSTPORT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""
OBJECTS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": VIP, "type": "NodePort", "ports": [{"port": 80, "nodePort": NODE_PORT}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80, "protocol": "TCP", "name": ""}],
        "endpoints": [{"addresses": ["192.168.1.1"]}, {"addresses": ["192.168.1.2"]}],
    },
]


class Node:
    """A node without anything, and how to run kube-proxy on it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        host = plane.network.node(NODE, "172.16.0.11")
        plane.network.build()
        self.namespace: Namespace = host.namespace
        plane.api.create(
            "/api/v1/nodes", documents.node(NODE, ["172.16.0.11"], ["192.168.1.0/24"], "2026-01-01T00:00:00Z")
        )
        plane.apply(OBJECTS)
        self.program: Path = provide(("kube-proxy",), lambda _: None)["kube-proxy"]
        self.namespace.run("iptables-nft-restore", "--noflush", stdin=OTHERS)

    def leave(self, mode: str, *, has: Callable[[], bool]) -> None:
        """Let kube-proxy program the node, and kill it."""
        kubeconfig = self.plane.user("system:kube-proxy")
        command = commands.kube_proxy(self.program, kubeconfig, NODE, mode=mode)
        daemon = Daemon("kube-proxy", self.namespace, command, self.plane.files / f"logs/kube-proxy-{mode}.log")
        daemon.start()
        try:
            daemon.wait_until(has, "has not programmed the Service", patience=60)
        finally:
            daemon.kill()

    def cleanup(self, *words: str) -> dict[str, Any]:
        said = self.namespace.run(sys.executable, "-m", "pointsman", "cleanup", "--kube-proxy", "-o", "json", *words)
        found: dict[str, Any] = json.loads(said)
        return found


@pytest.fixture(scope="module")
def node(ground: None) -> Iterator[Node]:  # noqa: ARG001 - asked for first
    with ControlPlane() as plane:
        yield Node(plane)


def test_chains_of_the_mode_iptables(node: Node) -> None:
    # kube-proxy writes with the command `iptables`, whichever variant that is here.
    before = node.namespace.run("iptables-save")
    node.leave("iptables", has=lambda: f"--dport {NODE_PORT} " in node.namespace.run("iptables-save", "-t", "nat"))
    done = node.cleanup()
    names = {member for each in done["removed"]["kube-proxy"] for member in each["members"]}
    assert {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY", "KUBE-FORWARD", "KUBE-POSTROUTING"} <= names
    assert any(name.startswith("KUBE-SEP-") for name in names)
    assert done["kept"] == {}
    left = node.namespace.run("iptables-save")
    assert _rules(left) == _rules(before)
    assert ":KUBE-FIREWALL" in left, "kube-proxy adds to it, but it is kubelet's"
    node.namespace.run(str(node.program), "--cleanup")
    assert _rules(node.namespace.run("iptables-save")) == _rules(left), "kube-proxy itself finds nothing more"
    assert node.cleanup()["removed"] == {}


def _rules(saved: str) -> set[str]:
    """Return chains and rules, without counters; the kernel's own chains and kubelet's do not count."""
    lines = (line.split(" [")[0] for line in saved.splitlines() if line[:1] in {":", "-"})
    return {line for line in lines if not line.endswith(" ACCEPT") and "KUBE-FIREWALL" not in line}


def test_tables_of_the_mode_nftables(node: Node) -> None:
    before = node.namespace.run("nft", "list", "tables")

    def has() -> bool:
        tables = node.namespace.run("nft", "list", "tables")
        return "table ip kube-proxy" in tables and VIP in node.namespace.run("nft", "list", "table", "ip", "kube-proxy")

    node.leave("nftables", has=has)
    told = node.cleanup("--dry-run")["removed"]["kube-proxy"]
    assert "ip kube-proxy" in {each["name"] for each in told}
    assert node.cleanup()["removed"]["kube-proxy"] == told
    assert node.namespace.run("nft", "list", "tables") == before
