"""Addresses to listen at, as options name them, and servers that keep trying to get theirs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.process.http import HttpServer

if TYPE_CHECKING:
    from pointsman.process.clock import Clock
    from pointsman.process.http import Handler

_LOG: Final = logging.getLogger(__name__)
_RETRY: Final = 5.0
"""Seconds until an address that could not be bound is tried again, as kube-proxy does."""
_MAX_PORT: Final = 65535


class Address(msgspec.Struct, frozen=True):
    """Where to listen; `host` None means all addresses."""

    host: str | None
    port: int


def parse_address(text: str, flag: str) -> Address | None:
    """Read ``IP:PORT``, ``[IPv6]:PORT`` or ``:PORT``; None for "", which turns the server off.

    ``[::]`` means all addresses of both families, as it does to kube-proxy, and so does an empty host.

    Raises:
        ValueError: it is none of these; the message names flag, value and what is allowed.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    has_port = bool(colon) and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    if not has_port or (":" in bare and not bracketed) or "[" in bare or "]" in bare:
        raise ValueError(f"{flag} {text}: is no address with a port; write IP:PORT, [IPv6]:PORT, or '' for none")
    return Address(None if bare in {"", "::"} else bare, int(port))


async def serve(handler: Handler, address: Address, flag: str, clock: Clock) -> None:
    """Serve until cancelled. An address that cannot be bound is told once, and tried again: it stops nothing else."""
    server = HttpServer(handler)
    told = False
    forever = asyncio.Event()
    while True:
        try:
            await server.start(address.host, address.port)
            break
        except OSError as error:
            if not told:
                _LOG.warning(
                    "%s %s:%d: cannot listen there (%s); name another address, or stop what listens there; "
                    "going on without it, and trying again every %d s",
                    flag, address.host or "", address.port, error.strerror, _RETRY,
                )  # fmt: skip
                told = True
        await clock.wait(forever, _RETRY)
    _LOG.info("%s: listening on %s", flag, ", ".join(f"{host}:{port}" for host, port in server.addresses))
    try:
        await clock.wait(forever, None)
    finally:
        await server.stop()
