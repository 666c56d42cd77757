"""The agent as one process: what is connected to what, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pointsman.agent import memory
from pointsman.agent.connections import ConnectionReader
from pointsman.agent.ending import end
from pointsman.agent.entry_points import find_own
from pointsman.agent.health import Health
from pointsman.agent.kernel import real_kernel
from pointsman.agent.loop import SyncLoop
from pointsman.agent.loop_faults import LoopFaults
from pointsman.agent.metrics import Metrics
from pointsman.agent.options import AgentOptions
from pointsman.agent.report import log_sync, refusals
from pointsman.agent.service_health import ServiceHealth
from pointsman.agent.startup import (
    AgentError,
    check_open_files,
    check_rights,
    check_sysctl_root,
    claim_node,
    read_config,
)
from pointsman.agent.state import StateError, StateKeeper, load
from pointsman.agent.status import Account
from pointsman.agent.syncer import Syncer
from pointsman.agent.wiring import Inside, Side, connected
from pointsman.agent.worker import WorkerThread
from pointsman.dataplane.node_addresses import node_addresses
from pointsman.policy.planner import Planner
from pointsman.process.clock import SystemClock
from pointsman.process.exposition import CONTENT_TYPE
from pointsman.process.http import Response, not_found
from pointsman.process.listen import Address, parse_address, serve
from pointsman.process.logs import ProblemLog
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from pointsman.agent.outcome import Kernel, Outcome
    from pointsman.agent.wiring import Part
    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.model.problems import Problem
    from pointsman.policy.own_schedulers import Scheduler

__all__ = ["Agent", "AgentOptions", "real_kernel", "run"]

_LOG: Final = logging.getLogger(__name__)
_LONG_START: Final = 60.0
"""Seconds after which a start that still waits for its objects is no start any more: the collector has to work."""


def run(options: AgentOptions) -> None:
    """Run the agent in the calling thread's network namespace until SIGTERM or SIGINT.

    The kernel keeps the rules when the agent ends, however it ends; unless ``--clean-up-with`` asks for more.

    Raises:
        AgentError: it cannot start or go on.
    """
    check_rights()
    check_sysctl_root(options.sysctl_root)
    check_open_files()
    memory.prepare()
    own = find_own()
    for problem in own.problems:
        _LOG.warning("%s", problem)
    try:
        with claim_node():
            asyncio.run(Agent(options, real_kernel(options.sysctl_root, own.dataplanes), own.schedulers).run())
    except SourceError as error:
        raise AgentError(str(error)) from error
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
        own_schedulers: schedulers of somebody's own, by name.

    Raises:
        AgentError: an option is wrong; the message says which and what to do.
    """

    def __init__(
        self, options: AgentOptions, kernel: Kernel, own_schedulers: Mapping[str, Scheduler] = MappingProxyType({})
    ) -> None:
        spec = read_config(options.config) if options.config is not None else None
        self._healthz = _address(options.healthz_address, "--healthz-address")
        self._metrics_at = _address(options.metrics_address, "--metrics-address")
        self._options = options
        self._planner = Planner(
            options.node_name, config=spec, addresses=node_addresses(), own_schedulers=own_schedulers
        )
        self._clock = SystemClock()
        self._problems = ProblemLog()
        self._metrics = Metrics()
        self._account = Account()
        self._worker = WorkerThread("kernel")
        self._syncer = Syncer(self._planner, kernel)
        self._loop = SyncLoop(self._syncer, self._worker, self._clock, self._synced)
        self._metrics.follow(self._loop)
        self._connections = ConnectionReader(
            options.node_name,
            self._syncer.count,
            self._worker,
            self._clock,
            report=partial(self._problems.update, "connection counters"),
            metrics=self._metrics.show_connections(options.connection_metrics),
        )
        self._side: Side | None = None
        outage = None if isinstance(options.source, Path) else self._outage
        self._health = Health(self._loop, self._clock, self._metrics.count_probe, outage)
        if outage is not None:
            self._metrics.watch_api_server(outage)
        self._services = ServiceHealth(lambda: self._health.healthy, self._checks_failed, self._clock)
        self._state = self._remember(options.state_dir) if options.state_dir is not None else None
        self._mode = ""
        self._stop = asyncio.Event()
        self._terminated = False

    def stop(self) -> None:
        """End `run`; the kernel keeps its rules."""
        self._stop.set()

    def terminate(self) -> None:
        """End `run` as SIGTERM does; an agent that is uninstalled takes its rules along."""
        self._terminated = True
        self.stop()

    async def run(self) -> None:
        """Run all parts until SIGTERM, SIGINT or `stop`.

        Raises:
            AgentError: the kernel cannot do what is needed.
            ExceptionGroup: a part failed; all others were stopped.
        """
        asyncio.get_running_loop().set_exception_handler(LoopFaults(self._clock.monotonic))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.terminate)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.stop)
        asyncio.get_running_loop().call_later(_LONG_START, gc.enable)
        inside = Inside(self._loop, self._account, self._health, self._problems, self._clock)
        try:
            await self._check_support()
            async with connected(self._options, inside) as side:
                self._side = side
                await self._run_parts(side)
                verdict = await side.verdict() if self._terminated else None
                if await end(verdict, lambda: self._worker.run(self._syncer.clean_up), self._options.state_dir):
                    await side.tell_clean()
        finally:
            self._worker.close(self._syncer.close)

    async def _run_parts(self, side: Side) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_forever(name, part), name=name) for name, part in self._parts(side)]
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    def _parts(self, side: Side) -> list[Part]:
        parts: list[Part] = [
            ("source", self._follow(side)),
            ("sync loop", self._loop.run()),
            ("health check ports", self._services.run()),
            *side.parts(),
        ]
        if self._state is not None:
            parts.append(("state directory", self._state.run()))
        if self._healthz is not None:
            parts.append(("healthz", serve(self._health.respond, self._healthz, "--healthz-address", self._clock)))
        if self._metrics_at is not None:
            parts.append(("metrics", serve(self._respond, self._metrics_at, "--metrics-address", self._clock)))
        return parts

    async def _check_support(self) -> None:
        why_useless = await self._worker.run(self._syncer.why_useless)
        if why_useless:
            raise AgentError(why_useless)

    async def _follow(self, side: Side) -> None:
        async for batch in side.batches():
            if batch.problems is not None:
                self._problems.update(side.origin, batch.problems)
            self._loop.offer(batch)

    def _outage(self) -> float | None:
        return self._side.outage if self._side is not None else None

    def _remember(self, directory: Path) -> StateKeeper:
        """Go on with the NodeProxy of the agent before this one, until the source tells of a newer one."""

        def report(found: tuple[Problem, ...]) -> None:
            self._problems.update("state directory", found)

        kept: NodeProxy | None = None
        try:
            kept = load(directory, self._options.node_name)
        except StateError as error:
            report((error.problem,))
        if kept is not None:
            self._planner.put(kept)
            _LOG.info(
                "--state-dir: going on with the last configuration (ProxyConfig %s), until there is a newer one",
                kept.spec.proxy_config,
            )
        return StateKeeper(directory, kept, report, self._clock)

    def _checks_failed(self, failed: Mapping[str, Problem]) -> None:
        self._problems.update("health check ports", failed.values())
        if self._side is not None:
            self._side.tell_failed_checks(failed)

    def _synced(self, outcome: Outcome) -> None:
        """Pass on what came of a sync."""
        first, self._mode = not self._mode, outcome.facts.mode
        self._account.add(outcome)
        self._metrics.count_sync(outcome)
        self._services.update(outcome.facts.health_checks)
        self._problems.update("objects", outcome.facts.problems)
        self._problems.update("kernel", refusals(outcome))
        log_sync(outcome, self._loop.why_full)
        if self._state is not None and outcome.written is not None:
            self._state.keep(outcome.facts.node_proxy)
        if self._side is not None:
            self._side.tell_mode(outcome.facts)
            self._side.look()
        if first:
            memory.settle()
            self._connections.begin()

    async def _respond(self, path: str) -> Response:
        match path:
            case "/metrics":
                await self._connections.count()
                return Response(HTTPStatus.OK, await asyncio.to_thread(self._metrics.exposition), CONTENT_TYPE)
            case "/connections":
                return await self._connections.respond()
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
