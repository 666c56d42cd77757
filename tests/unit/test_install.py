"""What is done once in a cluster, with an API server in memory: custom resources in, agents out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.api import crds
from pointsman.install.crds import apply_crds
from pointsman.install.patience import InstallError, Patience
from pointsman.install.uninstall import uninstall
from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pointsman.install.patience import Requests

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMES = [document["metadata"]["name"] for document in crds.documents()]
DAEMON_SET = "/apis/apps/v1/namespaces/here/daemonsets/pointsman-agent"
GONE = "every agent is gone, and has removed what it put into its node's kernel"
PODS = "/api/v1/namespaces/here/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/here/leases"


class Steps:
    """Time that goes on by a second when somebody waits; things happen at their time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.script: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def wait(self, _event: asyncio.Event, seconds: float | None) -> bool:
        assert seconds == 1.0
        self.now += seconds
        if (action := self.script.pop(self.now - 100.0, None)) is not None:
            action()
        return False


class Api:
    """Objects by path.

    Attributes:
        calls: (verb, path, parameters or body) of every request that changes something.
        fault: raised by every request, until it is taken away.
    """

    server = "https://api:6443"

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {LEASES: {"items": []}}
        self.calls: list[tuple[str, str, Any]] = []
        self.fault: Exception | None = None

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        assert params is None
        self._answer()
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return msgspec.json.encode(self.objects[path])

    async def patch(
        self, path: str, body: Any, kind: str = "merge", params: Mapping[str, str] | None = None  # noqa: ANN401 (JSON)
    ) -> bytes:  # fmt: skip
        self._answer()
        self.calls.append((kind, path, params))
        self.objects[path] = {**body, "status": {"conditions": [{"type": "Established", "status": "False"}]}}
        return b"{}"

    async def delete(self, path: str, params: Mapping[str, str] | None = None, body: Any = None) -> bytes:  # noqa: ANN401 (JSON)
        assert params is None
        await self.get(path)
        self.calls.append(("delete", path, body["propagationPolicy"]))
        return b"{}"

    def establish(self) -> None:
        for document in self.objects.values():
            document["status"] = {"conditions": [{"type": "Established", "status": "True"}]}

    def _answer(self) -> None:
        if self.fault is not None:
            raise self.fault


class Scene:
    def __init__(self) -> None:
        self.clock = Steps()
        self.api = Api()
        self.said: list[str] = []

    def run(self, work: Callable[[Requests, Patience], Awaitable[None]]) -> None:
        async def main() -> None:
            await work(self.api, Patience(self.clock, 20.0, self.said.append))

        asyncio.run(main())

    def apply(self) -> None:
        self.run(lambda client, patience: apply_crds(client, crds.documents(), patience, self.said.append))

    def uninstall(self) -> None:
        self.run(lambda client, patience: uninstall(client, "here", "pointsman-agent", patience, self.said.append))

    def pods(self, *nodes: str) -> None:
        other = {"metadata": {"name": "pointsman-operator-1"}, "spec": {"nodeName": "elsewhere"}}
        self.api.objects[PODS] = {"items": [other, *map(pod, nodes)]}


def lease(name: str, holder: str | None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {} if holder is None else {"holderIdentity": holder}}


def pod(node: str) -> dict[str, Any]:
    owner = {"kind": "DaemonSet", "name": "pointsman-agent", "uid": "u"}
    return {"metadata": {"name": f"agent-{node}", "ownerReferences": [owner]}, "spec": {"nodeName": node}}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_custom_resources_are_applied_by_force_and_waited_for(scene: Scene) -> None:
    scene.clock.script[3.0] = scene.api.establish
    scene.apply()
    params = {"fieldManager": "pointsman", "force": "true"}
    assert scene.api.calls == [("apply", f"{DEFINITIONS}/{name}", params) for name in NAMES]
    assert scene.clock.now == 103.0
    assert scene.said == [*(f"applied {name}" for name in NAMES), *(f"the API server serves {name}" for name in NAMES)]


def test_an_api_server_that_is_away_is_waited_for_and_told_once(scene: Scene) -> None:
    def come_back() -> None:
        scene.api.fault = None

    scene.api.fault = Unreachable("connection refused")
    scene.clock.script = {5.0: come_back, 6.0: scene.api.establish}
    scene.apply()
    assert scene.said[0] == "the API server is not ready: connection refused; trying again"
    assert scene.said[1].startswith("applied")
    assert scene.clock.now == 106.0


@pytest.mark.parametrize("fault", [Unreachable("refused"), ApiError(503, "", "starting"), ApiError(429, "", "busy")])
def test_it_gives_up_in_the_end(scene: Scene, fault: Exception) -> None:
    scene.api.fault = fault
    with pytest.raises(InstallError, match=r"not ready: .*; gave up after 20 s: .*--server.*--timeout"):
        scene.apply()
    assert scene.clock.now == 120.0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ApiError(403, "Forbidden", "no"), "refuses: no (403); let the account create and patch customresourcedefi"),
        (ApiError(401, "Unauthorized", "who"), "refuses: who (401); renew the credentials"),
        (ApiError(422, "Invalid", "bad"), "refuses: bad (422); look into its log"),
        (ApiError(404, "NotFound", "nothing"), "has no customresourcedefinitions.apiextensions.k8s.io (nothing (404))"),
    ],
)
def test_a_refusal_is_told(scene: Scene, fault: ApiError, words: str) -> None:
    scene.api.fault = fault
    with pytest.raises(InstallError) as raised:
        scene.apply()
    assert words in str(raised.value)
    learns = fault.status in (401, 403)
    assert scene.clock.now == (105.0 if learns else 100.0), "who is asked may learn of a role in a moment"


def test_an_api_server_that_has_just_started_learns_who_may_do_what(scene: Scene) -> None:
    def let() -> None:
        scene.api.fault = None
        scene.clock.script[4.0] = scene.api.establish

    scene.api.fault = ApiError(403, "Forbidden", "no")
    scene.clock.script[3.0] = let
    scene.apply()
    assert scene.clock.now == 104.0


def test_an_api_server_that_was_away_gets_longer_to_learn_it(scene: Scene) -> None:
    def start() -> None:
        scene.api.fault = ApiError(403, "Forbidden", "no")

    def let() -> None:
        scene.api.fault = None
        scene.clock.script[16.0] = scene.api.establish

    scene.api.fault = Unreachable("connection refused")
    scene.clock.script = {2.0: start, 15.0: let}
    scene.apply()
    assert scene.clock.now == 116.0


def test_a_definition_that_is_never_served_is_named(scene: Scene) -> None:
    with pytest.raises(InstallError, match=f"{NAMES[0]}: the API server does not serve it within 20 s; look"):
        scene.apply()


def test_names_that_are_in_use_are_told_at_once(scene: Scene) -> None:
    def refuse() -> None:
        taken = {"type": "NamesAccepted", "status": "False", "message": '"pxc" is already in use'}
        scene.api.objects[f"{DEFINITIONS}/{NAMES[0]}"]["status"]["conditions"].append(taken)

    scene.clock.script[1.0] = refuse
    with pytest.raises(InstallError, match='names are in use: "pxc" is already in use'):
        scene.apply()
    assert scene.clock.now == 101.0


def test_agents_are_deleted_and_waited_for(scene: Scene) -> None:
    scene.api.objects[DAEMON_SET] = {}
    scene.pods("b", "a")
    scene.clock.script = {
        1.0: lambda: scene.pods("b"),
        7.0: scene.pods,
        8.0: lambda: scene.api.objects.pop(DAEMON_SET),
    }
    scene.uninstall()
    assert scene.api.calls == [("delete", DAEMON_SET, "Foreground")]
    assert scene.said == [
        "DaemonSet here/pointsman-agent is being deleted",
        "waiting for the agents of 2 nodes: a, b",
        "waiting for the agents of 1 node: b",
        GONE,
    ]
    assert scene.clock.now == 108.0


def test_agents_that_are_gone_already_are_well(scene: Scene) -> None:
    scene.pods()
    scene.uninstall()
    assert scene.api.calls == []
    assert scene.said == ["DaemonSet here/pointsman-agent is gone already", GONE]


def test_pods_that_outlive_their_daemon_set_are_waited_for(scene: Scene) -> None:
    scene.pods("a")
    scene.clock.script[2.0] = scene.pods
    scene.uninstall()
    assert scene.clock.now == 102.0


def test_nodes_that_are_left_are_named(scene: Scene) -> None:
    scene.api.objects[DAEMON_SET] = {}
    scene.pods(*(f"node-{number:02}" for number in range(12)))
    with pytest.raises(InstallError) as raised:
        scene.uninstall()
    assert "after 20 s there are still agents on 12 nodes: node-00, " in str(raised.value)
    assert "node-09 and 2 more" in str(raised.value)
    assert "stay in force" in str(raised.value)


def test_a_daemon_set_that_does_not_go_is_told(scene: Scene) -> None:
    scene.api.objects[DAEMON_SET] = {}
    scene.pods()
    with pytest.raises(InstallError, match="still there after 20 s, without a Pod: look at its finalizers"):
        scene.uninstall()


def test_who_may_not_delete_is_told_what_is_missing(scene: Scene) -> None:
    scene.api.fault = ApiError(403, "Forbidden", "no")
    with pytest.raises(InstallError, match=r"let the account delete daemonsets\.apps of the name pointsman-agent"):
        scene.uninstall()


def test_nodes_whose_agent_left_its_rules_are_named(scene: Scene) -> None:
    """Also when there is no Pod any more: somebody may have ended it by force, or called this twice."""
    scene.pods()
    leases = [
        lease("pointsman-agent-clean", ""),
        lease("pointsman-agent-killed", "killed"),
        lease("pointsman-operator", "one"),
        lease("pointsman-agent-never", None),
    ]
    scene.api.objects[LEASES] = {"items": leases}
    with pytest.raises(InstallError, match=r"of 1 node: killed have ended without .* nft delete table ip pointsman"):
        scene.uninstall()
    leases[1]["spec"]["holderIdentity"] = ""
    scene.uninstall()
    assert scene.said[-1] == GONE
