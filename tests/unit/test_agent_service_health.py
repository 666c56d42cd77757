from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pointsman.agent.service_health import ServiceHealth
from pointsman.process.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pointsman.model.problems import Problem


@dataclass
class Check:
    """Shaped as `pointsman.policy.planner.HealthCheck`."""

    namespace: str
    name: str
    port: int
    local_endpoints: int


async def get(port: int, path: str = "/") -> tuple[int, dict[str, str], Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), json.loads(body)


class Scenario:
    def __init__(self) -> None:
        self.healthy = True
        self.problems: list[Mapping[str, Problem]] = []
        self.services = ServiceHealth(lambda: self.healthy, self.problems.append, SystemClock(), "127.0.0.1")

    async def settle(self, **checks: Check) -> None:
        self.services.update({f"{check.namespace}/{check.name}": check for check in checks.values()})
        await self.services.settle()

    def port(self, service: str) -> int:
        return self.services.addresses(service)[0][1]


def run(scenario: Callable[[Scenario], Awaitable[None]]) -> None:
    async def main() -> None:
        state = Scenario()
        async with asyncio.timeout(20):
            await scenario(state)
            await state.settle()

    asyncio.run(main())


def test_the_answer_says_whether_this_node_has_endpoints() -> None:
    async def scenario(state: Scenario) -> None:
        await state.settle(web=Check("default", "web", 0, 2))
        port = state.port("default/web")
        status, headers, body = await get(port, "/any/path")
        assert status == 200
        assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
        assert headers["Content-Type"] == "application/json"
        service = {"namespace": "default", "name": "web"}
        assert body == {"service": service, "localEndpoints": 2, "serviceProxyHealthy": True}

        state.services.update({"default/web": Check("default", "web", 0, 0)})
        status, headers, body = await get(port)
        assert (status, headers["X-Load-Balancing-Endpoint-Weight"], body["localEndpoints"]) == (503, "0", 0)

        await state.settle(web=Check("default", "web", 0, 1))
        state.healthy = False
        status, _, body = await get(port)
        assert (status, body["localEndpoints"], body["serviceProxyHealthy"]) == (503, 1, False)

    run(scenario)


def test_ports_close_with_their_service() -> None:
    async def scenario(state: Scenario) -> None:
        await state.settle(web=Check("default", "web", 0, 1), api=Check("default", "api", 0, 1))
        api = state.port("default/api")
        await state.settle(api=Check("default", "api", 0, 1))
        assert state.services.addresses("default/web") == ()
        assert state.port("default/api") == api, "what stays is left alone"

    run(scenario)


def test_a_port_in_use_is_told_and_harms_nobody_else() -> None:
    async def scenario(state: Scenario) -> None:
        await state.settle(web=Check("default", "web", 0, 1))
        taken = state.port("default/web")
        checks = {"web": Check("default", "web", 0, 1), "api": Check("default", "api", 0, 3)}
        await state.settle(**checks, late=Check("default", "late", taken, 1))
        assert (await get(state.port("default/api")))[0] == 200
        (problem,) = state.problems[0].values()
        assert "Service default/late: spec.healthCheckNodePort: FailedToStartServiceHealthcheck" in str(problem)
        assert str(taken) in str(problem)

        del checks["web"]
        await state.settle(**checks, late=Check("default", "late", taken, 1))
        assert state.port("default/late") == taken, "it is tried again"
        assert state.problems[-1] == {}

    run(scenario)


def test_the_task_follows_updates_and_closes_all_at_its_end() -> None:
    async def scenario(state: Scenario) -> None:
        task = asyncio.create_task(state.services.run())
        state.services.update({"default/web": Check("default", "web", 0, 1)})
        while not state.services.addresses("default/web"):  # noqa: ASYNC110 (a test's wait, for a few turns)
            await asyncio.sleep(0)
        port = state.port("default/web")
        assert (await get(port))[0] == 200
        task.cancel()
        await asyncio.wait([task])
        assert state.services.addresses("default/web") == ()

    run(scenario)
