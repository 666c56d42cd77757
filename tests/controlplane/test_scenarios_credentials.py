"""An API server without streamed lists, and an agent whose token ends: on a control plane of its own.

No custom resources are there: the agent does without.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api import permissions
from pointsman.lab.agent import Agent
from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.api import ApiRefusedError
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.servers import Servers
from pointsman.lab.traffic import Held, Load, Refused, connect
from support.scenes import PATIENCE, endpoint_slice, list_path, path, server_of, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pointsman.lab.network import Host

pytestmark = pytest.mark.needs("nftables", "connection tracking")

NODE = "lone"
NAMESPACE = permissions.NAMESPACE
ACCOUNT = "pointsman-agent"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
TOKENS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/pointsman-agent-{NODE}"
STREAM = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
MANY = 520
"""Services: more than one page of a list."""


class Lone:
    """One node with two pods that answer, and the Service ``web`` in front of them."""

    def __init__(self, plane: ControlPlane, servers: Servers, files: Path) -> None:
        self.plane = plane
        self.log = files / "agent.log"
        network = plane.network
        self.node = network.node(NODE, "172.16.0.31")
        self.pods = [network.pod(f"web-{number}", f"192.168.31.{number}", node=self.node) for number in (1, 2)]
        network.build()
        for pod in self.pods:
            servers.start(pod, 80)
        plane.apply(permissions.manifests())
        plane.api.create("/api/v1/nodes", documents.node(NODE, ["172.16.0.31"], [], "2026-01-01T00:00:00Z"))
        self.web = self.create(service("web"))
        self.piece = self.create(endpoint_slice("web", self.pods[0].address()))
        self.address: str = self.web["spec"]["clusterIP"]
        self.kubeconfig = plane.service_account(NAMESPACE, ACCOUNT)
        self.token_file = files / "token"
        text = self.kubeconfig.read_text("utf-8")
        own = str(plane.files / "tokens" / f"{NAMESPACE}.{ACCOUNT}")
        assert own in text
        self.kubeconfig = files / "kubeconfig"
        self.kubeconfig.write_text(text.replace(own, str(self.token_file)), "utf-8")
        self.agent = Agent(self.node, ("--kubeconfig", str(self.kubeconfig)), self.log)

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        return self.plane.api.create(list_path(document), document)

    def answers(self, pod: Host) -> None:
        """Make a pod the one endpoint of the Service, and wait until connections come to it."""
        endpoints = endpoint_slice("web", pod.address())["endpoints"]
        self.plane.api.patch(path(self.piece), {"endpoints": endpoints})
        until(lambda: server_of(self.node, self.address, 80) == pod.name)

    def renew_token(self, bound_to: str) -> str:
        """Put a token into the agent's file that is good as long as a Secret is there, which is made for it."""
        secret = self.plane.api.create(SECRETS, {"metadata": {"name": bound_to}})
        bound = {"apiVersion": "v1", "kind": "Secret", "name": bound_to, "uid": secret["metadata"]["uid"]}
        answer = self.plane.api.create(TOKENS, {"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}})
        token: str = answer["status"]["token"]
        draft = self.token_file.with_suffix(".draft")
        draft.write_text(token, "ascii")
        draft.rename(self.token_file)
        return token

    def has_ended(self, token: str) -> bool:
        """Tell whether the API server does not know a token any more."""
        review = self.plane.api.create(REVIEWS, {"spec": {"token": token}})
        return not review["status"].get("authenticated", False)

    def unlisted(self, addresses: list[str]) -> list[str]:
        """Return the cluster IPs that are not in the node's rules."""
        listed = self.node.namespace.run("nft", "list", "ruleset")
        return [address for address in addresses if f"{address} . tcp . 80" not in listed]

    def lease_renewed_at(self) -> float:
        lease = self.plane.api.find(LEASE)
        return datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp() if lease else 0.0


def until(done: Callable[[], object], *, limit: float = PATIENCE) -> float:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit, f"not so after {limit:g} s"
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def lone(
    ground: None,  # noqa: ARG001 - asked for first
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lone]:
    plane = ControlPlane()
    plane.api_server.command.append("--feature-gates=WatchList=false")
    with plane, Servers() as servers:
        yield Lone(plane, servers, tmp_path_factory.mktemp("lone"))


@pytest.fixture
def agent(lone: Lone) -> Iterator[Agent]:
    lone.log.write_bytes(b"")
    lone.renew_token(f"first-{time.monotonic_ns()}")
    lone.agent.start()
    try:
        lone.agent.wait_until_ready()
        yield lone.agent
    finally:
        lone.agent.kill()


def test_without_streamed_lists_all_pages_are_read(lone: Lone) -> None:
    with pytest.raises(ApiRefusedError, match="sendInitialEvents is forbidden"):
        next(iter(lone.plane.api.watch("/api/v1/services", STREAM, timeout=5)))
    many = [service(f"many-{number:03}") for number in range(MANY)]
    for document in many:
        document["metadata"]["labels"] = {"page": "some"}
    with ThreadPoolExecutor(4) as pool:
        addresses = [made["spec"]["clusterIP"] for made in pool.map(lone.create, many)]
    lone.renew_token("pages")
    lone.agent.start()
    try:
        lone.agent.wait_until_ready()
        assert server_of(lone.node, lone.address, 80) == "web-1"
        # While the kernel grows a hash table, a listing of it lacks elements that are there.
        until(lambda: not lone.unlisted(addresses))
        lone.answers(lone.pods[1])
        lone.plane.api.delete(path(many[-1]))
        until(lambda: not isinstance(connect(lone.node, addresses[-1], 80, timeout=0.3), Refused))
        lone.plane.kill_api_server()
        lone.plane.start_api_server()
        lone.answers(lone.pods[0])
        log = lone.log.read_text("utf-8")
        assert "Traceback" not in log
        assert "sendInitialEvents" not in log, "a server that has no streams is nobody's problem"
    finally:
        lone.agent.kill()
        lone.plane.api.delete("/api/v1/namespaces/default/services?labelSelector=page%3Dsome")


def test_it_goes_on_when_its_token_ends(lone: Lone, agent: Agent) -> None:
    """The file has a new token, the old one is refused, all connections are cut: it has to use the new one."""
    first = lone.token_file.read_text("ascii")
    until(lambda: lone.lease_renewed_at() > 0)
    with Held(lone.node, lone.address, 80, count=5) as held, Load(lone.node, lone.address, 80) as load:
        lone.renew_token("second")
        secrets = lone.plane.api.get(SECRETS)["items"]
        for secret in secrets:
            if secret["metadata"]["name"].startswith("first-"):
                lone.plane.api.delete(f"{SECRETS}/{secret['metadata']['name']}")
        until(lambda: lone.has_ended(first))
        ended_at = time.time()
        lone.plane.kill_api_server()
        lone.plane.start_api_server()
        assert lone.has_ended(first)
        lone.answers(lone.pods[1])
        until(lambda: lone.lease_renewed_at() > ended_at)
        lone.answers(lone.pods[0])
        load.wait(20)
        assert held.broken() == []
    assert load.spread().failures == []
    assert agent.daemon.running
    assert agent.healthz()[0] == 200
