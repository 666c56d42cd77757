"""The operator as one process: what is connected to what, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pointsman.api.names import WEBHOOK_SERVICE
from pointsman.controller.admission.serve import AdmissionOptions, serve_admission, service_names
from pointsman.controller.census import Census, follow_census
from pointsman.controller.follow import ServiceFollower
from pointsman.controller.heartbeats import follow_heartbeats
from pointsman.controller.kopf_thread import KopfThread
from pointsman.controller.leader import Leadership
from pointsman.controller.metrics import Known, OperatorMetrics
from pointsman.controller.reconciler import Reconciler
from pointsman.controller.view import View
from pointsman.controller.writer import Writer
from pointsman.process.clock import SystemClock
from pointsman.process.exposition import CONTENT_TYPE
from pointsman.process.http import Response, not_found
from pointsman.process.listen import Address, parse_address, serve
from pointsman.process.logs import ProblemLog
from pointsman.sources.apiserver import backoff
from pointsman.sources.apiserver.client import connect
from pointsman.sources.apiserver.link import Link
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import Any

    from pointsman.controller.options import OperatorOptions
    from pointsman.model.objects import Kind
    from pointsman.sources.apiserver.client import ApiClient

_LOG: Final = logging.getLogger(__name__)
_NEEDED: Final[frozenset[Kind]] = frozenset(
    {"Node", "Namespace", "ProxyConfig", "NodeProxy", "Service", "EndpointSlice"}
)
"""What has to be complete before anything is judged."""


class OperatorError(Exception):
    """The operator cannot start or go on; the message says why and what to do."""


def run(options: OperatorOptions) -> None:
    """Run one replica of the operator until SIGTERM or SIGINT; no node notices its end.

    Raises:
        OperatorError: it cannot start or go on.
    """
    try:
        asyncio.run(Operator(options).run())
    except SourceError as error:
        raise OperatorError(str(error)) from error
    except ExceptionGroup as group:
        first = _first(group)
        if isinstance(first, OSError):
            raise OperatorError(f"--webhook-address {options.webhook_address}: {first.strerror or first}") from group
        raise OperatorError(f"stopped by a fault of the operator ({first!r}); nodes keep what they have") from group


class Operator:
    """The parts of one replica, connected.

    Args:
        options: what it is told.

    Raises:
        OperatorError: an option is wrong; the message says which and what to do.
    """

    def __init__(self, options: OperatorOptions) -> None:
        self._options = options
        self._healthz = _address(options.healthz_address, "--healthz-address")
        self._webhook = _address(options.webhook_address, "--webhook-address")
        self._clock = SystemClock()
        self._problems = ProblemLog()
        self._stop = asyncio.Event()
        self._view = View()
        self._metrics = OperatorMetrics()
        self._link: Link | None = None

    @property
    def is_filled(self) -> bool:
        """Whether the picture of the cluster is complete."""
        return self._view.listed >= _NEEDED

    async def run(self) -> None:
        """Run until the process is told to stop.

        Raises:
            SourceError: it cannot find out which API server to ask, and how.
        """
        with _until_signalled(self._stop):
            async with connect(self._options.access) as client:
                _LOG.info("%s follows %s", self._options.identity, client.server)
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(part, name=name) for name, part in self._parts(client).items()]
                    await self._stop.wait()
                    _LOG.info("stopping; nodes keep what they have")
                    for task in running:
                        task.cancel()

    def _parts(self, client: ApiClient) -> dict[str, Coroutine[Any, Any, None]]:
        """Connect what runs beside each other."""
        options, view, clock = self._options, self._view, self._clock
        self._link = link = Link(client, backoff.SystemClock(), random.SystemRandom())
        wake = asyncio.Event()
        leadership = Leadership(client, options.namespace, options.identity, clock, wake.set)
        writer = Writer(
            client, view, options.identity, clock, lambda: leadership.leads, count=self._metrics.count_write
        )
        reconciler = Reconciler(view, writer, lambda: leadership.leads, clock, wake)
        self._metrics.follow(
            Known(view.configs, lambda: leadership.leads, lambda: reconciler.decided, lambda: link.outage)
        )
        census = Census(view, self._problems, wake.set)
        kopf = KopfThread(options.access, census.hear)
        services = ServiceFollower(link, view, wake.set)

        def take_silent(names: frozenset[str]) -> None:
            view.set_silent(names)
            wake.set()

        heartbeats = follow_heartbeats(
            client, options.namespace, clock, nodes=lambda: tuple(view.node_proxies), take=take_silent
        )
        parts: dict[str, Coroutine[Any, Any, None]] = {
            "link": link.run(),
            "services": services.run(),
            "kopf": kopf.run(),
            "census": follow_census(client, census, clock, kopf.start),
            "heartbeats": heartbeats,
            "leadership": leadership.run(),
            "reconciler": reconciler.run(),
            "start": self._tell_start(services),
        }
        if self._webhook is not None:
            parts["webhook"] = serve_admission(
                view,
                client,
                self._admission(),
                is_filled=lambda: self.is_filled,
                leads=lambda: leadership.leads,
                metrics=self._metrics,
            )
        if self._healthz is not None:
            parts["health"] = serve(self._answer, self._healthz, "--healthz-address", clock)
        return parts

    def _admission(self) -> AdmissionOptions:
        options, address = self._options, self._webhook
        names = options.webhook_hosts or service_names(WEBHOOK_SERVICE, options.namespace)
        host, port = (address.host or "", address.port) if address is not None else ("", 0)
        return AdmissionOptions(host, port, names, options.namespace, options.makes_certificates)

    async def _tell_start(self, services: ServiceFollower) -> None:
        """Say when the picture is complete, and what is wrong with what is followed."""
        never, begun = asyncio.Event(), self._clock.monotonic()
        while not self.is_filled:
            await self._clock.wait(never, 0.1)
            self._problems.update("services", services.problems)
        seconds = self._clock.monotonic() - begun
        count = len(self._view.keys("Service"))
        _LOG.info("the picture of the cluster is complete after %.1f s: %d Services", seconds, count)
        # What was read stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        while True:
            await self._clock.wait(never, 1.0)
            self._problems.update("services", services.problems)

    async def _answer(self, path: str) -> Response:
        """Answer probes and scrapes: it lives while it answers, and is ready when its picture is complete."""
        if path == "/livez":
            return Response(HTTPStatus.OK, b"ok\n")
        if path in ("/healthz", "/readyz"):
            if self.is_filled:
                return Response(HTTPStatus.OK, b"ok\n")
            missing = ", ".join(sorted(_NEEDED - self._view.listed))
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"not complete yet: {missing}\n".encode())
        if path == "/metrics":
            return Response(HTTPStatus.OK, await asyncio.to_thread(self._metrics.exposition), CONTENT_TYPE)
        return not_found()


@contextlib.contextmanager
def _until_signalled(stop: asyncio.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set `stop`."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _address(text: str, flag: str) -> Address | None:
    try:
        return parse_address(text, flag)
    except ValueError as error:
        raise OperatorError(str(error)) from error


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
