"""The agent on an API server: its objects come from there, its status, Lease and events go there."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman import __version__
from pointsman.agent.events import Events, ModeNews, failed_check
from pointsman.agent.lease import LeaseKeeper
from pointsman.agent.owner import Owner
from pointsman.agent.reporter import StatusReporter
from pointsman.agent.state import without_status
from pointsman.agent.status import Picture, status_of, status_of_removed
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.status import AgentInfo
from pointsman.api.timestamps import rfc3339
from pointsman.process.logs import ProblemLog
from pointsman.sources.apiserver.source import ApiServerSource
from pointsman.sources.protocol import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pointsman.agent.options import AgentOptions
    from pointsman.agent.outcome import Facts
    from pointsman.agent.owner import Verdict
    from pointsman.agent.wiring import Inside, Part
    from pointsman.api.status import NodeProxyStatus
    from pointsman.model.problems import Problem
    from pointsman.sources.apiserver.client import ApiClient
    from pointsman.sources.protocol import Batch

_LOG: Final = logging.getLogger(__name__)
_PATIENCE: Final = 10.0
"""Seconds after its start for which an agent that has not synced yet leaves the status to what its predecessor said."""


class FromApiServer:
    """The side of the API server.

    Args:
        client: connected.
        options: the agent's.
        inside: what the status is made from.
    """

    origin = "API server"

    def __init__(self, client: ApiClient, options: AgentOptions, inside: Inside) -> None:
        clock, name, chance = inside.clock, options.node_name, random.SystemRandom()
        self._inside = inside
        self._options = options
        self._started = clock.monotonic()
        self._agent = AgentInfo(version=__version__, started_at=rfc3339(clock.wall()))
        self._in_force: NodeProxy | None = None
        self._source = ApiServerSource(client, name)
        # Not among the problems that the status holds: one that can be read there is over.
        refusals = ProblemLog()
        self._reporter = StatusReporter(
            client,
            name,
            compose=self._compose,
            ready=self._has_news,
            on_problems=lambda found: refusals.update("status", found),
            clock=clock,
            chance=chance,
        )
        self._lease = LeaseKeeper(
            client,
            name,
            namespace=options.namespace,
            on_problems=lambda found: inside.problems.update("lease", found),
            clock=clock,
            chance=chance,
        )
        self._events = Events(client, name, clock, chance)
        self._mode_news = ModeNews(name)
        self._owner = self._owned_by(client, options) if options.clean_up_with else None

    @property
    def outage(self) -> float | None:
        """Unix seconds since when the API server does not answer, None while it does."""
        return self._source.outage

    async def batches(self) -> AsyncIterator[Batch]:
        """Tell of the objects. What is new in the status of the NodeProxy alone is no change."""
        async for batch in self._source.batches():
            yield self._without_statuses(batch)
            self._reporter.look()

    def look(self) -> None:
        """Something may have changed inside."""
        self._reporter.look()

    def tell_failed_checks(self, failed: Mapping[str, Problem]) -> None:
        """Send an event for each port that cannot be opened."""
        name = self._options.node_name
        self._events.tell("health check ports", [failed_check(name, *each) for each in failed.items()])

    def tell_mode(self, facts: Facts) -> None:
        """Send an event when another mode than the wanted one is in force, and when that is over."""
        event = self._mode_news.event(facts)
        self._events.tell("mode", () if event is None else (event,))

    def parts(self) -> list[Part]:
        """Return what has to run besides."""
        parts: list[Part] = [
            ("status reporter", self._reporter.run()),
            ("lease", self._lease.run()),
            ("events", self._events.run()),
        ]
        return parts if self._owner is None else [*parts, ("look for the DaemonSet", self._owner.run())]

    async def verdict(self) -> Verdict | None:
        """Tell whether the agent ends because Pointsman is uninstalled; None without ``--clean-up-with``."""
        return await self._owner.verdict() if self._owner is not None else None

    async def tell_clean(self) -> None:
        """Say so in the status, and give the Lease back, by which the uninstaller knows of it."""
        now = self._inside.clock.wall()
        if not await self._reporter.write_last(lambda known: status_of_removed(known, now)):
            _LOG.warning("the status of this node's NodeProxy cannot be written: it stays as it was")
        if not await self._lease.give_back():
            _LOG.warning("the API server could not be told that nothing is left: this node will be named as unclean")

    def _owned_by(self, client: ApiClient, options: AgentOptions) -> Owner:
        problems, clock = self._inside.problems, self._inside.clock
        return Owner(
            client,
            options.clean_up_with,
            namespace=options.namespace,
            on_problems=lambda found: problems.update("--clean-up-with", found),
            clock=clock,
            chance=random.SystemRandom(),
        )

    def _without_statuses(self, batch: Batch) -> Batch:
        if not any(change.key.kind == "NodeProxy" for change in batch.changes):
            return batch
        changes = tuple(kept for change in batch.changes if (kept := self._without_status(change)) is not None)
        return msgspec.structs.replace(batch, changes=changes)

    def _without_status(self, change: Change) -> Change | None:
        if change.key.kind != "NodeProxy":
            return change
        if not isinstance(change.obj, NodeProxy):
            self._reporter.see(None)
            self._in_force = None
            return change
        self._reporter.see(change.obj)
        before, self._in_force = self._in_force, without_status(change.obj)
        return Change(change.key, self._in_force) if before != self._in_force else None

    def _has_news(self) -> bool:
        account = self._inside.account
        waited = self._inside.clock.monotonic() - self._started
        return account.facts is not None or bool(account.error) or waited >= _PATIENCE

    def _compose(self, known: NodeProxy) -> NodeProxyStatus:
        inside = self._inside
        picture = Picture(
            account=inside.account,
            healthy=inside.health.healthy,
            versions=inside.loop.versions,
            problems=inside.problems.problems,
            agent=self._agent,
            now=inside.clock.wall(),
        )
        return status_of(picture, known)
