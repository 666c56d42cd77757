"""Health check ports of Services: ``healthCheckNodePort`` of those with ``externalTrafficPolicy: Local``.

A cloud's load balancer asks each node whether it has endpoints of the Service, and sends it connections accordingly.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pointsman.model.problems import Problem
from pointsman.process.http import HttpServer, Response, json_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.policy.planner import HealthCheck
    from pointsman.process.clock import Clock

_LOG: Final = logging.getLogger(__name__)
_RETRY: Final = 5.0
"""Seconds until a port that could not be opened is tried again."""


class ServiceHealth:
    """Keeps one small server for each Service with a health check port.

    Args:
        healthy: tells whether this node's proxy is healthy.
        on_problems: told, by ``namespace/name`` of the Service, whenever the ports that could not be opened are others
            than before; that is what kube-proxy reports as the event ``FailedToStartServiceHealthcheck``. It harms no
            other Service.
        host: where to listen; None means all addresses.
    """

    def __init__(
        self,
        healthy: Callable[[], bool],
        on_problems: Callable[[Mapping[str, Problem]], None],
        clock: Clock,
        host: str | None = None,
    ) -> None:
        self._healthy = healthy
        self._on_problems = on_problems
        self._clock = clock
        self._host = host
        self._checks: Mapping[str, HealthCheck] = {}
        self._servers: dict[str, tuple[int, HttpServer]] = {}
        self._problems: Mapping[str, Problem] = {}
        self._wake = asyncio.Event()

    def update(self, checks: Mapping[str, HealthCheck]) -> None:
        """Take what there shall be, by ``namespace/name``; counts of endpoints hold at once, ports soon after."""
        self._checks = checks
        self._wake.set()

    def addresses(self, service: str) -> tuple[tuple[str, int], ...]:
        """Return where the server of a Service listens; empty when it does not."""
        entry = self._servers.get(service)
        return entry[1].addresses if entry is not None else ()

    async def run(self) -> None:
        """Open and close ports until cancelled; then close them all."""
        try:
            while True:
                await self._clock.wait(self._wake, _RETRY if self._problems else None)
                self._wake.clear()
                await self.settle()
        finally:
            for _, server in self._servers.values():
                await server.stop()

    async def settle(self) -> None:
        """Bring the open ports in line with what there shall be."""
        wanted = self._checks
        for service in list(self._servers):
            port, server = self._servers[service]
            if service not in wanted or wanted[service].port != port:
                del self._servers[service]
                await server.stop()
        missing = sorted(wanted.keys() - self._servers)
        opened = {service: await self._open(service, wanted[service]) for service in missing}
        found = {service: problem for service, problem in opened.items() if problem is not None}
        if found != self._problems:
            self._problems = found
            self._on_problems(found)

    async def _open(self, service: str, check: HealthCheck) -> Problem | None:
        async def respond(_path: str) -> Response:
            return self._respond(service)

        server = HttpServer(respond)
        try:
            await server.start(self._host, check.port)
        except OSError as error:
            return Problem(
                source="",
                object=f"Service {service}",
                field="spec.healthCheckNodePort",
                message=f"FailedToStartServiceHealthcheck: cannot listen on port {check.port} ({error.strerror})",
                remedy="stop what listens on this port of the node, or give the Service another one",
                dropped="the health check port",
            )
        self._servers[service] = (check.port, server)
        _LOG.info("health check port %d is open for Service %s", check.port, service)
        return None

    def _respond(self, service: str) -> Response:
        check = self._checks.get(service)
        count = check.local_endpoints if check is not None else 0
        healthy = self._healthy()
        namespace, _, name = service.partition("/")
        body = {
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        status = HTTPStatus.OK if count and healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return json_response(status, body, {"X-Load-Balancing-Endpoint-Weight": str(count)})
