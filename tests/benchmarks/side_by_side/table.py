"""The two programs' figures beside each other: for people, and for programs."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import report
import usage
from rich.table import Table

from side_by_side.proxies import KUBE_PROXY, POINTSMAN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from objects import Size

    from side_by_side.measure import Plan, Run
    from side_by_side.proxies import Proxy

    Found = dict[Size, dict[Proxy, list[Run]]]

_LARGE: Final = 10_000
"""Services from which on a cold start has to be ten times faster."""


class Figure(NamedTuple):
    """What all runs of a proxy come to in one respect; less is better.

    Attributes:
        work: how the table calls it.
        means: what it is, for those who have not measured it.
        unit: of the figure.
        of: makes it of the runs.
        ratio: how many times Pointsman's figure kube-proxy's has to be, at least; None: it need not.
        limit: what Pointsman's figure may be, at most; None: anything.
        services: a cluster of at least so many is judged.
    """

    work: str
    means: str
    unit: str
    of: Callable[[Sequence[Run]], float]
    ratio: float | None = None
    limit: float | None = None
    services: int = 0


class Row(msgspec.Struct):
    """One line of the table.

    Attributes:
        ratio: kube-proxy's figure in terms of Pointsman's.
        target: what is judged, in words; empty when nothing is.
        met: whether it is; None when nothing is judged.
    """

    work: str
    unit: str
    kube_proxy: float
    pointsman: float
    ratio: float
    target: str
    met: bool | None


def _changes(runs: Sequence[Run]) -> list[float]:
    return sorted(each for run in runs for each in run.milliseconds) or [float("nan")]


def _p99(runs: Sequence[Run]) -> float:
    changes = _changes(runs)
    return changes[len(changes) * 99 // 100]


FIGURES: Final = (
    Figure(
        "cold start",
        "process start until the last Service answers a pod: loading the program, the lists, the kernel; median",
        "s",
        lambda runs: median(run.cold_seconds for run in runs),
        ratio=10,
        services=_LARGE,
    ),
    Figure(
        "cold start, CPU",
        "CPU time until then, with that of the programs that it starts (nft, iptables-restore)",
        "s",
        lambda runs: median(run.cold_cpu for run in runs),
    ),
    Figure(
        "one change, p50",
        "from just before the request to the API server until a Service's new endpoint answers a pod",
        "ms",
        lambda runs: median(_changes(runs)),
        limit=100,
    ),
    Figure("one change, p99", "the same; the longest one, where there are fewer than a hundred", "ms", _p99),
    Figure(
        "one change, CPU",
        "CPU time from the first change to the last, divided by their number; idle time between them is in it",
        "ms",
        lambda runs: 1000 * median(run.change_cpu for run in runs),
        ratio=10,
    ),
    Figure(
        "idle, CPU a second",
        "CPU time while nothing changes",
        "ms",
        lambda runs: 1000 * median(run.idle_cpu for run in runs),
    ),
    Figure(
        "memory",
        "resident, when everything is programmed; without the programs that it starts",
        "MiB",
        lambda runs: median(run.mebibytes for run in runs),
        ratio=1,
    ),
    Figure(
        "memory, peak",
        "the same, at its highest until then",
        "MiB",
        lambda runs: median(run.mebibytes_peak for run in runs),
        ratio=1,
    ),
)

_TARGETS_OF_IPTABLES: Final = {"cold start": 1.0, "one change, p50": 1.5, "one change, CPU": 1.5}
"""In mode `iptables` both write the same chains: how many times Pointsman's figure kube-proxy's has to be, at least."""


def rows(size: Size, runs: dict[Proxy, list[Run]]) -> list[Row]:
    """Compare the two at one size."""
    by_name = {proxy.name: of_proxy for proxy, of_proxy in runs.items()}
    iptables = any(proxy.name == POINTSMAN and proxy.mode == "iptables" for proxy in runs)
    return [
        _row(
            _of_iptables(figure) if iptables else figure,
            size,
            *(figure.of(by_name[n]) for n in (KUBE_PROXY, POINTSMAN)),
        )
        for figure in FIGURES
    ]


def _of_iptables(figure: Figure) -> Figure:
    return figure._replace(ratio=_TARGETS_OF_IPTABLES.get(figure.work), limit=None, services=0)


def _row(figure: Figure, size: Size, theirs: float, ours: float) -> Row:
    ratio = theirs / ours if ours else float("inf")
    target, met = "", None
    if size.services >= figure.services and figure.ratio is not None:
        target, met = f">= {figure.ratio:g} x", ratio >= figure.ratio
    elif figure.limit is not None:
        target, met = f"<= {figure.limit:g} {figure.unit}", ours <= figure.limit
    return Row(figure.work, figure.unit, theirs, ours, ratio, target, met)


def table(found: Found) -> Table:
    """Lay everything out for people."""
    made = Table(title="Pointsman beside kube-proxy", title_justify="left", header_style="bold")
    made.caption, made.caption_justify = "\n".join(f"{each.work}: {each.means}" for each in FIGURES), "left"
    made.add_column("work", no_wrap=True)
    for name in (*_names(found), "ratio", "target"):
        made.add_column(name, justify="right")
    made.add_column("verdict", no_wrap=True)
    for size, runs in found.items():
        made.add_row(f"[bold]{size.services:,} Services x {size.endpoints}[/]")
        for row in rows(size, runs):
            made.add_row(*_cells(row))
        made.add_section()
    return made


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
    return (
        row.work,
        _text(row.kube_proxy, row.unit),
        _text(row.pointsman, row.unit),
        f"{row.ratio:.3g} x",
        row.target,
        verdict,
    )


def disturbed(found: Found) -> str:
    """Say how many starts were made while others used the machine; empty when none was."""
    shares = [run.busy_before for runs in found.values() for of_proxy in runs.values() for run in of_proxy]
    busy = [share for share in shares if share > usage.BUSY]
    if not busy:
        return ""
    return (
        f"The machine was not quiet: before {len(busy)} of {len(shares)} starts others used {min(busy):.0%} to "
        f"{max(busy):.0%} of its cores. Measure again when it is."
    )


def write(path: Path, found: Found, plan: Plan) -> None:
    """Write everything that was measured."""
    document = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {**report.machine(), "nft": _nft_version()},
        "versions": {proxy.name: proxy.version for runs in found.values() for proxy in runs},
        "plan": msgspec.to_builtins(plan),
        "sizes": [_written(size, runs) for size, runs in found.items()],
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _written(size: Size, runs: dict[Proxy, list[Run]]) -> dict[str, Any]:
    return {
        **size._asdict(),
        "rows": msgspec.to_builtins(rows(size, runs)),
        "runs": {proxy.name: msgspec.to_builtins(of_proxy) for proxy, of_proxy in runs.items()},
    }


def _names(found: Found) -> list[str]:
    first = next(iter(found.values()), {})
    return [f"{proxy.name} {proxy.version}" for proxy in first]


def _nft_version() -> str:
    return subprocess.check_output(["nft", "--version"], text=True).strip()


def _text(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
