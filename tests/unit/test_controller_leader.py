from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pointsman.controller.leader import Leadership
from pointsman.sources.apiserver.client import ApiError
from support.operator_api import OperatorApi, Puts, Time

if TYPE_CHECKING:
    import pytest

LEASE = "/apis/coordination.k8s.io/v1/namespaces/here/leases/pointsman-operator"


class Replicas:
    """Replicas that compete, each with what it was told."""

    def __init__(self, *names: str) -> None:
        self.api = OperatorApi()
        self.time = Time()
        self.told: list[str] = []
        self.replicas = {name: self.replica(name) for name in names}

    def replica(self, name: str) -> Leadership:
        client: Any = Puts(self.api)
        return Leadership(client, "here", name, self.time, lambda: self.told.append(name))

    def attempt(self, *names: str) -> None:
        for name in names:
            asyncio.run(self.replicas[name].attempt())

    def leaders(self) -> list[str]:
        return [name for name, replica in self.replicas.items() if replica.leads]

    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.objects[LEASE]["spec"]
        return found


def test_the_first_one_leads_and_the_lease_says_so() -> None:
    replicas = Replicas("a", "b")
    replicas.attempt("a", "b")
    assert replicas.leaders() == ["a"]
    assert replicas.told == ["a"]
    assert replicas.spec() == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2023-11-14T22:30:00.000000Z",
        "renewTime": "2023-11-14T22:30:00.000000Z",
        "leaseTransitions": 1,
    }


def test_a_leader_renews_and_keeps_its_acquire_time() -> None:
    replicas = Replicas("a")
    replicas.attempt("a")
    before = replicas.spec()
    replicas.time.now += 2
    replicas.attempt("a")
    after = replicas.spec()
    assert after["renewTime"] == "2023-11-14T22:30:02.000000Z"
    assert {**after, "renewTime": 0} == {**before, "renewTime": 0}


def test_a_leader_that_cannot_renew_stops_by_the_clock_alone() -> None:
    replicas = Replicas("a")
    replicas.attempt("a")
    replicas.api.is_away = True
    replicas.time.now += 9.9
    assert replicas.leaders() == ["a"]
    replicas.time.now += 0.2
    assert replicas.leaders() == []
    replicas.attempt("a")
    assert replicas.told == ["a", "a"]


def test_one_refused_renewal_does_not_end_the_leadership() -> None:
    replicas = Replicas("a")
    replicas.attempt("a")
    get, replicas.api.objects = replicas.api.objects, {}

    async def refuse(*_: object, **__: object) -> bytes:
        raise ApiError(500, "InternalError", "etcd is busy")

    replicas.replicas["a"]._lock._client.get = refuse  # type: ignore[method-assign]
    replicas.api.objects = get
    replicas.attempt("a")
    assert replicas.leaders() == ["a"]


def test_whoever_finds_another_in_the_lease_stops_at_once() -> None:
    replicas = Replicas("a")
    replicas.attempt("a")
    found = replicas.api.objects[LEASE]
    replicas.api.put(LEASE, {**found, "spec": {**found["spec"], "holderIdentity": "z"}})
    replicas.attempt("a")
    assert replicas.leaders() == []


def test_a_dead_leader_is_followed_after_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas("a", "b")
    monkeypatch.setattr("time.time", replicas.time.wall)
    replicas.attempt("a", "b")
    for _ in range(7):
        replicas.time.now += 2
        replicas.attempt("b")
        assert "b" not in replicas.leaders()
    replicas.time.now += 2
    replicas.attempt("b")
    assert replicas.leaders() == ["b"]
    assert replicas.spec()["leaseTransitions"] == 2


def test_a_clean_end_gives_the_lease_back_and_the_next_takes_it_at_its_next_look() -> None:
    replicas = Replicas("a", "b")
    replicas.attempt("a", "b")

    async def run_and_stop() -> None:
        task = asyncio.create_task(replicas.replicas["a"].run())
        replicas.time.wait = lambda *_: asyncio.sleep(60)  # type: ignore[assignment, method-assign, return-value]  # until the end
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run_and_stop())
    assert replicas.leaders() == []
    assert "holderIdentity" not in replicas.spec()
    replicas.attempt("b")
    assert replicas.leaders() == ["b"]


def test_a_renewal_that_comes_between_does_not_keep_the_lease() -> None:
    replicas = Replicas("a", "b")
    replicas.attempt("a", "b")
    replica, patch = replicas.replicas["a"], replicas.api.patch

    async def late(path: str, body: object, kind: str) -> bytes:
        replica._lock._client.patch = patch  # type: ignore[method-assign,assignment]
        replicas.api.put(path, dict(replicas.api.objects[path]))
        raise ApiError(409, "Conflict", f"{path} has been modified, not by {body} as {kind}")

    replica._lock._client.patch = late  # type: ignore[method-assign,assignment]
    asyncio.run(replica._release())
    replicas.attempt("b")
    assert replicas.leaders() == ["b"]


def test_a_lease_that_another_one_took_meanwhile_is_left_to_it() -> None:
    replicas = Replicas("a", "b")
    replicas.attempt("a", "b")
    replica = replicas.replicas["a"]

    async def lost(path: str, *_: object, **__: object) -> bytes:
        found = replicas.api.objects[path]
        replicas.api.put(path, {**found, "spec": {**found["spec"], "holderIdentity": "b"}})
        raise ApiError(409, "Conflict", "modified")

    replica._lock._client.patch = lost  # type: ignore[method-assign,assignment]
    asyncio.run(replica._release())
    assert replicas.spec()["holderIdentity"] == "b"


def test_of_two_that_write_at_once_one_wins() -> None:
    replicas = Replicas("a", "b")

    async def both() -> None:
        await asyncio.gather(*(replica.attempt() for replica in replicas.replicas.values()))

    asyncio.run(both())
    assert len(replicas.leaders()) == 1
