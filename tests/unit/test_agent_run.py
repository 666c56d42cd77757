"""The agent as a whole, with a kernel in memory: from a file to the dataplane, and back through its HTTP servers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING

import pytest

from pointsman.agent import memory
from pointsman.agent.outcome import Kernel
from pointsman.agent.run import Agent, AgentOptions
from pointsman.agent.startup import AgentError
from pointsman.dataplane.protocol import DataplaneError, Support, Traffic, Written
from pointsman.model.plan import Plan, apply
from pointsman.sources.protocol import SourceError
from support.machine_memory import Machine

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.model.plan import Delta, Frontend

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, ports: [{port: PORT}]}
"""


class Memory:
    """A kernel in memory that tells when its plan changes."""

    mode = "nftables"

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, support: Support | None = None) -> None:
        self.loop = loop
        self.plan = Plan({})
        self.changed = asyncio.Event()
        self.available = support or Support(available=True)
        self.fault: Exception | None = None

    def kernel(self) -> Kernel:
        return Kernel({"nftables": lambda: self}, lambda: self, lambda _config, _families, _mode: ())

    def support(self) -> Support:
        return self.available

    def adopt(self, plan: Plan) -> Written:
        return self._hold(Plan(dict(plan.answers), plan.settings))

    def apply(self, delta: Delta) -> Written:
        return self._hold(apply(self.plan, delta))

    def disturbed(self) -> bool:
        return False

    def tend(self) -> None:
        pass

    def traffic(self) -> dict[Frontend, Traffic]:
        return {frontend: Traffic(7, {}) for frontend in self.plan.answers}

    def close(self) -> None:
        pass

    def own_endpoints(self) -> dict[Frontend, frozenset[tuple[str, int]]]:
        return {}

    def clean(self, *_what: object, **_how: object) -> int:
        return 0

    def _hold(self, plan: Plan) -> Written:
        if self.fault is not None:
            raise self.fault
        self.plan = plan
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.changed.set)
        return Written(added=1)

    async def ports(self) -> set[int]:
        """Wait for the next change, and return the ports of all frontends."""
        async with asyncio.timeout(20):
            await self.changed.wait()
        self.changed.clear()
        return {frontend.port for frontend in self.plan.answers}


@pytest.fixture(autouse=True)
def _keep_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "settle", lambda: None)


def options(directory: Path) -> AgentOptions:
    return AgentOptions(directory, "node-1", healthz_address="127.0.0.1:0", metrics_address="127.0.0.1:0")


def port_of(flag: str, caplog: pytest.LogCaptureFixture) -> int:
    found = re.search(rf"{flag}: listening on 127.0.0.1:(\d+)", caplog.text)
    assert found is not None
    return int(found[1])


async def get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


def test_from_a_file_to_the_kernel_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        kernel = Memory(asyncio.get_running_loop())
        (tmp_path / "web.yaml").write_text(SERVICE.replace("PORT", "80"))
        agent = Agent(options(tmp_path), kernel.kernel())
        running = asyncio.create_task(agent.run())
        assert await kernel.ports() == {80}
        (tmp_path / "web.yaml").write_text(SERVICE.replace("PORT", "81"))
        assert await kernel.ports() == {81}
        healthz, metrics = port_of("--healthz-address", caplog), port_of("--metrics-address", caplog)
        status, body = await get(healthz, "/healthz")
        assert (status, json.loads(body)["healthy"]) == (200, True)
        assert await get(metrics, "/proxyMode") == (200, b"nftables")
        status, body = await get(metrics, "/connections")
        told = json.loads(body)
        assert (status, told["node"], told["mode"]) == (200, "node-1", "nftables")
        assert [(each["servicePort"], each["port"], each["connections"]) for each in told["frontends"]] == [
            ("default/web", 81, 7)
        ]
        status, body = await get(metrics, "/metrics")
        assert status == 200
        assert b"kubeproxy_sync_proxy_rules_service_changes_total 2.0" in body
        assert b'kubeproxy_proxy_healthz_total{code="200"} 1.0' in body
        assert (await get(metrics, "/other"))[0] == 404
        agent.stop()
        async with asyncio.timeout(20):
            await running
        assert {frontend.port for frontend in kernel.plan.answers} == {81}, "the kernel keeps its rules"

    asyncio.run(scenario())


CONFIG = """
apiVersion: pointsman.dev/v1alpha1
kind: ProxyConfig
metadata: {name: default}
spec: {mode: ipvs, syncPeriod: 100ms}
"""


def test_a_fallback_is_shown_until_the_wanted_mode_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine("nftables", "ipvs")
    machine.unload("ipvs", "no IPVS; run `modprobe ip_vs`")
    kernel = Kernel(machine.dataplanes(), Memory, lambda _config, _families, _mode: ())

    async def mode_is(mode: str) -> None:
        async with asyncio.timeout(20):
            while "--metrics-address: listening" not in caplog.text:  # noqa: ASYNC110 (there is no event to wait for)
                await asyncio.sleep(0.01)
            while await get(port_of("--metrics-address", caplog), "/proxyMode") != (200, mode.encode()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        (tmp_path / "web.yaml").write_text(SERVICE.replace("PORT", "80"))
        (tmp_path / "config.yaml").write_text(CONFIG)
        agent = Agent(options(tmp_path), kernel)
        running = asyncio.create_task(agent.run())
        await mode_is("nftables")
        machine.load("ipvs")
        await mode_is("ipvs")
        agent.stop()
        await running

    asyncio.run(scenario())
    told = [message for message in caplog.messages if message.startswith("mode ")]
    assert told == [
        "mode ipvs is wanted, mode nftables is in force; ipvs: no IPVS; run `modprobe ip_vs`",
        "mode ipvs is in force, as the configuration says",
    ]
    assert (list(machine.plans), machine.opened) == (["ipvs"], {})


def test_what_the_kernel_refuses_is_logged_once_and_taken_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        kernel = Memory(asyncio.get_running_loop())
        kernel.fault = DataplaneError("element 10.96.0.1: no")
        (tmp_path / "web.yaml").write_text(SERVICE.replace("PORT", "80"))
        agent = Agent(options(tmp_path), kernel.kernel())
        running = asyncio.create_task(agent.run())
        async with asyncio.timeout(20):
            while "element 10.96.0.1: no" not in caplog.text:  # noqa: ASYNC110 (the log has no event to wait for)
                await asyncio.sleep(0.01)
        kernel.fault = None
        assert await kernel.ports() == {80}
        agent.stop()
        await running

    asyncio.run(scenario())
    assert caplog.text.count("WARNING") == 1


def test_a_fault_ends_the_agent_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        kernel = Memory(asyncio.get_running_loop())
        kernel.fault = KeyError("fault")
        await Agent(options(tmp_path), kernel.kernel()).run()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(scenario())
    assert raised.group_contains(KeyError)
    assert "the sync loop failed" in caplog.text


def test_a_missing_directory_ends_the_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        await Agent(options(tmp_path / "none"), Memory().kernel()).run()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(scenario())
    assert raised.group_contains(SourceError, match="create it, or name another one")


def test_a_kernel_without_support_ends_the_agent(tmp_path: Path) -> None:
    kernel = Memory(support=Support(available=False, reason="no nf_tables; load the module"))
    with pytest.raises(AgentError, match="no nf_tables; load the module"):
        asyncio.run(Agent(options(tmp_path), kernel.kernel()).run())


def test_a_bad_address_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="--healthz-address nonsense"):
        Agent(AgentOptions(tmp_path, "node-1", healthz_address="nonsense"), Memory().kernel())
