"""Custom resources into a cluster and agents out of it, by accounts that may do no more than that.

The module has a control plane of its own, which knows nothing of Pointsman at first. There are no kubelets: `Kubelet`
does for one Pod what one would do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api import crds, permissions
from pointsman.lab.agent import Agent
from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("nftables", "connection tracking")

NAMESPACE = permissions.NAMESPACE
NODE = "node-1"
AGENTS = "pointsman-agent"
DAEMON_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CRDS = [document["metadata"]["name"] for document in crds.documents()]


class Ground:
    """A node, the accounts of all programs, and commands that run as one of them."""

    def __init__(self, plane: ControlPlane, files: Path) -> None:
        self.plane = plane
        self.files = files
        self.node = plane.network.node(NODE, "172.16.0.11")
        plane.network.build()
        plane.apply(permissions.manifests())
        plane.apply([*permissions.granted(permissions.CRDS), *permissions.granted(permissions.UNINSTALLER)])
        plane.api.create("/api/v1/nodes", documents.node(NODE, ["172.16.0.11"], [], "2026-01-01T00:00:00Z"))

    def run(self, account: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours as an account; its output holds the errors, too."""
        command = self.command(account, *arguments)
        with self.plane.namespace.entered():
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    def daemon(self, account: str, *arguments: str) -> Daemon:
        """Prepare a command of ours that runs as an account beside the test."""
        log = self.files / f"{account}-{time.monotonic_ns()}.log"
        return Daemon(arguments[0], self.plane.namespace, self.command(account, *arguments), log)

    def command(self, account: str, *arguments: str) -> list[str]:
        kubeconfig = self.plane.service_account(NAMESPACE, account)
        return [sys.executable, "-m", "pointsman", *arguments, "--kubeconfig", str(kubeconfig)]

    def agent(self, *options: str) -> Agent:
        """Make an agent that belongs to the DaemonSet; it is not started yet."""
        kubeconfig = self.plane.service_account(NAMESPACE, AGENTS)
        log = self.files / f"agent-{time.monotonic_ns()}.log"
        words = ("--kubeconfig", str(kubeconfig), "--clean-up-with", AGENTS, "--metrics-address", "", *options)
        return Agent(self.node, words, log)

    def make_daemon_set(self) -> dict[str, Any]:
        """Make the DaemonSet, and bind its Pod to the node, as the scheduler would; return the Pod."""
        self.plane.api.create(DAEMON_SETS, daemon_set())
        until(lambda: self.plane.api.get(PODS)["items"])
        (pod,) = self.plane.api.get(PODS)["items"]
        self.plane.api.create(f"{PODS}/{pod['metadata']['name']}/binding", documents.binding(pod, NODE))
        found: dict[str, Any] = self.plane.api.get(f"{PODS}/{pod['metadata']['name']}")
        return found

    def delete_daemon_set(self) -> None:
        """Make an end of the DaemonSet and its Pods by force."""
        self.plane.api.delete(f"{DAEMON_SETS}/{AGENTS}", {"propagationPolicy": "Orphan"})
        until(lambda: self.plane.api.find(f"{DAEMON_SETS}/{AGENTS}") is None)
        for pod in self.plane.api.get(PODS)["items"]:
            self.plane.api.delete(f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})

    def tables(self) -> list[str]:
        """Return the tables of nftables on the node."""
        with self.node.namespace.entered():
            done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def kubelet(self, pod: dict[str, Any], agent: Agent) -> None:
        """Wait until the Pod is to go, end the agent, and say that it is gone."""
        path = f"{PODS}/{pod['metadata']['name']}"
        until(lambda: self.plane.api.get(path)["metadata"].get("deletionTimestamp"))
        agent.stop()
        self.plane.api.delete(path, {"gracePeriodSeconds": 0})


def daemon_set() -> dict[str, Any]:
    labels = {"app": AGENTS}
    container = {"name": "agent", "image": "pointsman"}
    spec = {"serviceAccountName": AGENTS, "containers": [container], "tolerations": [{"operator": "Exists"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENTS},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def until(done: Callable[[], object], *, limit: float = 90.0) -> None:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit, f"not so after {limit:g} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def made(
    ground: None,  # noqa: ARG001 - asked for first
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ground]:
    with ControlPlane() as plane:
        yield Ground(plane, tmp_path_factory.mktemp("install"))


@pytest.fixture
def pod(made: Ground) -> Iterator[dict[str, Any]]:
    """The Pod of a DaemonSet that is there."""
    yield made.make_daemon_set()
    made.delete_daemon_set()


def established(made: Ground) -> set[str]:
    found = made.plane.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    return {
        definition["metadata"]["name"]
        for definition in found
        for condition in definition.get("status", {}).get("conditions", ())
        if (condition["type"], condition["status"]) == ("Established", "True")
    }


def test_custom_resources_come_into_an_empty_cluster(made: Ground) -> None:
    assert established(made) == set()
    done = made.run("pointsman-crds", "crds", "--apply")
    assert done.returncode == 0, done.stdout
    assert established(made) == set(CRDS)
    assert done.stdout.splitlines()[-1] == f"the API server serves {CRDS[-1]}"
    made.plane.kubectl("get", "pxc,npx")


def test_older_custom_resources_become_those_of_this_release(made: Ground) -> None:
    made.run("pointsman-crds", "crds", "--apply")
    older = json.loads(made.plane.kubectl("get", "crd", CRDS[0], "-o", "json"))
    del older["spec"]["versions"][0]["additionalPrinterColumns"]
    older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].pop("description", None)
    made.plane.apply([older])  # as another owner, such as Helm
    done = made.run("pointsman-crds", "crds", "--apply")
    assert done.returncode == 0, done.stdout
    now = json.loads(made.plane.kubectl("get", "crd", CRDS[0], "-o", "json", "--show-managed-fields"))
    wanted = crds.documents()[0]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in now["spec"]["versions"][0]["additionalPrinterColumns"]] == [
        column["name"] for column in wanted
    ]
    owners = {(entry["manager"], entry["operation"]) for entry in now["metadata"]["managedFields"]}
    assert ("pointsman", "Apply") in owners


def test_who_may_not_write_custom_resources_is_told(made: Ground) -> None:
    done = made.run("pointsman-uninstaller", "crds", "--apply")
    assert done.returncode == 1
    assert "the API server refuses: " in done.stdout
    assert "let the account create and patch customresourcedefinitions" in done.stdout


def test_custom_resources_wait_for_an_api_server_that_is_away(made: Ground) -> None:
    waiting = made.daemon("pointsman-crds", "crds", "--apply")
    made.plane.kill_api_server()
    try:
        waiting.start()
        waiting.wait_until(lambda: "is not ready" in waiting.log.read_text("utf-8"), "does not say so", patience=90)
    finally:
        made.plane.start_api_server()
        made.plane.restart_controllers()  # they would back off for up to a minute
    until(lambda: not waiting.running)
    assert waiting.log.read_text("utf-8").splitlines()[-1] == f"the API server serves {CRDS[-1]}"


def test_a_restarted_agent_leaves_its_rules(made: Ground, pod: dict[str, Any]) -> None:
    assert pod["spec"]["nodeName"] == NODE
    agent = made.agent()
    agent.start()
    agent.wait_until_ready()
    agent.stop()
    assert made.tables() == ["table ip pointsman", "table ip6 pointsman"]
    last = agent.daemon.log.read_text("utf-8").splitlines()[-1]
    assert last.endswith(f"DaemonSet {NAMESPACE}/{AGENTS} is still there: the kernel keeps its rules")


@pytest.mark.usefixtures("pod")
def test_without_the_api_server_rules_stay(made: Ground) -> None:
    agent = made.agent()
    agent.start()
    agent.wait_until_ready()
    made.plane.kill_api_server()
    try:
        agent.stop()
    finally:
        made.plane.start_api_server()
        made.plane.restart_controllers()  # they would back off for up to a minute
    assert made.tables() == ["table ip pointsman", "table ip6 pointsman"]
    last = agent.daemon.log.read_text("utf-8").splitlines()[-1]
    assert "the API server could not be asked: " in last


def test_an_uninstallation_leaves_nothing_on_the_node(made: Ground, pod: dict[str, Any], tmp_path: Path) -> None:
    agent = made.agent("--state-dir", str(tmp_path))
    agent.start()
    agent.wait_until_ready()
    (tmp_path / "node-proxy.json").write_text("{}")
    uninstalling = made.daemon("pointsman-uninstaller", "uninstall")
    uninstalling.start()
    said = uninstalling.log
    uninstalling.wait_until(lambda: f"1 node: {NODE}" in said.read_text("utf-8"), "names no node", patience=90)
    made.kubelet(pod, agent)
    until(lambda: not uninstalling.running)
    assert said.read_text("utf-8").splitlines()[-1].startswith("every agent is gone")
    assert made.plane.api.find(f"{DAEMON_SETS}/{AGENTS}") is None
    assert made.tables() == []
    assert list(tmp_path.iterdir()) == []
    assert "deleted: removing all that Pointsman put into this node" in agent.daemon.log.read_text("utf-8")
    again = made.run("pointsman-uninstaller", "uninstall")
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1].startswith("every agent is gone")


@pytest.mark.usefixtures("pod")
def test_a_node_that_does_not_end_its_agent_is_named(made: Ground) -> None:
    done = made.run("pointsman-uninstaller", "uninstall", "--timeout", "3")
    assert done.returncode == 1
    assert f"after 3 s there are still agents on 1 node: {NODE}" in done.stdout


def test_another_daemon_set_cannot_be_uninstalled(made: Ground) -> None:
    done = made.run("pointsman-uninstaller", "uninstall", "--daemonset", "coredns")
    assert done.returncode == 1
    assert "let the account delete daemonsets.apps of the name coredns" in done.stdout
