"""The agent as a whole on an API server in memory: objects from there, status, Lease and events to there."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.agent import api_server, memory
from pointsman.agent.outcome import Kernel
from pointsman.agent.run import Agent, AgentOptions
from pointsman.agent.startup import AgentError
from pointsman.agent.state import FILE_NAME, without_status
from pointsman.api.nodeproxy import NodeProxy
from pointsman.dataplane.protocol import DataplaneError, Support, Written
from pointsman.model.objects import ObjectKey, Service, ServicePort
from pointsman.model.parse import key_of
from pointsman.sources.apiserver import client as client_module
from pointsman.sources.apiserver.access import Access
from pointsman.sources.protocol import Batch, Change
from support.writes import FakeWrites, ScriptedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pointsman.model.parse import Object
    from pointsman.model.plan import Delta, Frontend, Plan

PATH = "/apis/pointsman.dev/v1alpha1/nodeproxies/node-1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/pointsman-system/leases/pointsman-agent-node-1"
KEY = ObjectKey("NodeProxy", "", "node-1")
WEB = Service("default", "web", cluster_ips=("10.96.0.1",), ports=(ServicePort(80),))


class Memory:
    """A kernel in memory."""

    mode = "nftables"

    def __init__(self) -> None:
        self.syncs = 0
        self.cleaned_after = 0
        self.fault: Exception | None = None

    def kernel(self) -> Kernel:
        return Kernel({"nftables": lambda: self}, lambda: self, lambda _config, _families, _mode: ())

    def support(self) -> Support:
        return Support(available=True)

    def adopt(self, _plan: Plan) -> Written:
        return self._hold()

    def apply(self, _delta: Delta) -> Written:
        return self._hold()

    def disturbed(self) -> bool:
        return False

    def tend(self) -> None:
        pass

    def cleanup(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.cleaned_after = self.syncs

    def close(self) -> None:
        pass

    def own_endpoints(self) -> dict[Frontend, frozenset[tuple[str, int]]]:
        return {}

    def clean(self, *_what: object, **_how: object) -> int:
        return 0

    def _hold(self) -> Written:
        self.syncs += 1
        return Written(added=1)


class Cluster:
    """An API server that tells what a test says.

    Attributes:
        writes: what the agent wrote there.
        source: of the agent.
        kernel: of the node.
    """

    def __init__(self) -> None:
        self.writes = FakeWrites(ScriptedClock(1e9))
        self.kernel = Memory()
        self.told: asyncio.Queue[Batch] = asyncio.Queue()
        self.outage: float | None = None

    def __call__(self, _client: object, _node_name: str) -> Cluster:
        """Stand in for `ApiServerSource`."""
        return self

    @asynccontextmanager
    async def connect(self, _access: Access) -> AsyncIterator[FakeWrites]:
        yield self.writes

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            yield await self.told.get()

    def tell(self, *objects: Object, **fields: Any) -> None:  # noqa: ANN401 (of a batch)
        self.told.put_nowait(Batch(tuple(Change(key_of(obj), obj) for obj in objects), **fields))

    def node_proxy(self, generation: int = 1, **spec: Any) -> NodeProxy:  # noqa: ANN401 (fields of a document)
        """Make or change the NodeProxy; its status stays."""
        document = self.writes.objects.setdefault(PATH, {})
        document["metadata"] = {"name": "node-1", "generation": generation, "uid": "u"}
        document["spec"] = spec
        return NodeProxy.read(document)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.writes.objects.get(PATH, {}).get("status", {})
        return found

    def ready(self) -> str:
        return "".join(f"{c['type']}={c['status']}/{c['reason']} " for c in self.status.get("conditions", ())).strip()


DAEMON_SET = "/apis/apps/v1/namespaces/pointsman-system/daemonsets/pointsman-agent"


async def until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110 (memory has no event to wait for)
        await asyncio.sleep(0.01)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(memory, "settle", lambda: None)
    monkeypatch.setattr(client_module, "connect", made.connect)
    monkeypatch.setattr(api_server, "ApiServerSource", made)
    return made


def run(
    cluster: Cluster,
    scenario: Callable[[], Any],
    *,
    state_dir: Path | None = None,
    config: Path | None = None,
    clean_up_with: str = "",
) -> None:
    async def main() -> None:
        cluster.told = asyncio.Queue()
        access = Access(in_cluster=True)
        options = AgentOptions(access, "node-1", config, "", "", state_dir, clean_up_with=clean_up_with)
        agent = Agent(options, cluster.kernel.kernel())
        running = asyncio.create_task(agent.run())
        async with asyncio.timeout(20):
            await scenario()
            agent.terminate() if clean_up_with else agent.stop()
            await running

    asyncio.run(main())


def test_the_status_follows_what_is_in_force(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy(), versions={"Service": 7})
        await until(lambda: cluster.status)
        assert cluster.ready() == "Ready=True/Programmed ModeInForce=True/AsConfigured"
        assert (cluster.status["observedGeneration"], cluster.status["services"]) == (1, 1)
        assert cluster.status["resourceVersions"]["services"] == "7"
        assert cluster.status["mode"] == "nftables"
        cluster.tell(cluster.node_proxy(2, mode="ipvs"))
        await until(lambda: cluster.status["observedGeneration"] == 2)
        assert cluster.ready() == "Ready=True/Programmed ModeInForce=True/FellBack"
        cluster.tell(cluster.node_proxy(3, mode="ipvs", fallbackModes=["iptables"]))
        await until(lambda: cluster.status["observedGeneration"] == 3)
        assert cluster.ready() == "Ready=True/Programmed ModeInForce=False/ModeNotSupported"

    run(cluster, scenario)
    assert LEASE in cluster.writes.objects


def test_a_mode_that_is_not_there_is_an_event_on_the_node(cluster: Cluster) -> None:
    def told() -> list[tuple[str, str]]:
        path = "/apis/events.k8s.io/v1/namespaces/default/events"
        events = [body for _, verb, where, body in cluster.writes.calls if (verb, where) == ("post", path)]
        return [(event["reason"], event["regarding"]["name"]) for event in events]

    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy(mode="ipvs"))
        await until(told)
        cluster.tell(cluster.node_proxy(2, mode="nftables"))
        await until(lambda: len(told()) == 2)

    run(cluster, scenario)
    assert told() == [("ProxyModeFellBack", "node-1"), ("ProxyModeInForce", "node-1")]


def test_news_of_its_own_status_is_no_reason_for_a_sync(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy())
        await until(lambda: cluster.status)
        writes = len(cluster.writes.calls)
        for _ in range(3):
            cluster.tell(NodeProxy.read(cluster.writes.objects[PATH]))
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)
        assert len(cluster.writes.calls) == writes
        assert cluster.kernel.syncs == 1

    run(cluster, scenario)


def test_an_unknown_of_the_operator_is_put_right(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy())
        await until(lambda: cluster.status)
        cluster.status["conditions"][0]["status"] = "Unknown"
        cluster.tell(NodeProxy.read(cluster.writes.objects[PATH]))
        await until(lambda: cluster.ready().startswith("Ready=True"))

    run(cluster, scenario)


def test_without_a_node_proxy_the_agent_works_and_writes_its_lease_alone(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: pointsman.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {name: x}\nspec: {}\n")

    async def scenario() -> None:
        cluster.tell(WEB)
        await until(lambda: cluster.kernel.syncs)
        await asyncio.sleep(0.3)
        assert set(cluster.writes.objects) == {LEASE}

    run(cluster, scenario, config=config)


def test_the_last_node_proxy_is_in_force_after_a_restart_alone(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy(3, proxyConfig="default", mode="ipvs"))
        await until((tmp_path / FILE_NAME).exists)

    run(cluster, scenario, state_dir=tmp_path)

    async def alone() -> None:
        # Of all that the API server has, it tells of the Service: what else is in force comes from the file.
        cluster.tell(WEB)
        await until(lambda: "mode ipvs is wanted, mode nftables is in force" in caplog.text)
        assert "going on with the last configuration (ProxyConfig default)" in caplog.text
        cluster.tell(cluster.node_proxy(4, proxyConfig="other"))
        await until(lambda: '"proxyConfig": "other"' in (tmp_path / FILE_NAME).read_text())

    caplog.clear()
    run(cluster, alone, state_dir=tmp_path)


def test_a_broken_state_directory_is_told_in_the_status_and_stops_nothing(cluster: Cluster, tmp_path: Path) -> None:
    missing = tmp_path / "file" / "missing"
    missing.parent.touch()

    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy())
        await until(lambda: cluster.status)
        (problem,) = cluster.status["problems"]
        assert problem["object"] == str(missing)

    run(cluster, scenario, state_dir=missing)


def test_a_node_proxy_that_is_deleted_stays_in_force(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy(1, mode="ipvs"))
        await until(lambda: cluster.status)
        kept = cluster.writes.objects.pop(PATH)
        cluster.told.put_nowait(Batch((Change(KEY, None),)))
        await asyncio.sleep(0.3)
        cluster.writes.objects[PATH] = {**kept, "status": {}}
        cluster.tell(cluster.node_proxy(1, mode="ipvs"))
        await until(lambda: cluster.status)
        assert "FellBack" in cluster.ready()

    run(cluster, scenario)


def test_forms_are_compared_without_their_status() -> None:
    document = {"metadata": {"name": "n"}, "spec": {}, "status": {"services": 3}}
    assert without_status(NodeProxy.read(document)) == NodeProxy(name="n")


def owned(cluster: Cluster, **metadata: object) -> None:
    cluster.writes.objects[DAEMON_SET] = {"kind": "DaemonSet", "metadata": {"uid": "one", **metadata}}


def leave(cluster: Cluster, state_dir: Path, **metadata: object) -> None:
    """Run an agent that has a NodeProxy, and end it when its DaemonSet is as `metadata` says."""
    owned(cluster)

    async def scenario() -> None:
        cluster.tell(WEB, cluster.node_proxy())
        await until(lambda: cluster.status and (state_dir / FILE_NAME).exists())
        owned(cluster, **metadata)

    run(cluster, scenario, state_dir=state_dir, clean_up_with="pointsman-agent")


def test_an_uninstalled_agent_takes_everything_along(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    leave(cluster, tmp_path, deletionTimestamp="2026-01-01T00:00:00Z")
    assert cluster.kernel.cleaned_after == cluster.kernel.syncs > 0, "cleaned, and nothing came after that"
    assert not list(tmp_path.iterdir())
    assert cluster.status["conditions"][0]["reason"] == "Removed"
    assert [path for _, _, path, _ in cluster.writes.calls][-2:] == [f"{PATH}/status", LEASE], "the uninstaller waits"
    assert "DaemonSet pointsman-system/pointsman-agent is being deleted: removing all" in caplog.text
    assert caplog.messages[-1] == "nothing of Pointsman is left in this node's kernel"


def test_a_restarted_agent_leaves_everything(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    leave(cluster, tmp_path)
    assert not cluster.kernel.cleaned_after
    assert (tmp_path / FILE_NAME).exists()
    assert caplog.messages[-1] == (
        "stopping; DaemonSet pointsman-system/pointsman-agent is still there: the kernel keeps its rules"
    )


def test_a_cleanup_that_fails_says_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    cluster.kernel.fault = DataplaneError("busy")
    with pytest.raises(AgentError, match=r"cannot clean up \(busy\); run `pointsman cleanup` on this node"):
        leave(cluster, tmp_path, deletionTimestamp="2026-01-01T00:00:00Z")
