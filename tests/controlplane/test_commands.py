"""`pointsman diff` and `pointsman trace` on nodes of a live cluster, with no more rights than the agent there has."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.permissions import AGENT, NAMESPACE
from support.operated import configured
from support.scenes import PATIENCE, made, service
from support.web import PORT, Web, web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.lab.controlplane.cluster import LiveCluster, LiveNode

NODE = "node01"


class Commands:
    """Runs Pointsman's commands on a node."""

    def __init__(self, cluster: LiveCluster, node: LiveNode, kubeconfig: Path) -> None:
        self.cluster = cluster
        self.node = node
        self.kubeconfig = kubeconfig

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        options = ("--node-name", self.node.host.name, "--kubeconfig", str(self.kubeconfig))
        command = (sys.executable, "-m", "pointsman", name, *options, *words)
        with self.node.host.namespace.entered():
            return subprocess.run(command, capture_output=True, text=True, check=False)

    def trace(self, source: str, destination: str, *words: str) -> dict[str, Any]:
        done = self.run("trace", "--from", source, "--to", destination, "-o", "json", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_until_in_force(self, mode: str) -> None:
        """Wait until the node has everything: other tests' objects may just have gone."""
        last = []

        def is_in_force() -> bool:
            last[:] = [self.run("diff")]
            told = last[0]
            return (told.returncode, told.stdout) == (0, "") and told.stderr.endswith(f", mode {mode}\n")

        self.cluster.wait_until(is_in_force, lambda: f"diff without a line in mode {mode}: {last}", patience=PATIENCE)


@pytest.fixture(scope="module")
def traced(cluster: LiveCluster) -> Iterator[Web]:
    with web(cluster, "traced", replicas=2) as running:
        yield running


@pytest.fixture
def commands(cluster: LiveCluster) -> Commands:
    return Commands(cluster, cluster.nodes[NODE], cluster.plane.service_account(NAMESPACE, AGENT.account))


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def mode(request: pytest.FixtureRequest, cluster: LiveCluster) -> Iterator[str]:
    """A mode in force on all nodes: the one that they have by default, and one to which they change."""
    found: str = request.param
    if found == "nftables":
        yield found
        return
    with configured(cluster, mode=found):
        yield found


@pytest.mark.usefixtures("traced")
def test_what_is_in_force_has_no_difference(mode: str, commands: Commands) -> None:
    commands.wait_until_in_force(mode)
    found = json.loads(commands.run("diff", "-o", "json").stdout)
    assert (found["node"], found["mode"], found["inForce"], found["notes"]) == (NODE, mode, True, [])
    assert found["frontends"] >= 2, "kubernetes and traced"


def test_what_no_agent_has_brought_in_force_is_named(mode: str, commands: Commands) -> None:
    commands.wait_until_in_force(mode)
    agent = commands.node.agent
    agent.kill()
    try:
        with made(commands.cluster, service("unseen")) as (unseen,):
            done = commands.run("diff")
            assert done.returncode == 1, done
            address = unseen["spec"]["clusterIP"]
            assert done.stdout.splitlines() == ["Service default/unseen:http", f"- {address}:80/tcp"]
    finally:
        agent.start()
        agent.wait_until_ready()


def test_a_connection_is_traced_to_the_pod_that_has_it(mode: str, commands: Commands, traced: Web) -> None:
    client, destination = commands.node.client, f"{traced.address}:{PORT}"
    with closing(client.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)) as connection:
        connection.settimeout(10)
        connection.connect((traced.address, PORT))
        port = connection.getsockname()[1]
        found = commands.trace(client.address(), destination)
    (frontend,) = found["kernel"]
    (tracked,) = (each for each in found["connections"] if each["clientPort"] == port)
    pods = {(each["status"]["podIP"], 80) for each in pods_of(commands.cluster, traced)}
    assert found["mode"] == mode
    assert {(each["address"], each["port"]) for each in frontend["backends"]} == pods
    assert tuple(tracked["answering"]) in pods
    assert tracked["state"] == "ESTABLISHED"
    assert found["differences"] == []
    assert found["explanation"]["servicePort"] == "default/traced", "the port has no name"
    assert commands.trace(client.address(), destination, "--agent", "")["mode"] == mode, "the kernel tells it, too"


def pods_of(cluster: LiveCluster, running: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.plane.api.get("/api/v1/pods", {"labelSelector": f"app={running.name}"})[
        "items"
    ]
    return found


@pytest.mark.parametrize("command", ["diff", "trace"])
def test_without_the_agents_rights_it_says_which_are_missing(cluster: LiveCluster, command: str) -> None:
    cluster.plane.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "onlooker"}}])
    commands = Commands(cluster, cluster.nodes[NODE], cluster.plane.service_account("default", "onlooker"))
    asked = ("--from", "192.168.0.9", "--to", "10.96.0.1:443") if command == "trace" else ()
    done = commands.run(command, *asked, "--timeout", "10")
    assert (done.returncode, done.stdout) == (1 if command == "trace" else 2, "")
    assert "system:serviceaccount:default:onlooker" in done.stderr
    assert 'cannot watch resource "services"' in done.stderr or 'cannot list resource "services"' in done.stderr
    assert "Traceback" not in done.stderr
