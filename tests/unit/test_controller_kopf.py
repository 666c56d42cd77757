from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import ssl
from typing import TYPE_CHECKING, Any

import kopf
from kubernetes.aio.client import Configuration

from pointsman.controller import handlers, kopf_thread
from pointsman.controller.follow import ServiceFollower
from pointsman.controller.kopf_thread import KopfThread
from pointsman.controller.view import View
from pointsman.model.objects import ObjectKey
from pointsman.sources.apiserver.access import Access
from pointsman.sources.apiserver.backoff import SystemClock
from pointsman.sources.apiserver.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    import pytest

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_kopf_writes_nothing_by_itself() -> None:
    settings = handlers.settings()
    assert not settings.posting.enabled
    assert settings.process.ultimate_exiting_timeout is None


def test_kopf_follows_four_kinds_and_leaves_the_many_to_the_reflector() -> None:
    made = handlers.registry(Access(), lambda *_: None)
    followed = {handler.selector.plural or handler.selector.any_name for handler in made._watching.get_all_handlers()}
    assert followed == {"nodes", "namespaces", "proxyconfigs", "nodeproxies"}
    assert not made._changing.get_all_handlers()


def test_credentials_of_every_form_reach_kopf() -> None:
    configuration = Configuration()
    configuration.host = "https://api:6443"
    configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file = "/ca", "/crt", "/key"
    configuration.api_key["BearerToken"] = "Bearer abc"
    info = handlers.connection_info(configuration, NOW)
    assert (info.server, info.ca_path, info.certificate_path, info.private_key_path) == (
        "https://api:6443", "/ca", "/crt", "/key",
    )  # fmt: skip
    assert info.as_http_headers() == {"Authorization": "Bearer abc"}
    assert info.expiration == NOW + dt.timedelta(seconds=60)
    assert not info.insecure


def test_kopf_asks_no_more_of_certificates_than_the_agents_do(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = ssl.create_default_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(kopf.ConnectionInfo, "as_ssl_context", lambda _: strict)
    context = handlers.connection_info(Configuration(host="https://api:6443"), NOW).as_ssl_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


class Kopf:
    """Stands in for Kopf: fails twice, then hears something, and ends when it is told to."""

    def __init__(self) -> None:
        self.starts = 0
        self.stopped = False

    async def __call__(self, *, registry: Any, stop_flag: asyncio.Event, **options: object) -> None:  # noqa: ANN401 -- Kopf's
        self.starts += 1
        assert options["standalone"]
        assert options["clusterwide"]
        if self.starts == 1:
            raise kopf.LoginError("no credentials")
        if self.starts == 2:
            raise asyncio.CancelledError  # one of Kopf's tasks cancelled the others
        (handler,) = (each for each in registry._watching.get_all_handlers() if each.id == "Node-event")
        await handler.fn(event={"type": None, "object": {"metadata": {"name": "n1"}}})
        await stop_flag.wait()
        self.stopped = True


Heard = tuple[str, str | None, "Mapping[str, Any]"]


def with_kopf(
    monkeypatch: pytest.MonkeyPatch, pause: float, script: Callable[[KopfThread, asyncio.Event], Awaitable[None]]
) -> tuple[Kopf, list[Heard]]:
    """Run a script beside a Kopf that fails twice; its event is set with each thing that Kopf tells."""
    fake, heard = Kopf(), list[Heard]()
    monkeypatch.setattr("kopf.operator", fake)
    monkeypatch.setattr(kopf_thread, "_SHORTEST", pause)
    monkeypatch.setattr(kopf_thread, "_LONGEST", pause)

    async def run() -> None:
        told = asyncio.Event()

        def hear(kind: str, event: str | None, body: Mapping[str, Any]) -> None:
            heard.append((kind, event, body))
            told.set()

        thread = KopfThread(Access(), hear)
        task = asyncio.create_task(thread.run())
        await asyncio.sleep(0)
        assert fake.starts == 0, "nobody wants it yet"
        async with asyncio.timeout(10):
            await script(thread, told)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return fake, heard


def test_kopf_is_started_again_when_it_ends_and_ends_when_it_shall(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(thread: KopfThread, told: asyncio.Event) -> None:
        thread.start()
        await told.wait()

    fake, heard = with_kopf(monkeypatch, 0.001, script)
    assert (fake.starts, fake.stopped) == (3, True)
    assert heard == [("Node", None, {"metadata": {"name": "n1"}})]


def test_kopf_is_started_again_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(thread: KopfThread, told: asyncio.Event) -> None:
        for _ in range(2):
            told.clear()
            thread.start()
            await told.wait()

    assert with_kopf(monkeypatch, 0.001, script)[0].starts == 4


def test_kopf_that_waits_for_its_next_try_starts_at_once_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(thread: KopfThread, told: asyncio.Event) -> None:
        while not told.is_set():  # each of the first two runs fails
            thread.start()
            await asyncio.sleep(0.01)

    assert with_kopf(monkeypatch, 1000.0, script)[0].starts >= 3


class Server:
    """Tells of one Service and one EndpointSlice, then of changes that the test makes."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()

    async def get(self, path: str, params: Mapping[str, str] | None = None, accept: str = "") -> bytes:  # noqa: ARG002 -- the client's
        return b"{}"

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes]:  # noqa: ARG002 -- the client's
        if path == "/api/v1/services":
            yield event("ADDED", 5, conditions=[{"type": "pointsman.dev/Programmed", "status": "True"}])
        mark = {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield as_line("BOOKMARK", {"metadata": mark})
        while path == "/api/v1/services":
            yield await self.lines.get()
        await asyncio.Event().wait()


def as_line(kind: str, document: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": document}).encode()


def event(kind: str, version: int, **status: Any) -> bytes:  # noqa: ANN401 -- fields of a document
    metadata = {"namespace": "shop", "name": "web", "uid": "uid-1", "resourceVersion": str(version)}
    spec = {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}
    return as_line(kind, {"kind": "Service", "metadata": metadata, "spec": spec, "status": status})


def test_services_come_with_version_uid_and_condition() -> None:
    view, server, seen = View(), Server(), []

    async def run() -> None:
        changed = asyncio.Event()
        client: Any = server
        link = Link(client, SystemClock(), random.Random(1))  # noqa: S311 (not for secrets)
        task = asyncio.create_task(ServiceFollower(link, view, changed.set).run())

        async def until(done: Any) -> None:  # noqa: ANN401 -- a condition
            async with asyncio.timeout(5):
                while not done():
                    await changed.wait()
                    changed.clear()

        await until(lambda: {"Service", "EndpointSlice", "Endpoints"} <= view.listed)
        entry = view.catalog.entries["shop/web"]
        seen.append((entry.uid, entry.version, entry.condition))
        server.lines.put_nowait(event("MODIFIED", 9, conditions=[]))
        await until(lambda: view.catalog.entries["shop/web"].condition == "")
        server.lines.put_nowait(event("DELETED", 10))
        await until(lambda: view.service(ObjectKey("Service", "shop", "web")) is None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert seen == [("uid-1", 5, "True")]
