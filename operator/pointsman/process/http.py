"""A small HTTP/1.1 server for probes and scrapes: GET and HEAD, one request a connection, limits on everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec

_LOG: Final = logging.getLogger(__name__)
_HEAD_LIMIT: Final = 16 * 1024
"""Bytes of a request's line and headers; a longer one is refused."""
_CONNECTIONS: Final = 64
"""Connections at a time; further ones are closed at once, so that nobody can fill the memory."""
_QUEUE: Final = 100
"""Connections that wait in the kernel until they are accepted."""
_TIMEOUT: Final = 5.0
"""Seconds for a whole request and its response."""


class Response(msgspec.Struct, frozen=True):
    """What is sent back."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


Handler = Callable[[str], Awaitable[Response]]
"""Takes a path without its query, returns the response."""


class HttpServer:
    """Listens at one address and answers with a handler.

    Args:
        handler: called for each request; one that fails makes a 500 and harms nobody else.
        timeout: seconds for a whole request and its response.
    """

    def __init__(self, handler: Handler, *, timeout: float = _TIMEOUT) -> None:
        self._handler = handler
        self._timeout = timeout
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the server listens: addresses with their ports."""
        sockets = self._server.sockets if self._server is not None else ()
        return tuple(each.getsockname()[:2] for each in sockets)

    async def start(self, host: str | None, port: int) -> None:
        """Begin to listen; `host` None means all addresses of both families, port 0 any free port.

        Raises:
            OSError: the address cannot be bound.
        """
        # The number is how often asyncio tries to accept in a row, too. When there is no file for a connection, each
        # of these tries makes as many new ones, without end.
        self._server = await asyncio.start_server(self._serve, host, port, limit=_HEAD_LIMIT, backlog=1)
        for each in self._server.sockets:
            _lengthen_queue(each.fileno())

    async def stop(self) -> None:
        """Stop listening, and close what is open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(self._timeout):
                    writer.write(await self._respond(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _encode(_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        line = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(line) != 3 or not line[2].startswith("HTTP/1.") or not line[1].startswith("/"):  # noqa: PLR2004 (RFC 9112: method, target, version)
            return _encode(_plain(HTTPStatus.BAD_REQUEST))
        method, target, _ = line
        if method not in {"GET", "HEAD"}:
            return _encode(_plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}))
        return _encode(await self._answer(target.partition("?")[0]), with_body=method == "GET")

    async def _answer(self, path: str) -> Response:
        try:
            return await self._handler(path)
        except Exception:  # noqa: BLE001 (whatever went wrong, a probe must not end the process; the log has it)
            _LOG.exception("cannot answer a request for %s", path)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _lengthen_queue(listener: int) -> None:
    """Let more connections wait at a socket that listens already (listen(2)), as far as a file is left for that."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(listener)) as sock:
        sock.listen(_QUEUE)


def not_found() -> Response:
    """Make the response for a path that does not exist."""
    return _plain(HTTPStatus.NOT_FOUND)


def json_response(status: HTTPStatus, body: object, headers: Mapping[str, str] | None = None) -> Response:
    """Make a JSON response as kube-proxy's health servers do."""
    return Response(
        status,
        msgspec.json.encode(body),
        "application/json",
        {"X-Content-Type-Options": "nosniff"} | dict(headers or {}),
    )


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, f"{status.value} {status.phrase}\n".encode(), headers=headers or {})


def _encode(response: Response, *, with_body: bool = True) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + response.body if with_body else head
