"""Errors that asyncio tells of must not fill the node's disk."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pointsman.agent.loop_faults import LoopFaults
from pointsman.process.http import HttpServer, Response, not_found
from support.no_files import no_more_files

if TYPE_CHECKING:
    import pytest

NO_FILE = OSError(errno.EMFILE, "Too many open files")


def tell(faults: LoopFaults, loop: asyncio.AbstractEventLoop, message: str, error: Exception | None = None) -> None:
    context: dict[str, Any] = {"message": message} | ({"exception": error} if error else {})
    faults(loop, context)


def raised(text: str) -> Exception:
    try:
        int(text)
    except ValueError as error:
        return error
    raise AssertionError


def test_the_same_error_is_told_once_a_minute_and_others_at_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    faults, loop = LoopFaults(lambda: now), asyncio.new_event_loop()
    try:
        for number in range(50):
            tell(faults, loop, "socket.accept() out of system resource", NO_FILE)
            tell(faults, loop, f"Exception in callback <Handle {number}>", raised(f"x{number}"))
            tell(faults, loop, f"Task was destroyed but it is pending! <Task {number}>")
        assert len(caplog.records) == 3
        assert caplog.messages[0].startswith("socket.accept() out of system resource: Too many open files; raise the")
        assert "LimitNOFILE" in caplog.messages[0]
        assert "ValueError: invalid literal for int() with base 10: 'x0'" in caplog.text, "with its traceback"
        tell(faults, loop, "another", KeyError())
        assert len(caplog.records) == 4
        now += 60.0
        tell(faults, loop, "socket.accept() out of system resource", NO_FILE)
        assert len(caplog.records) == 5
    finally:
        loop.close()


async def answer(_path: str) -> Response:
    return not_found()


def test_a_server_without_files_tries_once_at_a_time_and_goes_on() -> None:
    """As asyncio has it, each try makes a hundred more."""
    told: list[str] = []

    async def scenario() -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            told.append(context["message"])
            heard.set()

        loop.set_exception_handler(tell)
        server = HttpServer(answer)
        await server.start("127.0.0.1", 0)
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(5)]
            with no_more_files():
                for client in clients:
                    client.settimeout(0)
                    client.connect_ex(server.addresses[0])
                await heard.wait()
            assert told == ["socket.accept() out of system resource"]
            for client in clients:
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n")
                assert b" 404 " in await loop.sock_recv(client, 100)
        await server.stop()

    asyncio.run(asyncio.wait_for(scenario(), 20))
