from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.api.nodeproxy import NodeProxySpec
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.status import Condition, NodeCounts, ProxyConfigStatus
from pointsman.controller import actions as do
from pointsman.controller.reconciler import Reconciler
from pointsman.controller.view import View
from pointsman.controller.writer import Writer
from pointsman.model.objects import Node, ObjectKey, Service, ServicePort
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError
from support.operator_api import OperatorApi, Puts, Time

if TYPE_CHECKING:
    from pointsman.controller.actions import Action

PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
CONFIG = "/apis/pointsman.dev/v1alpha1/proxyconfigs/default"
SERVICE = "/api/v1/namespaces/shop/services/web"
EVENTS = "/apis/events.k8s.io/v1/namespaces/shop/events"
SPEC = NodeProxySpec(scheduler="rr", proxy_config="default")
TRUE = Condition(type="Ready", status="True", reason="Programmed", last_transition_time="2026-01-01T00:00:00Z")


class Ground:
    def __init__(self) -> None:
        self.api = OperatorApi()
        self.view = View()
        self.leads = True
        self.client: Any = Puts(self.api)
        self.time = Time()
        self.counted: list[str] = []
        self.writer = Writer(self.client, self.view, "me", self.time, lambda: self.leads, count=self.counted.append)

    def carry_out(self, action: Action) -> bool:
        return asyncio.run(self.writer.carry_out(action))

    def version(self, name: str = "n1") -> int:
        return self.view.versions[ObjectKey("NodeProxy", "", name)]


@pytest.fixture
def ground() -> Ground:
    return Ground()


def test_a_node_proxy_is_made_with_its_owner_and_counts_at_once(ground: Ground) -> None:
    assert ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    made = ground.api.objects[f"{PROXIES}/n1"]
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    ]  # fmt: skip
    assert made["spec"]["scheduler"] == "rr"
    assert ground.view.node_proxies["n1"].spec == SPEC


def test_one_that_is_there_already_is_read(ground: Ground) -> None:
    ground.api.put(f"{PROXIES}/n1", {"metadata": {"name": "n1"}, "spec": {"scheduler": "sh"}})
    assert ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    assert ground.view.node_proxies["n1"].spec.scheduler == "sh"
    assert ground.api.writes == []


def test_an_update_replaces_the_spec_of_the_version_that_was_decided_on(ground: Ground) -> None:
    ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    new = NodeProxySpec(scheduler="sh", proxy_config="default")
    assert ground.carry_out(do.UpdateNodeProxy("n1", new, ground.version()))
    assert ground.view.node_proxies["n1"].spec == new


def test_a_conflict_brings_the_view_up_to_date(ground: Ground) -> None:
    ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    old = ground.version()
    found = ground.api.objects[f"{PROXIES}/n1"]
    ground.api.put(f"{PROXIES}/n1", {**found, "status": {"services": 7}})
    assert ground.carry_out(do.UpdateNodeProxy("n1", NodeProxySpec(scheduler="sh"), old))
    assert ground.view.node_proxies["n1"].status.services == 7
    assert ground.view.node_proxies["n1"].spec == SPEC
    assert ground.carry_out(do.PatchNodeProxyStatus("n1", (TRUE,), old))
    assert ground.view.node_proxies["n1"].status.conditions == ()


def test_what_is_gone_already_leaves_the_view(ground: Ground) -> None:
    ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    assert ground.carry_out(do.DeleteNodeProxy("n1"))
    assert not ground.view.node_proxies
    assert ground.carry_out(do.DeleteNodeProxy("n1"))
    assert ground.carry_out(do.UpdateNodeProxy("n1", SPEC, 7))


def test_statuses_are_written(ground: Ground) -> None:
    ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    assert ground.carry_out(do.PatchNodeProxyStatus("n1", (TRUE,), ground.version()))
    assert ground.view.node_proxies["n1"].status.conditions == (TRUE,)
    ground.api.put(CONFIG, {"metadata": {"name": "default"}, "spec": {}, "status": {"old": 1}})
    status = ProxyConfigStatus(nodes=NodeCounts(desired=3), conditions=(TRUE,))
    assert ground.carry_out(do.PatchProxyConfigStatus("default", status))
    assert ground.view.configs["default"].status == status
    assert "old" not in ground.api.objects[CONFIG]["status"]


def test_a_condition_of_a_service_goes_into_the_view(ground: Ground) -> None:
    key = ObjectKey("Service", "shop", "web")
    ground.view.put(Service("shop", "web", ports=(ServicePort(80),)), 1, "uid")
    ground.api.put(SERVICE, {"metadata": {"name": "web"}})
    said = TRUE.model_copy(update={"type": "pointsman.dev/Programmed"})
    assert ground.carry_out(do.PatchServiceCondition("shop", "web", said))
    assert ground.view.catalog.entries["shop/web"].condition == "True"
    assert ground.view.service(key) is not None
    assert ground.carry_out(do.PatchServiceCondition("shop", "gone", None))


def test_an_event_is_told_once(ground: Ground) -> None:
    event = do.SendEvent(ObjectKey("Service", "shop", "web"), "uid", "PortOutOfRange", "x" * 2000, "key")
    assert [ground.carry_out(event), ground.carry_out(event)] == [True, True]
    ((path, made),) = ground.api.objects.items()
    assert path.startswith(f"{EVENTS}/web.")
    assert made["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
        "uid": "uid",
    }
    assert len(made["note"]) == 1024
    cluster = do.SendEvent(ObjectKey("ProxyConfig", "", "default"), "", "R", "m", "k")
    assert ground.carry_out(cluster)
    assert any(path.startswith("/apis/events.k8s.io/v1/namespaces/default/") for path in ground.api.objects)


def test_a_refusal_is_told_once_with_its_object(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    forbidden = ApiError(403, "Forbidden", "no rights")
    ground.api.refusals = [forbidden, forbidden]
    action = do.CreateNodeProxy("n1", "uid-1", SPEC)
    with caplog.at_level(logging.WARNING):
        assert not ground.carry_out(action)
        assert not ground.carry_out(action)  # not asked again so soon
        assert len(ground.api.refusals) == 1
        ground.time.now += 1
        assert not ground.carry_out(action)
        ground.time.now += 1
        assert not ground.carry_out(action)
        assert ground.api.refusals == []
        ground.time.now += 1
        assert ground.carry_out(action)
    assert caplog.messages == ["cannot create NodeProxy n1: no rights (403); it is tried again"]


def test_who_does_not_lead_writes_nothing(ground: Ground) -> None:
    ground.leads = False
    assert not ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    assert ground.api.writes == []


def test_what_was_sent_is_counted_once_and_what_was_not_never(ground: Ground) -> None:
    action = do.CreateNodeProxy("n1", "uid-1", SPEC)
    ground.leads = False
    ground.carry_out(action)
    assert ground.counted == []
    ground.leads = True
    ground.api.refusals = [ApiError(403, "Forbidden", "no rights")]
    for _ in range(3):
        ground.carry_out(action)  # the refusal pauses the second and the third
    assert ground.counted == ["failed"]
    ground.time.now += 1
    ground.carry_out(action)
    assert ground.counted == ["failed", "done"]


@pytest.mark.parametrize("status", [409, 404])
def test_a_conflict_and_an_object_that_is_gone_are_no_failures(ground: Ground, status: int) -> None:
    ground.api.refusals = [ApiError(status)]
    assert ground.carry_out(do.DeleteNodeProxy("n1"))
    assert ground.counted == ["conflict"]


@pytest.mark.parametrize("error", [Unreachable("gone"), SourceError("no token"), msgspec.DecodeError("no JSON")])
def test_a_request_without_an_answer_has_failed(
    ground: Ground, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(ground.client, "post", post)
    with pytest.raises(type(error)):
        ground.carry_out(do.CreateNodeProxy("n1", "uid-1", SPEC))
    assert ground.counted == ["failed"]


class Deciding(Ground):
    """With a reconciler, one node and one ProxyConfig."""

    def __init__(self) -> None:
        super().__init__()
        self.reconciler = Reconciler(self.view, self.writer, lambda: self.leads, self.time, asyncio.Event())
        document = {"metadata": {"name": "default", "generation": 1}, "spec": {}}
        self.api.put(CONFIG, document)
        self.view.put(Node("n1"), 1, "uid-1")
        self.view.put(ProxyConfig.read(document), 1)
        for kind in ("Node", "ProxyConfig", "NodeProxy"):
            self.view.mark_listed(kind)

    def turn(self) -> float | None:
        return asyncio.run(self.reconciler.turn())


def test_a_decision_is_carried_out_and_the_next_one_finds_nothing_to_do() -> None:
    ground = Deciding()
    ground.turn()
    assert [path for _, path in ground.api.writes] == [f"{PROXIES}/n1", CONFIG]
    assert ground.counted == ["done", "done"]
    writes = len(ground.api.writes)
    for _ in range(3):
        ground.turn()
    assert len(ground.api.writes) <= writes + 1  # the status that counts the NodeProxy


def test_who_does_not_lead_decides_nothing() -> None:
    ground = Deciding()
    ground.leads = False
    assert ground.turn() is None
    assert ground.reconciler.decided == 0


def test_what_fails_is_decided_again() -> None:
    ground = Deciding()
    ground.api.is_away = True
    waits = [ground.turn() for _ in range(3)]
    assert all(wait is not None and wait <= 5 for wait in waits)
    ground.api.is_away = False
    ground.time.now += 6
    ground.turn()
    assert "n1" in ground.view.node_proxies


def test_a_new_leader_remembers_nothing_of_its_last_time() -> None:
    ground = Deciding()
    ground.api.is_away = True
    ground.turn()
    ground.api.is_away = False
    ground.leads = False
    ground.turn()
    ground.leads = True
    ground.turn()
    assert "n1" in ground.view.node_proxies
