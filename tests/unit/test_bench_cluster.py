"""What `make bench-cluster` writes into etcd and makes of its figures; the benchmarks are programs, not a package."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Modules = Callable[[str], Any]

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


def run(benchmarks: Modules, **figures: float | list[float]) -> object:
    usual: dict[str, float | list[float]] = {
        "cold_seconds": 1.0,
        "cold_cpu": 1.0,
        "mebibytes": 100.0,
        "mebibytes_peak": 100.0,
        "idle_cpu": 0.0,
        "milliseconds": [10.0],
        "change_cpu": 0.01,
        "busy_before": 0.0,
    }
    return benchmarks("side_by_side.measure").Run(**usual | figures)


def compared(
    benchmarks: Modules, services: int, theirs: list[object], ours: list[object], *, mode: str = "nftables"
) -> dict[str, Any]:
    proxies, size = benchmarks("side_by_side.proxies"), benchmarks("objects").Size(services, 2)
    runs = {
        proxies.Proxy(proxies.KUBE_PROXY, "v1", ()): theirs,
        proxies.Proxy(proxies.POINTSMAN, "v1", (), mode): ours,
    }
    return {row.work: row for row in benchmarks("side_by_side.table").rows(size, runs)}


@pytest.mark.parametrize(("services", "seconds", "met"), [(10_000, 30, True), (10_000, 29, False), (5_000, 29, None)])
def test_a_cold_start_has_to_be_ten_times_faster_in_a_large_cluster(
    benchmarks: Modules, services: int, seconds: float, *, met: bool | None
) -> None:
    ours = [run(benchmarks, cold_seconds=each) for each in (3, 1, 99)]
    row = compared(benchmarks, services, [run(benchmarks, cold_seconds=seconds)], ours)["cold start"]
    assert (row.pointsman, row.ratio, row.met) == (3, seconds / 3, met)


@pytest.mark.parametrize(("theirs", "met"), [(1.4, False), (1.5, True)])
def test_iptables_has_targets_of_its_own(benchmarks: Modules, theirs: float, *, met: bool) -> None:
    runs = [[run(benchmarks, cold_seconds=each, milliseconds=[each])] for each in (theirs, 1.0)]
    rows = compared(benchmarks, 5000, *runs, mode="iptables")
    assert (rows["cold start"].met, rows["one change, p50"].met) == (True, met)
    assert rows["memory"].met is None


def test_changes_count_together_whichever_start_they_followed(benchmarks: Modules) -> None:
    ours = [run(benchmarks, milliseconds=[5.0, 400.0]), run(benchmarks, milliseconds=[101.0])]
    rows = compared(benchmarks, 1000, [run(benchmarks)], ours)
    assert (rows["one change, p50"].pointsman, rows["one change, p50"].met) == (101, False)
    assert (rows["one change, p99"].pointsman, rows["one change, p99"].target) == (400, "")


def test_memory_is_compared_at_every_size(benchmarks: Modules) -> None:
    rows = compared(benchmarks, 1, [run(benchmarks)], [run(benchmarks, mebibytes=101.0)])
    assert (rows["memory"].met, rows["memory, peak"].met) == (False, True)


def test_a_machine_that_was_not_quiet_is_told(benchmarks: Modules) -> None:
    disturbed, proxies = benchmarks("side_by_side.table").disturbed, benchmarks("side_by_side.proxies")
    quiet, busy = run(benchmarks), run(benchmarks, busy_before=0.5)
    proxy = proxies.Proxy(proxies.POINTSMAN, "v1", ())
    assert disturbed({1: {proxy: [quiet]}}) == ""
    assert "before 1 of 2 starts others used 50% to 50%" in disturbed({1: {proxy: [quiet, busy]}})


def test_every_service_has_its_address_and_endpoints_and_no_controller_looks_after_it(benchmarks: Modules) -> None:
    stored = dict(benchmarks("side_by_side.seed").stored(benchmarks("objects").Size(300, 2)))
    services = {key: each for key, each in stored.items() if each["kind"] == "Service"}
    assert len(services) == 300
    assert len(stored) == 900
    for service in services.values():
        name, address = service["metadata"]["name"], service["spec"]["clusterIP"]
        assert "selector" not in service["spec"]
        assert stored[f"/registry/ipaddresses/{address}"]["spec"]["parentRef"]["name"] == name
        part = stored[f"/registry/endpointslices/shop/{name}-00000"]
        assert len(part["endpoints"]) == 2
    assert not any("resourceVersion" in each["metadata"] for each in stored.values())


def test_a_process_is_measured_with_its_children(benchmarks: Modules) -> None:
    usage, pid = benchmarks("usage"), os.getpid()
    own = os.times()
    assert usage.cpu_seconds(pid) == pytest.approx(sum(own[:4]), abs=0.1)
    now, highest = usage.memory(pid)
    assert 1 < now <= highest
