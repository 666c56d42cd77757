"""An agent on a real API server, without the operator: what it follows, what it says, what it keeps.

The module has a control plane of its own: the custom resources come only in the middle of it, and the API server is
killed.
"""

from __future__ import annotations

import itertools
import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api import crds, permissions
from pointsman.lab.agent import Agent
from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.servers import Servers
from pointsman.lab.traffic import Answered, connect, fetch
from support.promptness import kept
from support.scenes import health, is_connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pointsman.lab.network import Host

pytestmark = pytest.mark.needs("nftables", "connection tracking")

NODE = "node-1"
NAMESPACE = permissions.NAMESPACE
NODE_PROXY = f"/apis/pointsman.dev/v1alpha1/nodeproxies/{NODE}"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/pointsman-agent-{NODE}"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
VIP = "10.96.0.100"
SERVICES = "/api/v1/namespaces/default/services"
CONFIG = """
apiVersion: pointsman.dev/v1alpha1
kind: ProxyConfig
metadata: {name: file}
spec: {mode: ipvs}
"""


class Ground:
    """One node with an agent that may do what the chart lets it do, and two pods that answer."""

    def __init__(self, plane: ControlPlane, servers: Servers, files: Path) -> None:
        self.plane = plane
        self.files = files
        network = plane.network
        self.node = network.node(NODE, "172.16.0.11")
        self.pods = [network.pod(f"web-{number}", f"192.168.1.{number}", node=self.node) for number in (1, 2)]
        network.build()
        for pod in self.pods:
            servers.start(pod, 80)
        plane.apply(permissions.manifests())
        plane.api.create(
            "/api/v1/nodes", documents.node(NODE, ["172.16.0.11"], ["192.168.1.0/24"], "2026-01-01T00:00:00Z")
        )
        plane.api.create(SERVICES, service("web", VIP))
        plane.api.create(SLICES, endpoint_slice("web", self.pods[:1]))
        self.kubeconfig = plane.service_account(NAMESPACE, "pointsman-agent")

    @contextmanager
    def agent(self, *options: str) -> Iterator[Agent]:
        """An agent with a log of its own; killed at the end."""
        log = self.files / f"agent-{time.monotonic_ns()}.log"
        agent = Agent(self.node, ("--kubeconfig", str(self.kubeconfig), *options), log)
        agent.start()
        try:
            yield agent
        finally:
            agent.kill()

    def server(self, address: str = VIP, port: int = 80) -> str:
        """Connect from the node; return who answered, or "" when nobody did."""
        outcome = connect(self.node, address, port)
        return outcome.server if isinstance(outcome, Answered) else ""

    def metrics(self) -> dict[str, float]:
        _, body = fetch(self.node, "127.0.0.1", 10249, "/metrics")
        lines = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def set_endpoints(self, *pods: Host) -> None:
        # As the real controllers write it: a whole second may lie before the agent's start, and does not count then.
        trigger = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        annotations = {"endpoints.kubernetes.io/last-change-trigger-time": trigger}
        endpoints = endpoint_slice("web", pods)["endpoints"]
        self.plane.api.patch(f"{SLICES}/web", {"metadata": {"annotations": annotations}, "endpoints": endpoints})

    def apply_node_proxy(self, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 (fields of a document)
        self.plane.apply(
            [{"apiVersion": "pointsman.dev/v1alpha1", "kind": "NodeProxy", "metadata": {"name": NODE}, "spec": spec}]
        )
        return self.node_proxy()

    def node_proxy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.api.get(NODE_PROXY)
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.node_proxy().get("status", {})
        return found

    def condition(self, name: str) -> tuple[str, str, int]:
        """Return status, reason and generation of a condition of the NodeProxy."""
        for found in self.status().get("conditions", ()):
            if found["type"] == name:
                return found["status"], found["reason"], found["observedGeneration"]
        return "", "", 0


def service(name: str, address: str, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 (fields of a document)
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": ports, **spec},
    }


def endpoint_slice(name: str, pods: Any) -> dict[str, Any]:  # noqa: ANN401 (hosts)
    ready = {"ready": True}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [pod.address()], "conditions": ready, "nodeName": NODE} for pod in pods],
    }


def until(done: Callable[[], object], *, limit: float = 40.0) -> float:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit, f"not so after {limit:g} s"
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def ground(
    swept: None,  # noqa: ARG001 (swept first)
    require: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ground]:
    for feature in ("network namespaces", "veth devices", "Go"):
        require(feature)
    with ControlPlane() as plane, Servers() as servers:
        yield Ground(plane, servers, tmp_path_factory.mktemp("agents"))


@pytest.fixture
def custom_resources(ground: Ground) -> Iterator[None]:
    ground.plane.apply(crds.documents())
    ground.plane.wait_for_definitions()
    yield
    ground.plane.api.delete(NODE_PROXY)


def until_moved(ground: Ground) -> float:
    """Have another Pod serve; return the seconds until it does, when the first one does again."""
    ground.set_endpoints(*ground.pods[1:])
    took = until(lambda: ground.server() == "web-2")
    ground.set_endpoints(*ground.pods[:1])
    until(lambda: ground.server() == "web-1")
    return took


def test_it_works_without_operator_and_custom_resources(ground: Ground, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    with ground.agent("--config", str(config)) as agent:
        agent.wait_until_ready()
        assert ground.server() == "web-1"
        kept(5, partial(until_moved, ground))
        log = agent.daemon.log.read_text("utf-8")
        assert "mode ipvs is wanted, mode nftables is in force" in log, "the configuration of the file is in force"
        until(lambda: ground.plane.api.find(LEASE))
        lease = ground.plane.api.get(LEASE)
        assert lease["spec"]["holderIdentity"] == NODE
        assert lease["metadata"]["ownerReferences"][0]["kind"] == "Node"
        metrics = ground.metrics()
        assert metrics["pointsman_api_server_up"] == 1
        assert metrics['kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}'] >= 1
        assert metrics['kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="5.0"}'] >= 1
        assert health(agent)["apiServer"] == {"connected": True}
        agent.stop()
        log = agent.daemon.log.read_text("utf-8")
        assert log.splitlines()[-1].endswith("stopping; the kernel keeps its rules"), "nothing is left open"
        assert ground.server() == "web-1"


def test_custom_resources_may_come_while_it_runs(ground: Ground) -> None:
    with ground.agent() as agent:
        agent.wait_until_ready()
        ground.plane.apply(crds.documents())
        ground.plane.wait_for_definitions()
        ground.apply_node_proxy()
        until(lambda: ground.condition("Ready") == ("True", "Programmed", 1), limit=60)
    ground.plane.api.delete(NODE_PROXY)


@pytest.mark.usefixtures("custom_resources")
def test_the_status_says_what_is_in_force(ground: Ground) -> None:
    with ground.agent() as agent:
        agent.wait_until_ready()
        ground.apply_node_proxy(proxyConfig="by-hand")
        until(lambda: ground.condition("Ready") == ("True", "Programmed", 1))
        status = ground.status()
        assert (status["observedGeneration"], status["mode"]) == (1, "nftables")
        assert status["services"] == 2, "kubernetes and web"
        assert status["endpoints"] >= 1
        assert status["problemCount"] == 0
        slices = int(ground.plane.api.get(f"{SLICES}/web")["metadata"]["resourceVersion"])
        assert int(status["resourceVersions"]["endpointSlices"]) >= slices
        assert ground.condition("ModeInForce") == ("True", "AsConfigured", 1)
        ground.apply_node_proxy(mode="ipvs", fallbackModes=["nftables"])
        until(lambda: ground.condition("ModeInForce") == ("True", "FellBack", 2))
        ground.apply_node_proxy(mode="ipvs", fallbackModes=["example.com/absent"])
        until(lambda: ground.condition("ModeInForce") == ("False", "ModeNotSupported", 3))
        assert ground.condition("Ready") == ("True", "Programmed", 3)
        assert any("ipvs" in problem["message"] for problem in ground.status()["problems"])


@pytest.mark.usefixtures("custom_resources")
def test_everyone_is_told_of_a_mode_that_is_not_there(ground: Ground, tmp_path: Path) -> None:
    # Where the kernel has IPVS it is of no use here: an agent that cannot switch its connection tracking on leaves it.
    (tmp_path / "net" / "core").mkdir(parents=True)
    with ground.agent("--sysctl-root", str(tmp_path)) as agent:
        agent.wait_until_ready()
        ground.apply_node_proxy(mode="ipvs", scheduler="lc")
        until(lambda: ground.condition("ModeInForce") == ("True", "FellBack", 1))
        (condition,) = (each for each in ground.status()["conditions"] if each["type"] == "ModeInForce")
        why = condition["message"].removeprefix(
            "mode ipvs is not there on this node; nftables of fallbackModes is in force; ipvs: "
        )
        assert why != condition["message"]
        assert f"mode ipvs is wanted, mode nftables is in force; ipvs: {why}" in agent.daemon.log.read_text("utf-8")
        assert fetch(ground.node, "127.0.0.1", 10249, "/proxyMode")[1] == b"nftables"
        shown = ground.plane.kubectl("get", "npx", NODE, "-o", "wide").splitlines()
        columns = {name: shown[0].index(name) for name in ("MODE ", "WANTED")}
        assert {name: shown[1][at:].split()[0] for name, at in columns.items()} == {
            "MODE ": "nftables",
            "WANTED": "ipvs",
        }
        until(lambda: why in ground.plane.kubectl("describe", "node", NODE))
        said = ground.plane.kubectl("describe", "node", NODE)
        assert "Warning  ProxyModeFellBack" in said
        (problem,) = ground.status()["problems"]
        assert problem["message"] == '"lc" is not there in mode nftables, which is in force; "random" is used'
        ground.plane.api.patch(f"{SERVICES}/web", {"metadata": {"annotations": {"pointsman.dev/scheduler": "sed"}}})
        until(lambda: [each["object"] for each in ground.status()["problems"]][1:] == ["Service default/web"])
        ground.apply_node_proxy(mode="nftables")
        until(lambda: ground.condition("ModeInForce") == ("True", "AsConfigured", 2))
        until(lambda: "Normal   ProxyModeInForce" in ground.plane.kubectl("describe", "node", NODE))
        ground.plane.api.patch(f"{SERVICES}/web", {"metadata": {"annotations": {"pointsman.dev/scheduler": None}}})


@pytest.mark.usefixtures("custom_resources")
def test_a_quiet_agent_writes_no_status(ground: Ground) -> None:
    with ground.agent() as agent:
        agent.wait_until_ready()
        ground.apply_node_proxy()
        until(lambda: ground.condition("Ready")[0] == "True")
        time.sleep(6)  # the counts may follow the conditions
        version = ground.node_proxy()["metadata"]["resourceVersion"]
        times = [condition["lastTransitionTime"] for condition in ground.status()["conditions"]]
        time.sleep(6)
        assert ground.node_proxy()["metadata"]["resourceVersion"] == version
    started = ground.status()["agent"]["startedAt"]
    with ground.agent() as agent:
        agent.wait_until_ready()
        until(lambda: ground.status()["agent"]["startedAt"] != started)
        now = [condition["lastTransitionTime"] for condition in ground.status()["conditions"]]
        assert now == times, "a restart moves no condition"


@pytest.mark.usefixtures("custom_resources")
def test_versions_are_told_at_once_where_somebody_waits(ground: Ground) -> None:
    with ground.agent() as agent:
        agent.wait_until_ready()
        ground.apply_node_proxy(serviceConditions=True)
        until(lambda: ground.condition("Ready")[0] == "True")
        path = "/api/v1/namespaces/default/services/web"
        rounds = itertools.count()

        def until_told() -> float:
            changed = ground.plane.api.patch(path, {"metadata": {"labels": {"round": str(next(rounds))}}})
            version = int(changed["metadata"]["resourceVersion"])
            return until(lambda: int(ground.status()["resourceVersions"]["services"]) >= version)

        for _ in range(2):
            kept(4, until_told)


@pytest.mark.usefixtures("custom_resources")
def test_a_node_that_restarts_alone_does_what_it_did(ground: Ground, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with ground.agent("--state-dir", str(state)) as agent:
        agent.wait_until_ready()
        ground.apply_node_proxy(nodePortRange="32000-32100", proxyConfig="kept")
        until((state / "node-proxy.json").exists)
        assert '"nodePortRange": "32000-32100"' in (state / "node-proxy.json").read_text()
    ground.plane.kill_api_server()
    try:
        with ground.agent("--state-dir", str(state)) as agent:
            until(lambda: b"since" in agent.healthz()[1])
            status, body = agent.healthz()
            assert status == 503, "it has not synced yet"
            assert json.loads(body)["apiServer"]["connected"] is False
            assert ground.server() == "web-1", "the kernel keeps its rules"
            assert "going on with the last configuration (ProxyConfig kept)" in agent.daemon.log.read_text("utf-8")
            ground.plane.start_api_server()
            agent.wait_until_ready()
            until(lambda: ground.condition("Ready") == ("True", "Programmed", 1))
    finally:
        if not ground.plane.api_server.running:
            ground.plane.start_api_server()


def test_an_api_server_that_goes_away_changes_no_rule(ground: Ground) -> None:
    with ground.agent() as agent:
        agent.wait_until_ready()
        ground.plane.kill_api_server()
        try:
            until(lambda: not is_connected(agent))
            assert agent.healthz()[0] == 200
            assert ground.metrics()["pointsman_api_server_up"] == 0
            assert ground.server() == "web-1"
        finally:
            ground.plane.start_api_server()
        ground.set_endpoints(*ground.pods[1:])
        until(lambda: ground.server() == "web-2", limit=40)
        until(lambda: health(agent)["apiServer"] == {"connected": True})
        ground.set_endpoints(*ground.pods[:1])
        until(lambda: ground.server() == "web-1")


def test_a_health_check_port_in_use_is_an_event_on_the_service(ground: Ground) -> None:
    spec = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": True,
        "healthCheckNodePort": 10256,  # the agent's own
    }
    ground.plane.api.create(SERVICES, service("busy", "10.96.0.102", **spec))
    with ground.agent() as agent:
        agent.wait_until_ready()
        until(lambda: "FailedToStartServiceHealthcheck" in ground.plane.kubectl("describe", "service", "busy"))
        said = ground.plane.kubectl("describe", "service", "busy")
        assert "Warning" in said
        assert f"node {NODE}: cannot listen on port 10256" in said
    ground.plane.api.delete(f"{SERVICES}/busy")


def test_missing_rights_are_told_and_harm_no_rule(ground: Ground) -> None:
    ground.plane.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}])
    kubeconfig = ground.plane.service_account("default", "nobody")
    with ground.agent("--kubeconfig", str(kubeconfig)) as agent:
        until(lambda: "cannot watch resource" in agent.daemon.log.read_text("utf-8"))
        assert agent.healthz()[0] == 503
        assert ground.server() == "web-1"


def test_no_way_to_an_api_server_is_told_at_once(ground: Ground, tmp_path: Path) -> None:
    for option in (("--kubeconfig", str(tmp_path / "none")), ("--in-cluster",)):
        agent = Agent(ground.node, option, tmp_path / "agent.log")
        agent.start()
        until(lambda: not agent.daemon.running)  # noqa: B023 (called at once)
        said = (tmp_path / "agent.log").read_text("utf-8")
        assert said.startswith("pointsman agent: ")
        assert "Traceback" not in said
        (tmp_path / "agent.log").unlink()
