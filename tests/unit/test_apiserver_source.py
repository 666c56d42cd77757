from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from pointsman.sources.apiserver.client import ApiError
from pointsman.sources.apiserver.link import Link
from pointsman.sources.apiserver.source import ApiServerSource, resources
from support.following import QuickClock, until
from support.leaping import leaping_time
from support.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pointsman.sources.protocol import Batch

SERVICES, SLICES, ENDPOINTS, NODES, NAMESPACES, CIDRS, NODE_PROXIES, PODS = (
    resource.path for resource in resources("n")
)
ABSENT = ApiError(404, "NotFound", "the server could not find the requested resource")


@pytest.fixture(scope="module", autouse=True)
def _time() -> Iterator[None]:
    with leaping_time():
        yield


class Run:
    """A source and its batches."""

    def __init__(self, server: Watched) -> None:
        self.clock = QuickClock()
        link = Link(server, self.clock, random.Random(1), period=0.05, patience=0.1)  # noqa: S311 (no secret)
        self.source = ApiServerSource(server, "n", link=link)
        self.batches: list[Batch] = []

    def complete(self) -> bool:
        return bool(self.batches) and self.batches[-1].complete

    def problems(self) -> str:
        told = [batch.problems for batch in self.batches if batch.problems is not None]
        return "\n".join(map(str, told[-1])) if told else ""


def run(server: Watched, scenario: Callable[[Run], Awaitable[None]]) -> Run:
    async def follow(running: Run) -> None:
        async with aclosing(running.source.batches()) as batches:
            async for batch in batches:
                running.batches.append(batch)

    async def main() -> Run:
        running = Run(server)
        task = asyncio.create_task(follow(running))
        async with asyncio.timeout(10):
            await scenario(running)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not any(map(server.watches, (SERVICES, NODES))), "nothing is left open"
        return running

    return asyncio.run(main())


def test_the_first_batches_are_complete_when_all_have_told() -> None:
    server = Watched()
    server.refusals[NODE_PROXIES] = server.refusals[CIDRS] = ABSENT
    server.put(NAMESPACES, "default")
    server.put(NODES, "n")
    server.put(SERVICES, "web", metadata={"namespace": "default"}, spec={"clusterIP": "10.96.0.1"})
    waiting = ApiError(429, "TooManyRequests")
    server.refusals[SLICES] = waiting

    async def scenario(running: Run) -> None:
        await until(lambda: "(429)" in running.problems())
        assert not running.complete()
        del server.refusals[SLICES]
        await until(running.complete)

    running = run(server, scenario)
    told = {str(change.key) for batch in running.batches for change in batch.changes}
    assert told == {"Namespace default", "Node n", "Service default/web"}
    versions = {kind: version for batch in running.batches for kind, version in batch.versions.items()}
    assert versions == dict.fromkeys(
        ("Service", "EndpointSlice", "Endpoints", "Node", "Namespace", "Pod"), server.version
    )
    assert running.problems() == ""


def test_what_comes_together_is_one_batch_and_nothing_new_is_none() -> None:
    server = Watched()

    async def scenario(running: Run) -> None:
        await until(running.complete)
        running.batches.clear()
        await asyncio.sleep(0.05)
        assert running.batches == []
        for name in ("a", "b", "c"):
            server.put(NAMESPACES, name)
        server.remove(NAMESPACES, "a")
        server.put(SERVICES, "x", metadata={"namespace": "a"}, spec={"clusterIP": "10.96.0.1"})
        await until(lambda: running.batches)
        (batch,) = running.batches
        changes = [(str(change.key), change.obj is not None) for change in batch.changes]
        assert sorted(changes) == [
            ("Namespace a", False),
            ("Namespace b", True),
            ("Namespace c", True),
            ("Service a/x", True),
        ]
        assert (batch.complete, batch.problems) == (True, None)
        assert batch.versions == {"Namespace": server.version - 1, "Service": server.version}

    run(server, scenario)


@pytest.mark.parametrize(("path", "complete"), [(NODE_PROXIES, True), (SERVICES, False)])
def test_what_can_be_done_without_is_not_waited_for_when_it_is_refused(path: str, *, complete: bool) -> None:
    server = Watched()
    server.refusals[path] = ApiError(403, "Forbidden", "no")

    async def scenario(running: Run) -> None:
        await until(lambda: "grant the verbs list and watch" in running.problems())
        assert not running.complete()
        await until(lambda: 30.0 in running.clock.slept)
        await asyncio.sleep(0.1)
        assert running.complete() == complete

    run(server, scenario)


def test_an_outage_is_told_once_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    server = Watched()
    server.is_away = True

    async def scenario(running: Run) -> None:
        with caplog.at_level(logging.INFO):
            await until(lambda: running.source.outage == 1e9)
            await asyncio.sleep(0.05)
            assert running.batches == []
            server.is_away = False
            await until(running.complete)
            assert running.source.outage is None

    run(server, scenario)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the API server http://memory does not answer: connection refused; what is in force")
    assert second.startswith("the API server http://memory answers again after 0.0 s")


def test_a_gateway_without_a_server_is_an_outage() -> None:
    server = Watched()

    async def scenario(running: Run) -> None:
        await until(running.complete)
        server.refusals["/version"] = ApiError(502, "", "Bad Gateway")
        await until(lambda: running.source.outage is not None)
        server.refusals["/version"] = ApiError(403, "Forbidden")
        await until(lambda: running.source.outage is None)

    run(server, scenario)


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Watched()

    async def main() -> None:
        running = Run(server)
        monkeypatch.setattr("pointsman.sources.apiserver.known.Known.begin", lambda _: 1 / 0)
        async with aclosing(running.source.batches()) as batches:
            async for _ in batches:
                pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_endpoints_are_those_that_no_controller_made() -> None:
    endpoints = resources("n")[2]
    assert "endpoints.kubernetes.io/managed-by!=endpoint-controller" in endpoints.params()["labelSelector"]
    assert resources("n")[3].params() == {"fieldSelector": "metadata.name=n"}


def test_a_node_that_does_not_exist_is_told_until_it_does() -> None:
    server = Watched()

    async def scenario(running: Run) -> None:
        await until(lambda: "Node n: does not exist" in running.problems())
        assert running.complete()
        server.put(NODES, "n")
        await until(lambda: running.problems() == "")

    run(server, scenario)
