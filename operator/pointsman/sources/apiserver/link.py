"""Whether the API server answers: one judge for all that follow it over the same client."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from pointsman.sources.apiserver.backoff import Backoff
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from random import Random

    from pointsman.sources.apiserver.backoff import Clock

_PROBE: Final = "/version"
"""Cheap, and open to everybody (the role system:public-info-viewer)."""
_GATEWAY_STATUSES: Final = range(502, 505)
"""A load balancer that reaches no API server (502, 504), or an API server that is starting or going (503)."""
_LOG: Final = logging.getLogger(__name__)


class Reads(Protocol):
    """What is needed of `pointsman.sources.apiserver.client.ApiClient`."""

    @property
    def server(self) -> str:
        """The API server's URL, for messages."""
        ...

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Read an object or a list."""
        ...

    def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """Follow a list: one line a watch event."""
        ...


class Link:
    """The connection with an API server, as a whole.

    A process that hangs while its kernel goes on to acknowledge is not noticed by TCP: a probe every `period` seconds
    notices it. When one fails (and nothing else came from the server meanwhile), the outage begins: whoever follows
    the server is interrupted, and waits in `answering` until a probe succeeds.

    Args:
        client: the connection.
        clock: time.
        chance: for jitter.
        period: seconds between two probes.
        patience: seconds that a probe may take.

    Attributes:
        client, clock, chance: as given, for those who follow resources.
        outage: Unix seconds since when the server does not answer; None while it does.
    """

    def __init__(
        self, client: Reads, clock: Clock, chance: Random, *, period: float = 10.0, patience: float = 10.0
    ) -> None:
        self.outage: float | None = None
        self.client = client
        self.clock = clock
        self.chance = chance
        self._backoff = Backoff(chance)
        self._period = period
        self._patience = patience
        self._there = asyncio.Event()
        self._there.set()
        self._doubt = asyncio.Event()
        self._heard = False
        self._interrupts: list[Callable[[], None]] = []

    def on_outage(self, interrupt: Callable[[], None]) -> None:
        """Have `interrupt` called when an outage begins."""
        self._interrupts.append(interrupt)

    def hear(self) -> None:
        """Something came from the server."""
        self._heard = True

    def doubt(self) -> None:
        """A connection failed: look at once whether the server is there."""
        self._doubt.set()

    async def answering(self) -> None:
        """Wait until the server answers, if it does not."""
        await self._there.wait()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            self._doubt.clear()
            started = self.clock.wall()
            reason = await self._probe()
            if not reason:
                self._end()
                await self._pause(self._period)
            else:
                self._begin(started, reason)
                await self.clock.sleep(self._backoff.next())

    async def _probe(self) -> str:
        """Return why the server does not answer, or "" when it does."""
        self._heard = False
        try:
            async with asyncio.timeout(self._patience):
                await self.client.get(_PROBE)
        except TimeoutError:
            return "" if self._heard else f"no answer within {self._patience:g} s"
        except ApiError as error:
            return str(error) if error.status in _GATEWAY_STATUSES else ""
        except (Unreachable, SourceError) as error:
            return str(error)
        return ""

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._doubt.wait()
        except TimeoutError:
            return

    def _begin(self, since: float, reason: str) -> None:
        if self.outage is not None:
            return
        self.outage = since
        self._there.clear()
        server = self.client.server
        _LOG.warning(
            "the API server %s does not answer: %s; what is in force stays, it is tried again until it does",
            server,
            reason.removeprefix(f"{server}: "),
        )
        for interrupt in self._interrupts:
            interrupt()

    def _end(self) -> None:
        self._backoff.reset()
        if self.outage is None:
            return
        seconds = self.clock.wall() - self.outage
        self.outage = None
        self._there.set()
        _LOG.info("the API server %s answers again after %.1f s", self.client.server, seconds)
