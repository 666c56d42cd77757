from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pointsman.agent.lease import LeaseKeeper
from pointsman.sources.apiserver.client import ApiError, Unreachable
from support.writes import FakeWrites, OverError, ScriptedClock

if TYPE_CHECKING:
    from pointsman.model.problems import Problem

LEASES = "/apis/coordination.k8s.io/v1/namespaces/pointsman-system/leases"
LEASE = f"{LEASES}/pointsman-agent-node-1"
NODE = "/api/v1/nodes/node-1"


class Script:
    def __init__(self, end: float) -> None:
        self.clock = ScriptedClock(end)
        self.writes = FakeWrites(self.clock)
        self.told: list[tuple[Problem, ...]] = []
        self.keeper = LeaseKeeper(
            self.writes,
            "node-1",
            namespace="pointsman-system",
            on_problems=self.told.append,
            clock=self.clock,
            chance=random.Random(1),  # noqa: S311 (not for secrets)
        )

    def run(self) -> list[tuple[float, str]]:
        with pytest.raises(OverError):
            asyncio.run(self.keeper.run())
        return [(time, verb) for time, verb, _, _ in self.writes.calls]


def test_a_lease_is_made_with_all_that_the_operator_looks_for() -> None:
    script = Script(1.0)
    script.writes.objects[NODE] = {"metadata": {"name": "node-1", "uid": "node-uid"}}
    assert script.run() == [(0.0, "patch"), (0.0, "post")]
    assert script.writes.objects[LEASE] == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "pointsman-agent-node-1",
            "namespace": "pointsman-system",
            "labels": {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "agent"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid"}],
        },
        "spec": {
            "holderIdentity": "node-1",
            "leaseDurationSeconds": 40,
            "renewTime": "2023-11-14T22:13:20.000000Z",
        },
    }
    assert script.told == [()]


def test_without_a_node_object_the_lease_has_no_owner() -> None:
    script = Script(1.0)
    script.run()
    assert "ownerReferences" not in script.writes.objects[LEASE]["metadata"]


def test_an_agent_that_left_nothing_gives_its_lease_back() -> None:
    script = Script(60.0)
    script.writes.objects[LEASE] = {
        "metadata": {"name": "pointsman-agent-node-1"},
        "spec": {"holderIdentity": "node-1"},
    }
    assert asyncio.run(script.keeper.give_back())
    assert script.writes.objects[LEASE]["spec"]["holderIdentity"] == ""


def test_an_api_server_that_is_away_for_a_moment_gets_the_lease_back() -> None:
    script = Script(60.0)
    script.writes.objects[LEASE] = {"metadata": {"name": "pointsman-agent-node-1"}, "spec": {}}
    script.writes.failures = [Unreachable("reset"), ApiError(429, "TooManyRequests", "not now")]
    assert asyncio.run(script.keeper.give_back())
    script.writes.failures = [Unreachable("refused")] * 60
    before = script.clock.now
    assert not asyncio.run(script.keeper.give_back())
    assert script.clock.now - before < 5, "the kubelet kills soon"


def test_a_lease_that_cannot_be_given_back_is_no_fault() -> None:
    assert not asyncio.run(Script(60.0).keeper.give_back())  # there is none


def test_it_is_renewed_each_ten_seconds() -> None:
    script = Script(60.0)
    script.writes.objects[LEASE] = {"metadata": {"name": "pointsman-agent-node-1"}, "spec": {}}
    times = [time for time, _ in script.run()]
    assert 6 <= len(times) <= 7
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(9 <= pause <= 10 for pause in pauses)
    assert len(set(pauses)) > 1, "agents that start together drift apart"
    assert script.writes.objects[LEASE]["spec"]["renewTime"].startswith("2023-11-14T22:14:1")


def test_while_the_api_server_is_away_it_is_tried_often_and_nothing_is_told() -> None:
    script = Script(30.0)
    script.writes.failures = [Unreachable("refused")] * 3
    times = [time for time, _ in script.run()]
    assert times[3] == pytest.approx(6.0, abs=0.6)
    assert script.told[0] == ()


def test_a_missing_namespace_is_told_with_its_remedy() -> None:
    script = Script(1.0)
    script.writes.failures = [None, ApiError(404, "NotFound", 'namespaces "pointsman-system" not found')]
    script.run()
    ((problem,),) = script.told
    assert "Namespace pointsman-system: does not exist" in str(problem)
    assert "--namespace" in problem.remedy


def test_a_refusal_is_told_with_its_remedy() -> None:
    script = Script(1.0)
    script.writes.failures = [ApiError(403, "Forbidden", "no")]
    script.run()
    ((problem,),) = script.told
    assert "let the agent's ServiceAccount create and patch leases (RBAC)" in str(problem)
