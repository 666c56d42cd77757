"""The table for people and the file for programs."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rows import Row, Target
    from workloads import Numbers


class Result:
    """What came of a row: the medians, and what each process measured; or why there is nothing."""

    def __init__(self, row: Row, runs: list[Numbers], failure: str = "") -> None:
        self.row = row
        self.runs = runs
        self.failure = failure
        self.medians = {key: _median([run[key] for run in runs]) for key in runs[0]} if runs else {}

    @property
    def met(self) -> bool:
        """Every target is met."""
        return not self.failure and all(target.met(self.medians[target.key]) for target in self.row.targets)


def table(results: list[Result], *, judged: bool) -> Table:
    """Lay the results out."""
    made = Table(title="pointsman: speed and memory", title_justify="left", header_style="bold")
    made.add_column("work", overflow="fold")
    made.add_column("target", justify="right", no_wrap=True)
    made.add_column("measured", justify="right", no_wrap=True)
    made.add_column("verdict", no_wrap=True)
    for result in results:
        if result.failure:
            made.add_row(result.row.work, "", "", "[red]failed[/]")
        for number, target in enumerate(result.row.targets if result.runs else ()):
            value = result.medians[target.key]
            measured = f"{_text(value)} {target.key}{_spread(result, target)}"
            work = "" if number else _work(result)
            made.add_row(work, _wanted(target), measured, _verdict(target, value) if judged else "not judged")
        made.add_section()
    return made


def write(path: Path, results: list[Result], *, quick: bool) -> None:
    """Write everything that was measured."""
    rows = [
        {
            "name": result.row.name,
            "work": result.row.work,
            "targets": [target._asdict() for target in result.row.targets],
            "median": result.medians,
            "runs": result.runs,
            "met": None if quick else result.met,
            "failure": result.failure,
        }
        for result in results
    ]
    found = {"quick": quick, "machine": machine(), "rows": rows}
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """Say what it was measured on."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def _work(result: Result) -> str:
    judged = {target.key for target in result.row.targets}
    others = [f"{_text(value)} {key}" for key, value in result.medians.items() if key not in judged]
    return result.row.work + (f"\n[dim]({', '.join(others)})[/]" if others else "")


def _wanted(target: Target) -> str:
    return f"{'>=' if target.at_least else '<='} {_text(target.limit)}"


def _verdict(target: Target, value: float) -> str:
    if target.met(value):
        return "[green]met[/]"
    missed = abs(value - target.limit) / target.limit if target.limit else value
    return f"[red]missed by {missed:.0%}[/]"


def _spread(result: Result, target: Target) -> str:
    values = [run[target.key] for run in result.runs]
    return "" if min(values) == max(values) else f"\n[dim]{_text(min(values))} .. {_text(max(values))}[/]"


def _text(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
