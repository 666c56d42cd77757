"""The operator on a real API server, with its ServiceAccount; agents are spoken for by the test.

The module has a control plane of its own: the custom resources come only in the middle of it, and the tests build on
each other in their order.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api import crds, permissions
from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.operators import Operator, Operators
from pointsman.lab.controlplane.plane import ControlPlane
from support.promptness import kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMESPACE = permissions.NAMESPACE
PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
CONFIGS = "/apis/pointsman.dev/v1alpha1/proxyconfigs"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
SERVICES = "/api/v1/namespaces/default/services"
NODES = ("node-1", "node-2", "node-3")


class Ground:
    """A control plane, replicas of the operator, and agents that say what the test has them say."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.operators = Operators(plane)
        plane.apply(permissions.manifests(NAMESPACE))
        for number, name in enumerate(NODES, 1):
            self.add_node(name, number)

    def add_node(self, name: str, number: int) -> None:
        node = documents.node(name, [f"172.16.0.{30 + number}"], [f"192.168.{number}.0/24"], "2026-01-01T00:00:00Z")
        self.plane.api.create("/api/v1/nodes", node)
        self.plane.apply([lease(name, 3600)])

    def configure(self, name: str = "default", **spec: Any) -> None:  # noqa: ANN401 -- fields of a document
        self.plane.apply(
            [{"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": name}, "spec": spec}]
        )

    def proxies(self) -> dict[str, dict[str, Any]]:
        return {found["metadata"]["name"]: found for found in self.plane.api.get(PROXIES)["items"]}

    def specs(self, field: str) -> dict[str, Any]:
        return {name: found["spec"][field] for name, found in self.proxies().items()}

    def condition(self, path: str, kind: str) -> tuple[str, str]:
        """Return status and reason."""
        for found in (self.plane.api.get(path).get("status") or {}).get("conditions", ()):
            if found["type"] == kind:
                return found["status"], found["reason"]
        return "", ""

    def report(self, *names: str, ready: str = "True", reason: str = "Programmed", versions: str = "") -> None:
        """Have agents say that what their NodeProxy says is in force."""
        for name, proxy in self.proxies().items():
            if name in names:
                stamp = {"lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""}
                generation = proxy["metadata"]["generation"]
                conditions = [
                    {"type": "Ready", "status": ready, "reason": reason, "observedGeneration": generation, **stamp},
                    {"type": "ModeInForce", "status": "True", "reason": "AsConfigured", **stamp},
                ]
                status = {"observedGeneration": generation, "mode": "nftables", "conditions": conditions}
                if versions:
                    status["resourceVersions"] = {"services": versions, "endpointSlices": versions}
                self.plane.api.patch(f"{PROXIES}/{name}/status", {"status": status})

    def wait(self, done: Callable[[], bool], what: str, patience: float = 40.0) -> float:
        """Wait until something is so; return the seconds that it took."""
        begun = time.monotonic()
        while not done():
            if time.monotonic() - begun > patience:
                logs = "\n".join(each.daemon.log.read_text()[-3000:] for each in self.operators.replicas)
                pytest.fail(f"waited {patience:g} s for {what}\n{logs}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def leader(self) -> str:
        lease = self.plane.api.find(f"{LEASES}/pointsman-operator")
        holder: str = (lease or {"spec": {}})["spec"].get("holderIdentity") or ""
        return holder

    def complete(self) -> None:
        """Start the replicas again that were ended."""
        for replica in self.operators.replicas:
            if not replica.daemon.running:
                replica.start()
                replica.wait_until_ready()

    def lose_leader(self, end: Callable[[Operator], None]) -> str:
        """End the replica that leads, of all of them; return its name."""
        self.complete()
        leader = self.leader()
        end(next(each for each in self.operators.replicas if each.host.name == leader))
        return leader

    def wait_for_another(self, leader: str) -> float:
        """Wait until another replica leads; return the seconds that it took."""
        return self.wait(lambda: self.leader() not in ("", leader), "another leader")


def lease(node: str, seconds: int) -> dict[str, Any]:
    """Write an agent's Lease."""
    labels = {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "agent"}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": f"pointsman-agent-{node}", "namespace": NAMESPACE, "labels": labels},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": seconds, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }


@pytest.fixture(scope="module")
def ground(ground: None) -> Iterator[Ground]:  # noqa: ARG001 - what a control plane needs
    with ControlPlane() as plane:
        made = Ground(plane)
        try:
            yield made
        finally:
            made.operators.close()


def test_without_the_custom_resources_it_waits_and_says_how_to_install_them(ground: Ground) -> None:
    kubeconfig = ground.plane.service_account(NAMESPACE, "pointsman-operator")
    operator = ground.operators._declare(1, kubeconfig)
    ground.plane.network.build()
    ground.operators.replicas.append(operator)
    operator.start()
    ground.wait(lambda: "kubectl apply -f crds/" in operator.daemon.log.read_text(), "a word on the remedy")
    assert operator.daemon.running
    assert not operator.is_healthy()
    ground.plane.apply(crds.documents())
    ground.wait(operator.is_healthy, "the operator to see the custom resources", 60)


def test_each_node_gets_a_node_proxy_that_its_node_owns(ground: Ground) -> None:
    assert ground.proxies() == {}
    ground.configure(scheduler="rr")
    ground.wait(lambda: ground.specs("scheduler") == dict.fromkeys(NODES, "rr"), "NodeProxies")
    proxy = ground.proxies()["node-1"]
    node = ground.plane.api.get("/api/v1/nodes/node-1")
    (owner,) = proxy["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": node["metadata"]["uid"]}
    assert proxy["spec"]["proxyConfig"] == "default"
    assert "finalizers" not in proxy["metadata"]
    assert "annotations" not in proxy["metadata"]
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Ready") == ("False", "NodesNotReady"), "the status")


def test_the_status_is_the_dashboard(ground: Ground) -> None:
    ground.report(*NODES)
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Ready") == ("True", "AllNodesReady"), "Ready")
    shown = ground.plane.kubectl("get", "pxc,npx")
    configs, proxies = shown.strip().split("\n\n")
    assert configs.splitlines()[1].split()[:5] == [
        "proxyconfig.pointsman.dev/default",
        "nftables",
        "rr",
        "3/3",
        "Complete",
    ]
    assert [line.split()[:3] for line in proxies.splitlines()[1:]] == [
        [f"nodeproxy.pointsman.dev/{name}", "nftables", "True"] for name in NODES
    ]


def test_a_change_rolls_out_node_by_node_and_stops_where_a_node_does_not_follow(ground: Ground) -> None:
    ground.configure(scheduler="sh", rollout={"maxUnavailable": 1})
    for done in range(len(NODES)):
        wanted = {name: "sh" if number <= done else "rr" for number, name in enumerate(NODES)}
        ground.wait(lambda wanted=wanted: ground.specs("scheduler") == wanted, f"{wanted}")  # type: ignore[misc]
        time.sleep(0.5)
        assert ground.specs("scheduler") == wanted
        ground.report(NODES[done])
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Progressing") == ("False", "Complete"), "Complete")


def test_nodes_and_configurations_come_and_go(ground: Ground) -> None:
    ground.add_node("node-4", 4)
    ground.wait(lambda: "node-4" in ground.proxies(), "a NodeProxy of the new node")
    ground.configure("special", scheduler="random", priority=5, nodeSelector={"matchLabels": {"special": "yes"}})
    ground.plane.api.patch("/api/v1/nodes/node-4", {"metadata": {"labels": {"special": "yes"}}})
    ground.wait(lambda: ground.specs("proxyConfig").get("node-4") == "special", "the other configuration")
    ground.plane.api.delete(f"{CONFIGS}/special")
    ground.wait(lambda: ground.specs("proxyConfig").get("node-4") == "default", "the first configuration again")
    ground.plane.api.delete("/api/v1/nodes/node-4")
    ground.wait(lambda: "node-4" not in ground.proxies(), "the NodeProxy to go with its node")


def test_what_was_deleted_or_changed_by_hand_comes_back(ground: Ground) -> None:
    ground.plane.api.delete(f"{PROXIES}/node-2")
    ground.wait(lambda: ground.specs("scheduler").get("node-2") == "sh", "the NodeProxy again")
    ground.report("node-2")
    ground.plane.api.patch(f"{PROXIES}/node-2", {"spec": {"scheduler": "random"}})
    ground.wait(lambda: ground.specs("scheduler")["node-2"] == "sh", "the spec as it should be")
    ground.report("node-2")
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Ready")[0] == "True", "Ready")


def test_the_condition_of_a_service_follows_the_kernels(ground: Ground) -> None:
    ground.configure(scheduler="sh", serviceConditions=True, rollout={"maxUnavailable": "100%"})
    ground.wait(lambda: set(ground.specs("serviceConditions").values()) == {True}, "the new configuration")
    service = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    made = ground.plane.api.create(SERVICES, {"apiVersion": "v1", "kind": "Service", **service})
    ground.report(*NODES, versions="1")
    path, programmed = f"{SERVICES}/web", "pointsman.dev/Programmed"
    ground.wait(lambda: ground.condition(path, programmed)[0] == "False", "the condition to be False")
    latest = str(int(made["metadata"]["resourceVersion"]) + 1000)
    ground.report(*NODES, versions=latest)
    ground.plane.kubectl("wait", f"--for=condition={programmed}", "service/web", "--timeout=40s")
    ground.configure(scheduler="sh", rollout={"maxUnavailable": "100%"})
    ground.wait(lambda: ground.condition(path, programmed) == ("", ""), "the condition to go")
    ground.report(*NODES)
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Ready")[0] == "True", "Ready")


def test_a_restart_writes_nothing_on_any_node(ground: Ground) -> None:
    (operator,) = ground.operators.replicas
    before = [(each["metadata"]["generation"], each["spec"]) for each in ground.proxies().values()]
    versions = {name: each["metadata"]["resourceVersion"] for name, each in ground.proxies().items()}
    for end in (operator.stop, operator.kill):
        end()
        operator.start()
        operator.wait_until_ready()
        ground.wait(lambda: ground.leader() == operator.host.name, "the operator to lead again")
        time.sleep(2)
    assert [(each["metadata"]["generation"], each["spec"]) for each in ground.proxies().values()] == before
    assert {name: each["metadata"]["resourceVersion"] for name, each in ground.proxies().items()} == versions


def test_a_leader_that_stops_is_followed_at_once(ground: Ground) -> None:
    ground.operators.start(1)
    kept(4, lambda: ground.wait_for_another(ground.lose_leader(Operator.stop)))
    ground.configure(scheduler="random", rollout={"maxUnavailable": "100%"})
    ground.wait(lambda: set(ground.specs("scheduler").values()) == {"random"}, "the new leader to write")
    ground.complete()


def test_a_leader_that_is_killed_is_followed_when_its_lease_is_over(ground: Ground) -> None:
    def until_followed() -> float:
        leader = ground.lose_leader(Operator.kill)
        ground.configure(scheduler="rr", rollout={"maxUnavailable": "100%"})
        return ground.wait_for_another(leader)

    kept(20, until_followed)
    ground.wait(lambda: set(ground.specs("scheduler").values()) == {"rr"}, "the new leader to write")


def test_an_agent_that_falls_silent_is_unknown(ground: Ground) -> None:
    ground.report(*NODES)
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Ready")[0] == "True", "Ready")
    ground.plane.apply([lease("node-1", 5)])
    silent = ("Unknown", "AgentSilent")
    ground.wait(lambda: ground.condition(f"{PROXIES}/node-1", "Ready") == silent, "the agent to be found silent", 60)
    assert ground.condition(f"{PROXIES}/node-2", "Ready") == ("True", "Programmed")
    ground.wait(lambda: ground.condition(f"{CONFIGS}/default", "Degraded")[0] == "True", "Degraded")
    assert json.loads(ground.plane.kubectl("get", "npx", "node-1", "-o", "json"))["status"]["mode"] == "nftables"


def test_nothing_was_refused_to_the_operator(ground: Ground) -> None:
    for replica in ground.operators.replicas:
        assert "orbidden" not in replica.daemon.log.read_text()
