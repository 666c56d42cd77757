"""Where the agent's objects come from, and who outside hears of what came of them: one of two sides.

The side of the API server (`pointsman.agent.api_server`) is loaded only where it is asked for: the official client and
its HTTP library take longer to load than a directory of ten thousand Services.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pointsman.sources.manifests import ManifestSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from pointsman.agent.health import Health
    from pointsman.agent.loop import SyncLoop
    from pointsman.agent.options import AgentOptions
    from pointsman.agent.outcome import Facts
    from pointsman.agent.owner import Verdict
    from pointsman.agent.status import Account
    from pointsman.model.problems import Problem
    from pointsman.process.clock import Clock
    from pointsman.process.logs import ProblemLog
    from pointsman.sources.protocol import Batch

Part = tuple[str, "Coroutine[Any, Any, None]"]
"""Something that runs for as long as the agent does, and how to call it in the log."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What the agent's inside shows: enough to say how the node is."""

    loop: SyncLoop
    account: Account
    health: Health
    problems: ProblemLog
    clock: Clock


class Side(Protocol):
    """Where objects come from, and who hears of what came of them."""

    @property
    def origin(self) -> str:
        """How to call the source in problems."""
        ...

    @property
    def outage(self) -> float | None:
        """Unix seconds since when the source does not answer, None while it does."""
        ...

    def batches(self) -> AsyncIterator[Batch]:
        """Tell of the objects, as `pointsman.sources.protocol.Source` does."""
        ...

    def look(self) -> None:
        """Something may have changed inside; returns at once."""
        ...

    def tell_failed_checks(self, failed: Mapping[str, Problem]) -> None:
        """Take the health check ports that cannot be opened, by ``namespace/name`` of the Service."""
        ...

    def tell_mode(self, facts: Facts) -> None:
        """Take which mode is in force, and why, after each sync; returns at once."""
        ...

    def parts(self) -> list[Part]:
        """Return what has to run besides."""
        ...

    async def verdict(self) -> Verdict | None:
        """Tell whether the agent ends because Pointsman is uninstalled; None where nobody knows."""
        ...

    async def tell_clean(self) -> None:
        """Say that nothing of Pointsman is left on this node."""
        ...


@asynccontextmanager
async def connected(options: AgentOptions, inside: Inside) -> AsyncIterator[Side]:
    """Connect the agent with what its options name.

    Raises:
        SourceError: the options do not say how to reach the API server.
    """
    if isinstance(options.source, Path):
        yield FromManifests(options.source)
        return
    from pointsman.agent.api_server import FromApiServer  # noqa: PLC0415 (as the module's docstring says)
    from pointsman.sources.apiserver.client import connect  # noqa: PLC0415 (as above)

    async with connect(options.source) as client:
        yield FromApiServer(client, options, inside)


class FromManifests:
    """The side of a directory of manifests: nobody there hears anything."""

    origin = "manifests"
    outage = None

    def __init__(self, directory: Path) -> None:
        self._source = ManifestSource(directory)

    def batches(self) -> AsyncIterator[Batch]:
        """Tell of the objects."""
        return self._source.batches()

    def look(self) -> None:
        """Do nothing."""

    def tell_failed_checks(self, failed: Mapping[str, Problem]) -> None:
        """Do nothing; the log has them."""

    def tell_mode(self, facts: Facts) -> None:
        """Do nothing; the log has it."""

    def parts(self) -> list[Part]:
        """Return nothing."""
        return []

    async def verdict(self) -> None:
        """Know nothing."""

    async def tell_clean(self) -> None:
        """Do nothing."""
