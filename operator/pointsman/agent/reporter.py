"""Writes `NodeProxy.status` of this node: when something changed, and not too often."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
import pydantic

from pointsman.agent.patience import ask
from pointsman.agent.report_pacing import ReportPacing
from pointsman.agent.status import difference, is_urgent
from pointsman.agent.writes import refused
from pointsman.api.names import API_VERSION
from pointsman.api.nodeproxy import NodeProxy
from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pointsman.agent.writes import Writes
    from pointsman.api.status import NodeProxyStatus
    from pointsman.model.problems import Problem
    from pointsman.process.clock import Clock

_LOG: Final = logging.getLogger(__name__)
_GATHER: Final = 0.1
"""Seconds for what belongs together to come together: a sync, its problems, its versions."""
_GLANCE: Final = 10.0
"""Seconds between two looks when nothing is heard: a worker that hangs says nothing."""
_SPREAD: Final = 5.0
"""Seconds over which the agents of a cluster spread their counts."""

_LAST: Final = 5.0
"""Seconds for the last word."""


class StatusReporter:
    """Keeps the status in the cluster like the one that holds.

    Args:
        client: of the API server.
        node_name: name of the node, and of its NodeProxy.
        compose: makes the status, given the NodeProxy as it is in the cluster (`pointsman.agent.status.status_of`).
        ready: tells whether there is something to say yet. A restarted agent says nothing before its first sync, for
            as long as that may take: what the agent before it said still holds.
        on_problems: told why the API server refuses the status now, if it does.
        clock: time.
        chance: for what agents shall not do at the same time.
    """

    def __init__(
        self,
        client: Writes,
        node_name: str,
        *,
        compose: Callable[[NodeProxy], NodeProxyStatus],
        ready: Callable[[], bool],
        on_problems: Callable[[tuple[Problem, ...]], None],
        clock: Clock,
        chance: Random,
    ) -> None:
        self._client = client
        self._path = f"/apis/{API_VERSION}/nodeproxies/{node_name}/status"
        self._compose = compose
        self._ready = ready
        self._on_problems = on_problems
        self._clock = clock
        self._chance = chance
        self._pacing = ReportPacing(chance.uniform(0, _SPREAD))
        self._known: NodeProxy | None = None
        self._wake = asyncio.Event()

    def see(self, node_proxy: NodeProxy | None) -> None:
        """Take the NodeProxy as it is in the cluster now; None: there is none, and nothing to write."""
        self._known = node_proxy
        self.look()

    def look(self) -> None:
        """Something may have changed; returns at once."""
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            due = self._due()
            now = self._clock.monotonic()
            if due is not None and due <= now:
                await self._write()
                continue
            await self._clock.wait(self._wake, min(_GLANCE, due - now) if due is not None else _GLANCE)
            if self._wake.is_set():
                self._wake.clear()
                await self._clock.wait(asyncio.Event(), _GATHER)

    async def write_last(self, compose: Callable[[NodeProxy], NodeProxyStatus]) -> bool:
        """Write a status once, after `run` was cancelled.

        Returns:
            Whether the API server has it; there may be no NodeProxy, too.
        """
        known = self._known
        if known is None:
            return True
        patch = difference(known.status, compose(known))
        try:
            await ask(lambda: self._client.patch(self._path, {"status": patch}), self._clock, _LAST)
        except (ApiError, Unreachable, TimeoutError):
            return False
        return True

    def _due(self) -> float | None:
        """Return when to write (monotonic seconds), or None when there is nothing to write."""
        known = self._known
        patch = difference(known.status, self._compose(known)) if known is not None and self._ready() else {}
        if known is None or not patch:
            self._pacing.idle()
            return None
        urgent = is_urgent(patch, versions=known.spec.service_conditions)
        return self._pacing.due(self._clock.monotonic(), urgent=urgent)

    async def _write(self) -> None:
        known = self._known
        if known is None:
            return
        patch = difference(known.status, self._compose(known))
        try:
            answer = await self._client.patch(self._path, {"status": patch}, kind="merge")
        except ApiError as error:
            self._refused(error, known)
        except Unreachable:
            # The source says since when the API server is away; there is nothing to add.
            self._pacing.failed(self._clock.monotonic(), self._chance.random())
        else:
            self._pacing.wrote(self._clock.monotonic())
            self._on_problems(())
            self._take(answer, known)

    def _take(self, answer: bytes, before: NodeProxy) -> None:
        """Go on from what the API server has stored, unless something newer was seen meanwhile."""
        if self._known is not before:
            return
        try:
            self._known = NodeProxy.read(msgspec.json.decode(answer))
        except (msgspec.DecodeError, pydantic.ValidationError):
            _LOG.warning("the API server's answer to the status is no NodeProxy; waiting for news of it")
            self._known = None

    def _refused(self, error: ApiError, before: NodeProxy) -> None:
        if error.status == HTTPStatus.NOT_FOUND:
            # The NodeProxy is gone, or the custom resource: the source will tell when there is one again.
            if self._known is before:
                self._known = None
            return
        pause = self._pacing.failed(self._clock.monotonic(), self._chance.random(), error.retry_after or 0.0)
        _LOG.debug("the status was refused (%s); trying again in %.1f s", error, pause)
        self._on_problems((refused("the status of this node's NodeProxy", error, "patch nodeproxies/status"),))
