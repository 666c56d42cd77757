"""What the agent says of connections: who reads the counters and when, and what is made of them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from pointsman.agent import connections
from pointsman.agent.connections import ConnectionReader, Connections, Reading, connections_of
from pointsman.dataplane.protocol import DataplaneError, ServerTraffic, Traffic
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, Pool
from pointsman.process.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from pointsman.model.problems import Problem

T = TypeVar("T")

WEB = Frontend(4, "10.96.0.1", "tcp", 80)
WEB6 = Frontend(6, "fd00:10:96::1", "tcp", 80)
PORT = Frontend(4, NODE_PORT, "tcp", 30080)
ONE, TWO = ("10.0.0.1", 8080), ("10.0.0.2", 8080)


def web(*weights: int, scheduler: str = "random") -> Answer:
    backends = (Backend(f"10.0.0.{number}", 8080, weight) for number, weight in enumerate(weights, 1))
    return Answer("default/web:http", scheduler, Pool(tuple(backends)))


def reading(answers: Mapping[Frontend, Answer], traffic: Mapping[Frontend, Traffic]) -> Reading:
    return Reading("nftables", 1_700_000_000.5, answers, traffic)


def test_what_is_told_of_a_node() -> None:
    got = {ONE: ServerTraffic(3, 340), TWO: ServerTraffic(2, 0, 1, 4)}
    answers = {PORT: web(1), WEB6: web(), WEB: web(10, 0, 5, scheduler="mh")}
    traffic = {WEB: Traffic(6, got), WEB6: Traffic(0, {}), PORT: Traffic(1, {ONE: ServerTraffic(1, 1)})}
    told = json.loads(msgspec.json.encode(connections_of("node-1", reading(answers, traffic))))
    frontends = told.pop("frontends")
    assert told == {"node": "node-1", "mode": "nftables", "time": "2023-11-14T22:13:20.500000Z"}
    assert [(each["address"], each["port"]) for each in frontends] == [
        ("*", 30080), ("10.96.0.1", 80), ("fd00:10:96::1", 80),
    ]  # fmt: skip
    one = {"address": "10.0.0.1", "port": 8080, "weight": 10, "connections": 3, "active": None, "inactive": None}
    two = {"address": "10.0.0.2", "port": 8080, "weight": 0, "connections": 2, "active": 1, "inactive": 4}
    assert frontends[1] == {
        "servicePort": "default/web:http",
        "family": 4,
        "address": "10.96.0.1",
        "port": 80,
        "protocol": "tcp",
        "scheduler": "mh",
        "connections": 6,
        "backends": [one, two],
    }
    assert msgspec.json.decode(json.dumps(told | {"frontends": frontends}), type=Connections).mode == "nftables"


def test_a_backend_that_ends_gracefully_is_told_with_the_kernels_weight() -> None:
    told = connections_of("n", reading({WEB: web(1)}, {WEB: Traffic(9, {TWO: ServerTraffic(9, 0, 2, 0)})}))
    assert [(backend.address, backend.weight) for backend in told.frontends[0].backends] == [("10.0.0.2", 0)]


def test_backends_of_both_pools_are_told() -> None:
    answer = Answer("a/b", "random", Pool((Backend("10.0.0.1", 8080, 0),)), Pool((Backend("10.0.0.2", 8080, 7),)))
    told = connections_of("n", reading({WEB: answer}, {WEB: Traffic(1, {TWO: ServerTraffic(1, 1)})}))
    assert [(backend.address, backend.weight) for backend in told.frontends[0].backends] == [
        ("10.0.0.1", 0), ("10.0.0.2", 7),
    ]  # fmt: skip


def test_what_is_only_in_the_plan_or_only_in_the_kernel_is_left_out() -> None:
    assert connections_of("n", reading({WEB: web(1)}, {PORT: Traffic(1, {})})).frontends == ()


class Clock(SystemClock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Counters:
    """A kernel's counters; each look takes `takes` seconds, and fails with `error`. A gate holds it up."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.looks = 0
        self.takes = 0.0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.problems: list[tuple[Problem, ...]] = []

    def read(self) -> Reading:
        self.looks += 1
        self.clock.now += self.takes
        if self.error is not None:
            raise self.error
        return reading({WEB: web(1)}, {WEB: Traffic(self.looks, {})})

    async def run(self, call: Callable[[], T]) -> T:
        await self.gate.wait()
        return call()

    def reader(self) -> ConnectionReader:
        return ConnectionReader("node-1", self.read, self, self.clock, report=self.problems.append)


def play(scenario: Callable[[Counters], Coroutine[None, None, None]]) -> Counters:
    async def run() -> Counters:
        counters = Counters(Clock())
        async with asyncio.timeout(20):
            await scenario(counters)
        return counters

    return asyncio.run(run())


async def total(reader: ConnectionReader) -> int:
    """Ask, and return how many connections the one frontend has got: which look it was."""
    response = await reader.respond()
    assert (response.status, response.content_type) == (200, "application/json")
    found: int = json.loads(response.body)["frontends"][0]["connections"]
    return found


def test_however_many_ask_there_is_one_look_a_second() -> None:
    async def scenario(counters: Counters) -> None:
        reader = counters.reader()
        assert await asyncio.gather(*(total(reader) for _ in range(20))) == [1] * 20
        counters.clock.now += 0.9
        assert await total(reader) == 1
        counters.clock.now += 0.2
        assert await asyncio.gather(*(total(reader) for _ in range(20))) == [2] * 20

    assert play(scenario).looks == 2


def test_long_looks_are_rare() -> None:
    async def scenario(counters: Counters) -> None:
        reader = counters.reader()
        counters.takes = 0.5
        assert await total(reader) == 1
        counters.clock.now += 4.9
        assert await total(reader) == 1
        counters.clock.now += 0.2
        assert await total(reader) == 2

    play(scenario)


def test_what_cannot_be_read_is_an_answer_and_a_problem_until_it_can() -> None:
    async def scenario(counters: Counters) -> None:
        reader = counters.reader()
        for error in (DataplaneError("no"), OSError(12, "Cannot allocate memory")):
            counters.error = error
            response = await reader.respond()
            assert response.status == 503
            assert response.body == f"the kernel's counters can't be read: {error}\n".encode()
            assert str(error) in str(counters.problems[-1][0])
            counters.clock.now += 1.1
        counters.error = None
        assert await total(reader) == 3
        assert counters.problems[-1] == ()

    play(scenario)


def test_who_waits_too_long_for_a_sync_gets_the_answer_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(counters: Counters) -> None:
        reader = counters.reader()
        monkeypatch.setattr(connections, "_PATIENCE", 0.01)
        counters.gate.clear()
        response = await reader.respond()
        assert response.status == 503
        assert b"a sync goes first" in response.body
        counters.gate.set()
        monkeypatch.setattr(connections, "_PATIENCE", 10)
        assert await total(reader) == 1
        counters.clock.now += 1.1
        counters.gate.clear()
        monkeypatch.setattr(connections, "_PATIENCE", 0.01)
        assert await total(reader) == 1
        assert await total(reader) == 1
        counters.gate.set()
        monkeypatch.setattr(connections, "_PATIENCE", 10)
        assert await total(reader) == 2

    assert play(scenario).looks == 2


def test_a_fault_is_not_hidden() -> None:
    async def scenario(counters: Counters) -> None:
        counters.error = KeyError("fault")
        with pytest.raises(KeyError):
            await counters.reader().respond()

    play(scenario)
