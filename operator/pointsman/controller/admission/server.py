"""The webhook's HTTPS server.

While the picture of the cluster is not filled, reviews are answered with 503: the API server then does what the
webhook's `failurePolicy` says, which is where its owner has decided about rules that cannot be asked. `/readyz` keeps
such a replica out of the webhook's Service, so that it happens only when no other replica is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from pointsman.api.webhooks import PROXY_CONFIGS_PATH, SERVICES_PATH
from pointsman.controller.admission.review import NotAReviewError, answer, judge, read_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pointsman.controller.admission.causes import Verdict
    from pointsman.controller.admission.picture import Picture
    from pointsman.controller.admission.review import Request
    from pointsman.controller.admission.tls import ServingCertificate

_LOG: Final = logging.getLogger(__name__)
_BODY_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of a review: two objects of the 3 MiB that the API server takes, and room."""
_TIMEOUT: Final = 3.0
"""Seconds to read a request, less than the webhook's timeoutSeconds: slow senders hold places that others wait for."""
_KEEP_ALIVE: Final = 120.0
"""Seconds that an idle connection stays: the API server keeps its own for later reviews."""
_AT_ONCE: Final = 32
"""Requests that are read at a time; further ones wait, so that nobody can fill the operator's memory."""


class Count(Protocol):
    """Counts reviews."""

    def __call__(self, kind: str, seconds: float, /, *, allowed: bool) -> None:
        """Count one."""
        ...


class AdmissionServer:
    """Answers reviews.

    Args:
        picture: of the cluster, for the rules.
        certificate: served to clients.
        is_filled: tells whether the picture is complete.
        host: address to listen at.
        port: to listen at; 0 is any free one.
        confirm: looks at a refusal once more, with what the API server says at this moment; None: it stands.
        count: told of each review: kind of the object, seconds that it took, and whether the object is allowed.
    """

    def __init__(
        self,
        picture: Picture,
        certificate: ServingCertificate,
        *,
        is_filled: Callable[[], bool],
        host: str,
        port: int,
        confirm: Callable[[Request, Verdict], Awaitable[Verdict]] | None = None,
        count: Count | None = None,
    ) -> None:
        self._picture = picture
        self._certificate = certificate
        self._is_filled = is_filled
        self._host = host
        self._port = port
        self._confirm = confirm
        self._count = count
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.addresses: list[tuple[str, int]] = []
        """Where it listens."""

    async def run(self) -> None:
        """Serve until cancelled; requests that are being answered then are answered first.

        Raises:
            OSError: the address cannot be bound.
        """
        async with self.listening():
            await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve inside of a `with`.

        Raises:
            OSError: the address cannot be bound.
        """
        runner = web.AppRunner(
            self._application(), access_log=None, keepalive_timeout=_KEEP_ALIVE, shutdown_timeout=_TIMEOUT
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port, ssl_context=self._certificate.context)
            await site.start()
            self.addresses = [address[:2] for address in runner.addresses]
            _LOG.info("the webhook listens at %s", ", ".join(f"{host}:{port}" for host, port in self.addresses))
            yield
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_post(SERVICES_PATH, self._review)
        application.router.add_post(PROXY_CONFIGS_PATH, self._review)
        application.router.add_get("/readyz", self._ready)
        return application

    async def _ready(self, _request: web.Request) -> web.Response:
        if not self._is_filled():
            return web.Response(status=503, text="the picture of the cluster is not complete yet\n")
        return web.Response(text="ok\n")

    async def _review(self, http: web.Request) -> web.Response:
        if not self._is_filled():
            return web.Response(status=503, text="the picture of the cluster is not complete yet\n")
        async with self._slots:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    body = await http.read()
            except TimeoutError:
                return web.Response(status=408, text="the request did not come to its end\n")
            return await self._answered(body)

    async def _answered(self, body: bytes) -> web.Response:
        begun = time.perf_counter()
        try:
            request = read_request(body)
        except NotAReviewError as error:
            return web.Response(status=400, text=f"{error}\n")
        verdict = judge(request, self._picture)
        if verdict.causes and self._confirm is not None:
            verdict = await self._confirm(request, verdict)
        if verdict.causes:
            _LOG.info(
                "refused %s %s: %s", request.kind.kind, request.full_name, "; ".join(map(str, verdict.causes[:5]))
            )
        written = answer(request, verdict)
        if self._count is not None:
            self._count(request.kind.kind, time.perf_counter() - begun, allowed=not verdict.causes)
        return web.Response(body=written, content_type="application/json")
