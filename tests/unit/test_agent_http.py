from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from pointsman.process.clock import SystemClock
from pointsman.process.http import HttpServer, Response, not_found
from pointsman.process.listen import Address, parse_address, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def echo(path: str) -> Response:
    if path == "/bug":
        raise KeyError(path)
    if path == "/none":
        return not_found()
    return Response(HTTPStatus.OK, path.encode(), headers={"X-Test": "yes"})


async def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


def with_server(client: Callable[[int], Awaitable[None]], *, timeout: float = 5.0) -> None:
    async def scenario() -> None:
        server = HttpServer(echo, timeout=timeout)
        await server.start("127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                await client(server.addresses[0][1])
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_a_get_is_answered_without_its_query() -> None:
    async def client(port: int) -> None:
        status, headers, body = await exchange(port, b"GET /a/b?c=d HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body) == (200, b"/a/b")
        assert headers["Content-Length"] == "4"
        assert headers["Connection"] == "close"
        assert headers["X-Test"] == "yes"

    with_server(client)


def test_a_head_has_no_body() -> None:
    async def client(port: int) -> None:
        status, headers, body = await exchange(port, b"HEAD /abc HTTP/1.1\r\n\r\n")
        assert (status, headers["Content-Length"], body) == (200, "4", b"")

    with_server(client)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET /none HTTP/1.0\r\n\r\n", 404),
        (b"hello\r\n\r\n", 400),
        (b"GET abc HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /bug HTTP/1.1\r\n\r\n", 500),
    ],
)
def test_what_is_no_good_request_gets_its_status(request_bytes: bytes, status: int) -> None:
    async def client(port: int) -> None:
        assert (await exchange(port, request_bytes))[0] == status
        assert (await exchange(port, b"GET / HTTP/1.1\r\n\r\n"))[0] == 200, "and others are answered"

    with_server(client)


def test_a_client_that_says_nothing_is_closed() -> None:
    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

    with_server(client, timeout=0.01)


def test_too_many_connections_do_not_fill_the_agent() -> None:
    async def client(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        for _, other in [*idle, (reader, writer)]:
            other.close()

    with_server(client)


def test_stopping_closes_open_connections() -> None:
    async def scenario() -> None:
        server = HttpServer(echo)
        await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        writer.write(b"GET")
        await server.stop()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:10256", Address("0.0.0.0", 10256)),
        ("[::1]:80", Address("::1", 80)),
        (":80", Address(None, 80)),
        ("[::]:10256", Address(None, 10256)),
        ("", None),
    ],
)
def test_addresses_are_read(text: str, address: Address | None) -> None:
    assert parse_address(text, "--healthz-address") == address


BRACKETS = ("[[::1]]:80", "[::1:80", "::1]:80", "[1.2.3.4:80")


@pytest.mark.parametrize("text", ["10256", "host:", "1.2.3.4:70000", "::1:80", "1.2.3.4:-1", "1.2.3.4:²", *BRACKETS])
def test_a_bad_address_names_flag_value_and_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"--healthz-address .*write IP:PORT"):
        parse_address(text, "--healthz-address")


def test_a_port_in_use_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class CountingClock(SystemClock):
        waits = 0

        async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
            if seconds is None:
                raise asyncio.CancelledError  # it listens: the end of this test
            self.waits += 1
            if self.waits == 3:
                await other.stop()
            return event.is_set()

    other = HttpServer(echo)
    clock = CountingClock()

    async def scenario() -> None:
        await other.start("127.0.0.1", 0)
        address = Address("127.0.0.1", other.addresses[0][1])
        with pytest.raises(asyncio.CancelledError):
            await serve(echo, address, "--metrics-address", clock)

    asyncio.run(scenario())
    assert clock.waits == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("--metrics-address 127.0.0.1:")
    assert "stop what listens there" in warnings[0]
