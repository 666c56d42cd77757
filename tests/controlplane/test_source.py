"""The source on a real API server, with the rights that the chart gives to agents.

The module has a control plane of its own: its API server is stopped, killed and compacted.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api import crds, permissions
from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.model.objects import ObjectKey
from pointsman.sources.apiserver.access import Access
from pointsman.sources.apiserver.client import connect
from pointsman.sources.apiserver.source import ApiServerSource, resources
from support.promptness import kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pointsman.model.parse import Object
    from pointsman.model.problems import Problem
    from pointsman.sources.protocol import Batch

NODE = "source-node"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
ENDPOINTS = "/api/v1/namespaces/default/endpoints"


class Follower:
    """A source in a thread of its own, in the network of the control plane, and what it told."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self.plane = plane
        self.source: ApiServerSource
        self.objects: dict[ObjectKey, Object] = {}
        self.gone: list[ObjectKey] = []
        self.complete = False
        self.problems: tuple[Problem, ...] = ()
        self.versions: dict[Any, int] = {}
        self._access = Access(kubeconfig)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def has(self, kind: Any, name: str, namespace: str = "default") -> bool:  # noqa: ANN401 (one of the kinds)
        return ObjectKey(kind, namespace, name) in self.objects

    def _run(self) -> None:
        with self.plane.namespace.entered(), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._follow())
            except asyncio.CancelledError:
                return

    async def _follow(self) -> None:
        self._task = asyncio.current_task()
        async with connect(self._access) as client:
            self.source = ApiServerSource(client, NODE)
            async with aclosing(self.source.batches()) as batches:
                async for batch in batches:
                    self._take(batch)

    def _take(self, batch: Batch) -> None:
        for change in batch.changes:
            if change.obj is None:
                self.objects.pop(change.key, None)
                self.gone.append(change.key)
            else:
                self.objects[change.key] = change.obj
        self.complete = self.complete or batch.complete
        self.problems = self.problems if batch.problems is None else batch.problems
        self.versions |= batch.versions


def until(done: Callable[[], object], *, limit: float = 40.0) -> float:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit, f"not so after {limit:g} s"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def plane(swept: None, require: Callable[[str], None]) -> Iterator[ControlPlane]:  # noqa: ARG001 (swept first)
    for feature in ("network namespaces", "veth devices", "Go"):
        require(feature)
    with ControlPlane() as plane:
        plane.apply(permissions.manifests())
        node = documents.node(NODE, ["172.16.0.77"], ["192.168.77.0/24"], "2026-01-01T00:00:00Z")
        plane.api.create("/api/v1/nodes", node)
        plane.api.create("/api/v1/nodes", {**node, "metadata": {"name": "another"}})
        yield plane


@contextmanager
def following(plane: ControlPlane, kubeconfig: Path | None = None) -> Iterator[Follower]:
    """Follow as an agent may, from a complete picture on."""
    follower = Follower(plane, kubeconfig or plane.service_account(permissions.NAMESPACE, "pointsman-agent"))
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()


def service(name: str, **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    return {"metadata": {"name": name, **metadata}, "spec": {"ports": [{"port": 80}]}}


def test_it_tells_what_concerns_the_node(plane: ControlPlane) -> None:
    plane.api.create(SERVICES, service("seen"))
    plane.api.create(SERVICES, service("other", labels={"service.kubernetes.io/service-proxy-name": "x"}))
    plane.api.create(ENDPOINTS, {"metadata": {"name": "seen"}, "subsets": []})
    with following(plane) as follower:
        until(lambda: follower.complete)
        assert not follower.problems
        assert follower.has("Service", "seen")
        assert follower.has("Service", "kubernetes")
        assert not follower.has("Service", "other")
        assert follower.has("EndpointSlice", "kubernetes")
        assert follower.has("Endpoints", "seen")
        assert not follower.has("Endpoints", "kubernetes")
        assert follower.has("ServiceCIDR", "kubernetes", "")
        assert follower.has("Namespace", "kube-system", "")
        assert [key.name for key in follower.objects if key.kind == "Node"] == [NODE]
        kept(1, lambda: _time_of_a_change(plane, follower))
        made = plane.api.patch(f"{SERVICES}/seen", {"metadata": {"annotations": {"x": "y"}}})
        until(lambda: follower.versions["Service"] >= int(made["metadata"]["resourceVersion"]))
        plane.api.delete(f"{SERVICES}/seen")
        until(lambda: not follower.has("Service", "seen"))


def _time_of_a_change(plane: ControlPlane, follower: Follower) -> float:
    plane.api.create(SERVICES, service("new"))
    took = until(lambda: follower.has("Service", "new"))
    plane.api.delete(f"{SERVICES}/new")
    until(lambda: not follower.has("Service", "new"))
    return took


def test_a_restart_a_compaction_and_a_hang(plane: ControlPlane) -> None:
    for name in ("stays", "goes", "changes"):
        plane.api.create(SERVICES, service(name))
    with following(plane) as follower:
        until(lambda: follower.complete and follower.has("Service", "goes"))
        begun = time.time()
        plane.api_server.send(signal.SIGSTOP)
        until(lambda: follower.source.outage, limit=40)
        assert begun - 0.1 <= (follower.source.outage or 0.0) <= begun + 12
        plane.api_server.send(signal.SIGCONT)
        until(lambda: follower.source.outage is None)
        plane.api.delete(f"{SERVICES}/goes")
        until(lambda: not follower.has("Service", "goes"))
        follower.gone.clear()
        plane.kill_api_server()
        until(lambda: follower.source.outage)
        plane.compact()
        assert follower.has("Service", "stays")
        plane.start_api_server()
        until(lambda: follower.source.outage is None)
        plane.api.delete(f"{SERVICES}/changes")
        until(lambda: not follower.has("Service", "changes"))
        assert [str(key) for key in follower.gone] == ["Service default/changes"]
        until(lambda: not follower.problems)


def test_what_is_refused_is_told_with_the_remedy(plane: ControlPlane) -> None:
    kubeconfig = plane.user("nobody-much")
    with following(plane, kubeconfig) as follower:
        until(lambda: len(follower.problems) == len(resources(NODE)))
        assert not follower.complete
        assert any(
            "endpointslices.discovery.k8s.io: cannot be followed" in str(problem)
            and "grant the verbs list and watch" in str(problem)
            for problem in follower.problems
        )
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "watch"]}]
        bound = {"subjects": [{"kind": "User", "name": "nobody-much"}], "metadata": {"name": "much"}}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "much"}
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        plane.api.create(f"{rbac}/clusterroles", {"metadata": {"name": "much"}, "rules": rules})
        plane.api.create(f"{rbac}/clusterrolebindings", {**bound, "roleRef": role})
        until(lambda: follower.complete and not follower.problems)


def test_custom_resources_that_come_later(plane: ControlPlane) -> None:
    with following(plane) as follower:
        until(lambda: follower.complete)
        plane.apply(crds.documents())
        plane.wait_for_definitions()
        nodeproxy = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "NodeProxy", "metadata": {"name": NODE}}
        plane.apply([{**nodeproxy, "spec": {}}, {**nodeproxy, "metadata": {"name": "another"}, "spec": {}}])
        until(lambda: follower.has("NodeProxy", NODE, ""))
        assert not follower.has("NodeProxy", "another", "")
