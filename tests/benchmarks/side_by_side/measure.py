"""What is measured of each proxy, in turns."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import msgspec
import objects
import usage

from pointsman.api.names import Mode
from pointsman.lab.controlplane.plane import ControlPlane
from side_by_side import probe, proxies, seed
from side_by_side.ground import NODE, Ground

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from objects import Size

    from pointsman.lab.daemon import Daemon
    from side_by_side.ground import Started
    from side_by_side.proxies import Proxy

_COLD_PATIENCE: Final = 900.0
_CHANGE_PATIENCE: Final = 60.0
_COLD_PAUSE: Final = 0.01
_CHANGE_PAUSE: Final = 0.002
"""Seconds between two tries to connect: less would take the cores that are measured."""
_QUIET_PATIENCE: Final = 8.0
_IDLE: Final = 5.0
"""Seconds for which a proxy is watched while nothing changes."""
_SAMPLE: Final = 100
_SPACING: Final = (1.1, 2.0)
"""Seconds from one change's end to the next change: more than kube-proxy's minSyncPeriod, and never in step with it."""
_SEED: Final = 1


class Run(msgspec.Struct):
    """What one start of a proxy came to.

    Attributes:
        cold_seconds: from just before the process was made until the last Service answered.
        cold_cpu: seconds of CPU until then.
        mebibytes: resident memory when everything was programmed.
        mebibytes_peak: the same, at its highest until then.
        idle_cpu: seconds of CPU a second, while nothing changed.
        milliseconds: for each change, from just before the request to the API server until the new endpoint answered.
        change_cpu: seconds of CPU for each change.
        busy_before: the share of the machine's cores that others used before the start.
    """

    cold_seconds: float
    cold_cpu: float
    mebibytes: float
    mebibytes_peak: float
    idle_cpu: float
    milliseconds: list[float]
    change_cpu: float
    busy_before: float


class Plan(msgspec.Struct, frozen=True):
    """How much is measured.

    Attributes:
        repeats: starts of each proxy.
        changes: after each start.
        mode: of Pointsman.
        kube_proxy_mode: of kube-proxy.
    """

    repeats: int
    changes: int
    mode: Mode
    kube_proxy_mode: Mode


def measure(size: Size, plan: Plan, say: Callable[[str], None]) -> dict[Proxy, list[Run]]:
    """Measure both proxies on one control plane of that size, in turns."""
    say(f"{size}: starting a control plane and writing the objects into it")
    with ControlPlane(say=say) as plane:
        ground = Ground(plane)
        contenders = [proxies.kube_proxy(plane, NODE, plan.kube_proxy_mode), proxies.agent(plane, NODE, plan.mode)]
        # The controllers would look at every Service, and take the cores that are measured.
        plane.controllers.kill()
        seed.fill(plane, size)
        changes = _Changes(plane, size)
        runs: dict[Proxy, list[Run]] = {proxy: [] for proxy in contenders}
        for number in range(plan.repeats):
            # Who is first changes with each round.
            for proxy in contenders[:: -1 if number % 2 else 1]:
                busy = usage.wait_until_quiet(_QUIET_PATIENCE)
                run = _run(ground, proxy, changes, plan.changes, busy)
                runs[proxy].append(run)
                say(f"{size}: {proxy.name}, start {number + 1} of {plan.repeats}: {_told(run)}")
    return runs


def _run(ground: Ground, proxy: Proxy, changes: _Changes, count: int, busy: float) -> Run:
    with ground.started(proxy) as started, started.client.namespace.entered():
        cold_seconds = _wait_for_services(started, changes.size.services)
        cold_cpu = usage.cpu_seconds(started.daemon.pid)
        usage.wait_until_quiet(_QUIET_PATIENCE)
        now, highest = usage.memory(started.daemon.pid)
        idle = _idle_cpu(started.daemon)
        before = usage.cpu_seconds(started.daemon.pid)
        milliseconds = list(changes.make(started.daemon, count))
        spent = usage.cpu_seconds(started.daemon.pid) - before
    return Run(cold_seconds, cold_cpu, now, highest, idle, milliseconds, spent / max(count, 1), busy)


def _wait_for_services(started: Started, services: int) -> float:
    """Wait until all Services answer: a sample at first, which takes no time, then each one of them.

    Returns:
        Seconds from the start of the process until the sample was whole, or, if another Service was still missing then,
        until that one answered.
    """
    chosen = random.Random(_SEED).sample(range(services), min(_SAMPLE, services))  # noqa: S311 - the same in each run
    _wait_for(started, [0, *chosen, services - 1])
    seconds = time.perf_counter() - started.begun
    late = [service for service in range(services) if probe.answering(service) is None]
    if late:
        _wait_for(started, late)
        seconds = time.perf_counter() - started.begun
    return seconds


def _wait_for(started: Started, services: list[int]) -> None:
    for service in services:
        started.daemon.wait_until(
            lambda: probe.answering(service) is not None,  # noqa: B023 - asked for in this very round
            f"lets nobody answer for {objects.cluster_ip(service)}",
            patience=_COLD_PATIENCE,
            pause=_COLD_PAUSE,
        )


def _idle_cpu(daemon: Daemon) -> float:
    before = usage.cpu_seconds(daemon.pid)
    time.sleep(_IDLE)
    return (usage.cpu_seconds(daemon.pid) - before) / _IDLE


class _Changes:
    """Replaces one of a Service's endpoints by a new one, again and again."""

    def __init__(self, plane: ControlPlane, size: Size) -> None:
        self.size = size
        self._plane = plane
        self._random = random.Random(_SEED)  # noqa: S311 - the same changes in each run
        self._fresh = size.services * size.endpoints

    def make(self, daemon: Daemon, count: int) -> Iterator[float]:
        """Make changes, and yield the milliseconds after which each new endpoint answered."""
        for _ in range(count):
            time.sleep(self._random.uniform(*_SPACING))
            service = self._random.randrange(self.size.services)
            self._fresh += 1
            begun = time.perf_counter()
            self._replace(service, self._fresh)
            _wait_for_endpoint(daemon, service, objects.pod_ip(self._fresh))
            yield (time.perf_counter() - begun) * 1000

    def _replace(self, service: int, fresh: int) -> None:
        first = service * self.size.endpoints
        seed.set_endpoints(self._plane, service, [fresh, *range(first + 1, first + self.size.endpoints)])


def _wait_for_endpoint(daemon: Daemon, service: int, endpoint: str) -> None:
    daemon.wait_until(
        lambda: probe.is_answered_by(service, endpoint),
        f"does not let {endpoint} answer for {objects.cluster_ip(service)}",
        patience=_CHANGE_PATIENCE,
        pause=_CHANGE_PAUSE,
    )


def _told(run: Run) -> str:
    parts = [f"last Service answers after {run.cold_seconds:.1f} s", f"{run.mebibytes:.0f} MiB"]
    if run.milliseconds:
        parts += [f"{len(run.milliseconds)} changes, {max(run.milliseconds):.0f} ms at most"]
    if run.busy_before > usage.BUSY:
        parts += [f"others kept {run.busy_before:.0%} of the machine at work before it"]
    return ", ".join(parts)
