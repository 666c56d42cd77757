"""The agent as one process: what is connected to what, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from pointsman.agent import memory
from pointsman.agent.clock import SystemClock
from pointsman.agent.health import Health
from pointsman.agent.http import Response, not_found
from pointsman.agent.listen import Address, parse_address, serve
from pointsman.agent.logs import ProblemLog
from pointsman.agent.loop import SyncLoop
from pointsman.agent.metrics import Metrics
from pointsman.agent.outcome import Kernel, Outcome
from pointsman.agent.report import log_sync, refusals
from pointsman.agent.service_health import ServiceHealth
from pointsman.agent.startup import AgentError, check_rights, claim_node, read_config
from pointsman.agent.syncer import Syncer
from pointsman.agent.worker import WorkerThread
from pointsman.dataplane.conntrack import Conntrack
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.node_addresses import node_addresses
from pointsman.dataplane.protocol import DataplaneError
from pointsman.dataplane.sysctl import apply_conntrack, check_forwarding
from pointsman.policy.planner import Planner
from pointsman.sources.manifests import ManifestSource
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pointsman.sources.protocol import Source

_LOG: Final = logging.getLogger(__name__)
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class AgentOptions(msgspec.Struct, frozen=True):
    """What the agent is told at its start.

    Attributes:
        manifests: directory to follow.
        node_name: name of the node's Node object, and `nodeName` of the endpoints that run here.
        config: file with the ProxyConfig to use, whatever the directory has; None to choose from the directory.
        healthz_address, metrics_address: ``IP:PORT``, "" for none.
    """

    manifests: Path
    node_name: str
    config: Path | None = None
    healthz_address: str = "0.0.0.0:10256"
    metrics_address: str = "127.0.0.1:10249"


def run(options: AgentOptions) -> None:
    """Run the agent in the calling thread's network namespace until SIGTERM or SIGINT.

    The kernel keeps the rules when the agent ends, however it ends.

    Raises:
        AgentError: it cannot start or go on.
    """
    check_rights()
    memory.prepare()
    try:
        with claim_node():
            asyncio.run(Agent(options, real_kernel()).run())
    except ExceptionGroup as group:
        first = group.exceptions[0]
        if isinstance(first, SourceError):
            raise AgentError(str(first)) from group
        raise AgentError(f"stopped by a fault of the agent ({first!r}); the kernel keeps its rules") from group


class Agent:
    """The parts of one agent, connected.

    Args:
        options: what it is told.
        kernel: how to get at the kernel.

    Raises:
        AgentError: an option is wrong; the message says which and what to do.
    """

    def __init__(self, options: AgentOptions, kernel: Kernel) -> None:
        spec = read_config(options.config) if options.config is not None else None
        self._healthz = _address(options.healthz_address, "--healthz-address")
        self._metrics_at = _address(options.metrics_address, "--metrics-address")
        self._source: Source = ManifestSource(options.manifests)
        self._planner = Planner(options.node_name, config=spec, addresses=node_addresses(), mode=kernel.mode)
        self._clock = SystemClock()
        self._problems = ProblemLog()
        self._metrics = Metrics()
        self._worker = WorkerThread("kernel")
        self._syncer = Syncer(self._planner, kernel)
        self._loop = SyncLoop(self._syncer, self._worker, self._clock, self._synced)
        self._metrics.follow(self._loop)
        self._health = Health(self._loop, self._clock, self._metrics.count_probe)
        self._services = ServiceHealth(
            lambda: self._health.healthy, lambda found: self._problems.update("health check ports", found), self._clock
        )
        self._mode = ""
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End `run`; the kernel keeps its rules."""
        self._stop.set()

    async def run(self) -> None:
        """Run all parts until SIGTERM, SIGINT or `stop`.

        Raises:
            AgentError: the kernel cannot do what is needed.
            ExceptionGroup: a part failed; all others were stopped.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        try:
            await self._check_support()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_forever(name, part), name=name) for name, part in self._parts()]
                await self._stop.wait()
                _LOG.info("stopping; the kernel keeps its rules")
                for task in tasks:
                    task.cancel()
        finally:
            self._worker.close(self._syncer.close)

    def _parts(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        parts: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("source", self._follow()),
            ("sync loop", self._loop.run()),
            ("health check ports", self._services.run()),
        ]
        if self._healthz is not None:
            parts.append(("healthz", serve(self._health.respond, self._healthz, "--healthz-address", self._clock)))
        if self._metrics_at is not None:
            parts.append(("metrics", serve(self._respond, self._metrics_at, "--metrics-address", self._clock)))
        return parts

    async def _check_support(self) -> None:
        try:
            support = await self._worker.run(self._syncer.support)
        except (DataplaneError, OSError) as error:
            raise AgentError(f"cannot use nftables on this node: {error}") from error
        if not support.available:
            raise AgentError(support.reason)

    async def _follow(self) -> None:
        async for batch in self._source.batches():
            if batch.problems is not None:
                self._problems.update("manifests", batch.problems)
            self._loop.offer(batch)

    def _synced(self, outcome: Outcome) -> None:
        """Pass on what came of a sync."""
        first, self._mode = not self._mode, outcome.facts.mode
        self._metrics.count_sync(outcome)
        self._services.update(outcome.facts.health_checks)
        self._problems.update("objects", outcome.facts.problems)
        self._problems.update("kernel", refusals(outcome))
        log_sync(outcome, self._loop.why_full)
        if first:
            memory.settle()

    async def _respond(self, path: str) -> Response:
        match path:
            case "/metrics":
                return Response(HTTPStatus.OK, await asyncio.to_thread(self._metrics.exposition), _METRICS_TYPE)
            case "/proxyMode":
                return Response(HTTPStatus.OK, self._mode.encode())
            case _:
                return not_found()


async def _forever(name: str, part: Coroutine[Any, Any, None]) -> NoReturn:
    """Run a part that must not end; its end is a fault that ends the process."""
    try:
        await part
    except Exception as error:
        if not isinstance(error, SourceError):
            _LOG.critical("the %s failed", name, exc_info=True)
        raise
    raise RuntimeError(f"the {name} ended by itself")


def _address(text: str, flag: str) -> Address | None:
    try:
        return parse_address(text, flag)
    except ValueError as error:
        raise AgentError(str(error)) from error


def real_kernel() -> Kernel:
    """Return the way to the kernel of the machine: nftables, connection tracking, /proc/sys."""
    return Kernel(
        dataplane=NftablesDataplane,
        conntrack=Conntrack,
        sysctls=lambda config, families: (*apply_conntrack(config.conntrack), *check_forwarding(families)),
        mode="nftables",
    )
