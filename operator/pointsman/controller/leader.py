"""Which replica of the operator leads: the only one that writes.

The rules are those of client-go, as the official client has them (`kubernetes.aio.leaderelection`). What is added
here is what its own loop lacks: it ends after a loss, dies of an API server that does not answer, waits for a request
however long it takes, and does not give the Lease back at a clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection

from pointsman.controller.lock import LeaseLock
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.process.clock import Clock
    from pointsman.sources.apiserver.client import ApiClient

LEASE: Final = "pointsman-operator"
DURATION: Final = 15
"""Seconds after which a leader that does not renew its Lease is followed by another."""
_DEADLINE: Final = 10.0
"""Seconds after which a leader that could not renew leads no more, well before another one does."""
_PERIOD: Final = 2.0
"""Seconds from one try to the next."""
_LOG: Final = logging.getLogger(__name__)


class Leadership:
    """Competes for the Lease.

    Args:
        client: speaks to the API server.
        namespace: of the Lease.
        identity: of this replica; no other has it.
        clock: time.
        on_change: called when this replica begins or ends to lead; a loss by time alone is told late, `leads` knows
            it at once.
    """

    def __init__(
        self, client: ApiClient, namespace: str, identity: str, clock: Clock, on_change: Callable[[], None]
    ) -> None:
        self._lock = LeaseLock(client, LEASE, namespace, identity, clock.wall)
        self._election = LeaderElection(Config(self._lock, DURATION, _DEADLINE, _PERIOD, _nothing, _nothing))
        self._identity = identity
        self._clock = clock
        self._on_change = on_change
        self._until = -1.0
        self._told = False
        self._trouble = ""

    @property
    def leads(self) -> bool:
        """Whether this replica leads at this moment; by the clock, so that nobody has to be there to end it."""
        return self._clock.monotonic() < self._until

    async def run(self) -> None:
        """Compete until cancelled, and give the Lease back then."""
        never = asyncio.Event()
        try:
            while True:
                await self.attempt()
                await self._clock.wait(never, _PERIOD)
        finally:
            await self._release()

    async def attempt(self) -> None:
        """Take or renew the Lease, if this replica may."""
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(_DEADLINE / 2):  # so that there is a second try before the deadline
                won = await self._election.try_acquire_or_renew()
            self._say("")
        except (ApiError, Unreachable, SourceError, TimeoutError, msgspec.DecodeError) as error:
            self._say(str(error) or "no answer in time")
        else:
            # What was lost by its rules (another has it) ends at once; what could not be asked, at the deadline.
            self._until = begun + _DEADLINE if won else -1.0
        self._tell()

    def _tell(self) -> None:
        if self.leads == self._told:
            return
        self._told = self.leads
        _LOG.info("%s %s", self._identity, "leads: it writes" if self._told else "does not lead any more")
        self._on_change()

    async def _release(self) -> None:
        """Give the Lease back; it runs out by itself where that cannot be done in time."""
        led, self._until = self.leads, -1.0
        if not led:
            return
        with contextlib.suppress(ApiError, Unreachable, SourceError, TimeoutError, msgspec.DecodeError):
            async with asyncio.timeout(_PERIOD):
                await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._lock.release()
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            # The renewal that was cancelled had been sent, and came between looking and writing.
            await self._lock.release()

    def _say(self, trouble: str) -> None:
        """Log trouble, once as long as it stays the same; "" is none."""
        if trouble and trouble != self._trouble:
            _LOG.warning("cannot compete for the Lease %s/%s: %s", self._lock.namespace, LEASE, trouble)
        self._trouble = trouble


async def _nothing() -> None:
    """Do nothing: the library's own loop, which would call this, is not used."""
