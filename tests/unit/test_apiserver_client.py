"""Requests over real sockets: bytes in, bytes out, refusals, renewed credentials, servers that say nothing."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import socket
import ssl
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pointsman.lab.controlplane import pki
from pointsman.sources.apiserver import client as client_module
from pointsman.sources.apiserver.access import Access
from pointsman.sources.apiserver.client import ApiClient, ApiError, Unreachable, connect
from pointsman.sources.protocol import SourceError
from support.kubeconfigs import kubeconfig, plugin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utc:DeprecationWarning")  # the official client's
PATH = "/api/v1/services"
TOKEN = {"token": "t"}


@asynccontextmanager
async def connected(directory: Path, handler: Handler, user: dict[str, Any] | None = None) -> AsyncGenerator[ApiClient]:
    """Serve `handler` at every path, and connect with it as `user`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        file = kubeconfig(directory, user or TOKEN, server=str(server.make_url("")))
        async with connect(Access(kubeconfig=file)) as client:
            yield client


class Recorder:
    """Answers each request with what it was."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, str]] = []
        self.authorization: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind = request.headers.get("Content-Type", "")
        self.requests.append((request.method, request.path_qs, kind, await request.text()))
        self.authorization.append(request.headers["Authorization"])
        assert request.headers["User-Agent"].startswith("pointsman/")
        return web.Response(body=b"answer")


def test_every_verb(tmp_path: Path) -> None:
    recorder = Recorder()

    async def run() -> None:
        async with connected(tmp_path, recorder.answer) as client:
            assert await client.get(PATH, {"labelSelector": "!a/b,!c", "limit": "500"}) == b"answer"
            await client.post(PATH, {"a": 1})
            await client.put(PATH, {"a": 1})
            await client.patch(PATH, {"a": None})
            await client.patch(PATH, [{"op": "add"}], "json")
            await client.patch(PATH, {"a": 1}, "apply", {"fieldManager": "pointsman", "force": "true"})
            await client.delete(PATH)
            await client.delete(PATH, body={"propagationPolicy": "Background"})

    asyncio.run(run())
    assert recorder.requests[0][:2] == ("GET", f"{PATH}?labelSelector=!a/b,!c&limit=500")
    assert recorder.requests[1:] == [
        ("POST", PATH, "application/json", '{"a":1}'),
        ("PUT", PATH, "application/json", '{"a":1}'),
        ("PATCH", PATH, "application/merge-patch+json", '{"a":null}'),
        ("PATCH", PATH, "application/json-patch+json", '[{"op":"add"}]'),
        ("PATCH", f"{PATH}?fieldManager=pointsman&force=true", "application/apply-patch+yaml", '{"a":1}'),
        ("DELETE", PATH, recorder.requests[6][2], ""),
        ("DELETE", PATH, "application/json", '{"propagationPolicy":"Background"}'),
    ]
    assert set(recorder.authorization) == {"Bearer t"}


STATUS = {"kind": "Status", "reason": "Forbidden", "message": "services is forbidden"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (403, msgspec.json.encode(STATUS), {}, (403, "Forbidden", "services is forbidden", None)),
        (429, b"slow down\n", {"Retry-After": "3"}, (429, "", "slow down", 3.0)),
        (502, b"", {"Retry-After": "tomorrow"}, (502, "", "Bad Gateway", None)),
        (500, b'{"reason": 7}', {}, (500, "", '{"reason": 7}', None)),
        (302, b"", {"Location": "/elsewhere"}, (302, "", "Found", None)),
    ],
)
def test_refusals(tmp_path: Path, status: int, body: bytes, headers: dict[str, str], said: tuple[Any, ...]) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    async def run() -> ApiError:
        async with connected(tmp_path, refuse) as client:
            with pytest.raises(ApiError) as caught:
                await client.get(PATH)
            return caught.value

    error = asyncio.run(run())
    assert (error.status, error.reason, error.message, error.retry_after) == said


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

    async def run() -> None:
        async with connect(Access(kubeconfig=kubeconfig(tmp_path, TOKEN, server=url))) as client:
            with pytest.raises(Unreachable, match=f"{url}: "):
                await client.get(PATH)
            with pytest.raises(Unreachable, match=f"{url}: "):
                await anext(client.watch(PATH, {}))

    asyncio.run(run())


def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_READ_TIMEOUT", 0.05)
    done = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        await done.wait()
        return web.Response()

    async def run() -> None:
        async with connected(tmp_path, hang) as client:
            with pytest.raises(Unreachable, match="imeout"):
                await client.get(PATH)
            done.set()

    asyncio.run(run())


def test_a_quiet_watch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_READ_TIMEOUT", 0.05)

    async def run() -> None:
        async with connected(tmp_path, _watch(b"one\n", 0.2, b"two\n")) as client:
            assert [line async for line in client.watch(PATH, {})] == [b"one", b"two"]

    asyncio.run(run())


def _watch(*steps: bytes | float, cut: bool = False) -> Handler:
    """Write chunks, with pauses; in the end close as it should be, or `cut` the connection."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "true"
        response = web.StreamResponse()
        await response.prepare(request)
        for step in steps:
            if isinstance(step, bytes):
                await response.write(step)
            else:
                await asyncio.sleep(step)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handle


def test_lines_of_a_watch_in_pieces(tmp_path: Path) -> None:
    long = b"x" * 5_000_000

    async def run() -> None:
        async with connected(tmp_path, _watch(b"on", 0.02, b"e\ntw", b"o\n\n", long + b"\nunfinished")) as client:
            assert [line async for line in client.watch(PATH, {"resourceVersion": "1"})] == [b"one", b"two", long]

    asyncio.run(run())


def test_a_watch_that_breaks(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            connected(tmp_path, _watch(b"one\n", 0.05, cut=True)) as client,
            aclosing(client.watch(PATH, {})) as lines,
        ):
            assert await anext(lines) == b"one"
            with pytest.raises(Unreachable):
                await anext(lines)

    asyncio.run(run())


def test_sockets_notice_a_peer_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    make = client_module._socket
    monkeypatch.setattr(client_module, "_socket", lambda address: made.append(make(address)) or made[-1])

    async def run() -> None:
        async with connected(tmp_path, Recorder().answer) as client:
            await client.get(PATH)
            assert made[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
            assert made[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert made[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10

    asyncio.run(run())


class Doorkeeper:
    """Lets one token in."""

    def __init__(self, accepted: str) -> None:
        self.accepted = accepted
        self.seen: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.headers["Authorization"])
        if self.seen[-1] == f"Bearer {self.accepted}":
            return web.Response(body=b"in")
        await asyncio.sleep(0.02)  # others are refused at the same time
        return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)


def test_a_token_that_is_refused_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    door = Doorkeeper("new")

    async def run() -> None:
        async with connected(tmp_path, door.answer, {"tokenFile": str(tmp_path / "token")}) as client:
            with pytest.raises(ApiError, match="401"):
                await client.get(PATH)
            (tmp_path / "token").write_text("new\n")
            assert await client.get(PATH) == b"in"

    asyncio.run(run())
    assert door.seen == ["Bearer old", "Bearer old", "Bearer new"]


def test_many_requests_that_are_refused_at_once(tmp_path: Path) -> None:
    door = Doorkeeper("run-1")

    async def run() -> None:
        async with connected(tmp_path, door.answer, plugin(tmp_path, {"token": "run-RUN"})) as client:
            await client.get(PATH)
            door.accepted = "run-2"
            assert await asyncio.gather(*(client.get(PATH) for _ in range(5))) == [b"in"] * 5

    asyncio.run(run())
    assert (tmp_path / "runs").read_text() == "xx"


def test_a_token_is_read_again_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("old")
    recorder = Recorder()

    async def run() -> None:
        async with connected(tmp_path, recorder.answer, {"tokenFile": str(tmp_path / "token")}) as client:
            (tmp_path / "token").write_text("new")
            await client.get(PATH)
            monkeypatch.setattr(client_module, "_RELOAD", 0.0)
            await client.get(PATH)
            (tmp_path / "kubeconfig").unlink()
            await client.get(PATH)

    asyncio.run(run())
    assert recorder.authorization == ["Bearer old", "Bearer new", "Bearer new"]


class Tls:
    """An HTTPS server that says who its clients are, and a client with a certificate in files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = pki.Authority("test", dt.datetime.now(dt.UTC))
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(self.authority.certificate)
        self.user = {
            "client-certificate": str(directory / "client.crt"),
            "client-key": str(directory / "client.key"),
        }

    def issue(self, name: str) -> None:
        pair = self.authority.client(name, "agents")
        (self.directory / "client.crt").write_bytes(pair.certificate)
        (self.directory / "client.key").write_bytes(pair.key)

    @asynccontextmanager
    async def serve(self, user: dict[str, Any], **cluster: str) -> AsyncGenerator[ApiClient]:
        app = web.Application()
        app.router.add_get("/{path:.*}", _who)
        async with _https(app, self._context()) as url:
            file = kubeconfig(self.directory, user, server=url, **cluster)
            async with connect(Access(kubeconfig=file)) as client:
                yield client

    def _context(self) -> ssl.SSLContext:
        pair = self.authority.server("server", ("localhost", "127.0.0.1"))
        (self.directory / "server.crt").write_bytes(pair.certificate)
        (self.directory / "server.key").write_bytes(pair.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
        return context


@asynccontextmanager
async def _https(app: web.Application, context: ssl.SSLContext) -> AsyncGenerator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _who(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert")
    if not certificate:
        return web.Response(text="nobody")
    return web.Response(text=dict(pair[0] for pair in certificate["subject"])["commonName"])


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


def _run(case: Coroutine[Any, Any, None]) -> None:
    asyncio.run(case)


def test_a_client_certificate_that_is_renewed(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_RELOAD", 0.0)
    tls.issue("first")

    async def case() -> None:
        async with tls.serve(tls.user, **{"certificate-authority": str(tls.ca)}) as client:
            assert await client.get(PATH) == b"first"
            tls.issue("second")
            assert await client.get(PATH) == b"second"
            (tls.directory / "client.key").write_text("half wri")
            assert await client.get(PATH) == b"second"
            (tls.directory / "client.crt").unlink()
            assert await client.get(PATH) == b"second"
            tls.issue("third")
            assert await client.get(PATH) == b"third"

    _run(case())


def test_a_certificate_authority_in_the_kubeconfig(tls: Tls) -> None:
    data = base64.b64encode(tls.authority.certificate).decode()

    async def case() -> None:
        async with tls.serve(TOKEN, **{"certificate-authority-data": data}) as client:
            assert await client.get(PATH) == b"nobody"

    _run(case())


def test_a_server_of_another_authority(tls: Tls) -> None:
    other = pki.Authority("another", dt.datetime.now(dt.UTC))
    data = base64.b64encode(other.certificate).decode()

    async def case() -> None:
        async with tls.serve(TOKEN, **{"certificate-authority-data": data}) as client:
            with pytest.raises(Unreachable, match="certificate"):
                await client.get(PATH)

    _run(case())


def test_a_client_certificate_that_is_none(tls: Tls) -> None:
    tls.issue("first")
    (tls.directory / "client.key").write_text("no key")

    async def case() -> None:
        with pytest.raises(SourceError, match="cannot use the certificates"):
            async with tls.serve(tls.user, **{"certificate-authority": str(tls.ca)}):
                pass

    _run(case())
