"""The webhook's server over real TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import io
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pointsman.controller.admission.causes import Verdict
from pointsman.controller.admission.certificates import renewed
from pointsman.controller.admission.server import AdmissionServer
from pointsman.controller.admission.tls import ServingCertificate
from support.pictures import Answer, HandPicture, port, review, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pointsman.controller.admission.review import Request

HOST = "127.0.0.1"
NOW = dt.datetime.now(dt.UTC)
JSON = {"Content-Type": "application/json"}


class Running:
    """A server, and a client that trusts it."""

    def __init__(self, server: AdmissionServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self._session = session
        self._base = f"https://{HOST}:{server.addresses[0][1]}"

    async def post(self, body: bytes | io.BytesIO, path: str = "/validate/services") -> tuple[int, bytes]:
        async with self._session.post(self._base + path, data=body, headers=JSON) as response:
            return response.status, await response.read()

    async def get(self, path: str) -> int:
        async with self._session.get(self._base + path) as response:
            return response.status


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Running]:  # noqa: ANN401 -- the server's own
    serving, credentials = ServingCertificate(), renewed(None, [HOST], NOW)
    serving.load(credentials)
    settings = {"is_filled": lambda: True, "host": HOST, "port": 0} | options
    server = AdmissionServer(HandPicture(), serving, **settings)
    trust = ssl.create_default_context(cadata=credentials.authorities.decode())
    async with server.listening(), aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        yield Running(server, session)


def run(scenario: Callable[[Running], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401 -- the server's own
    async def main() -> None:
        async with running(**options) as server:
            await scenario(server)

    asyncio.run(main())


def test_reviews_are_answered() -> None:
    async def scenario(server: Running) -> None:
        status, body = await server.post(review(service(port(80, 58080))))
        assert status == 200
        assert Answer(body).status["code"] == 422
        status, body = await server.post(review(service(port(80, 30080))))
        assert Answer(body).allowed
        status, body = await server.post(review({}, kind="ProxyConfig"), "/validate/proxyconfigs")
        assert status == 200
        assert await server.get("/readyz") == 200

    run(scenario)


def test_reviews_are_counted_by_what_came_of_them() -> None:
    counted: list[tuple[str, bool]] = []

    def count(kind: str, seconds: float, /, *, allowed: bool) -> None:
        assert 0 < seconds < 20
        counted.append((kind, allowed))

    async def scenario(server: Running) -> None:
        await server.post(review(service(port(80, 58080))))
        await server.post(review(service(port(80, 30080))))
        await server.post(b"no review")

    run(scenario, count=count)
    assert counted == [("Service", False), ("Service", True)]


def test_before_the_picture_is_filled_the_failure_policy_decides() -> None:
    async def scenario(server: Running) -> None:
        assert (await server.post(review(service())))[0] == 503
        assert await server.get("/readyz") == 503

    run(scenario, is_filled=lambda: False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"","kind":{},"operation":""}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"Review","request":{"uid":"","kind":{},"operation":""}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
    ],
)
def test_what_is_no_review_is_a_bad_request(body: bytes) -> None:
    async def scenario(server: Running) -> None:
        status, text = await server.post(body)
        assert status == 400
        assert text.endswith(b"\n")

    run(scenario)


def test_other_paths_and_methods() -> None:
    async def scenario(server: Running) -> None:
        assert (await server.post(b"{}", "/validate/pods"))[0] == 404
        assert await server.get("/validate/services") == 405

    run(scenario)


def test_a_huge_review_is_refused_unread() -> None:
    async def scenario(server: Running) -> None:
        status, _ = await server.post(io.BytesIO(b" " * (9 * 1024 * 1024)))
        assert status == 413
        assert (await server.post(review(service())))[0] == 200

    run(scenario)


def test_a_refusal_is_confirmed_and_an_admission_is_not() -> None:
    asked = []

    async def confirm(request: Request, verdict: Verdict) -> Verdict:
        asked.append((request.full_name, len(verdict.causes)))
        return Verdict()

    async def scenario(server: Running) -> None:
        assert Answer((await server.post(review(service(port(80, 30080)))))[1]).allowed
        assert Answer((await server.post(review(service(port(80, 58080)))))[1]).allowed

    run(scenario, confirm=confirm)
    assert asked == [("shop/web", 1)]


def test_a_slow_client_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.controller.admission.server._TIMEOUT", 0.2)

    async def scenario(server: Running) -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(60)

        async with server._session.post(f"{server._base}/validate/services", data=endless()) as slow:
            assert slow.status == 408

    run(scenario)


def test_an_address_in_use_is_an_error() -> None:
    async def scenario(server: Running) -> None:
        other = AdmissionServer(
            HandPicture(),
            ServingCertificate(),
            is_filled=lambda: True,
            host=HOST,
            port=server.server.addresses[0][1],
        )
        with pytest.raises(OSError, match="in use"):
            await other.run()

    run(scenario)


def test_idle_connections_do_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with asyncio.timeout(5), contextlib.AsyncExitStack() as left_open, running() as server:
            _, idle = await asyncio.open_connection(HOST, server.server.addresses[0][1], ssl=context)
            left_open.callback(idle.close)

    asyncio.run(scenario())
