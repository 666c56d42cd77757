"""Measure speed and memory: ``make bench``, or ``python tests/benchmarks [--quick] [ROW...]``.

Every measurement is made in a process and a network namespace of its own. A plain user needs the right to make user
namespaces; root needs nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import inside
import report
from report import Result
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rows import BY_NAME, ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Measure what the command line asks for."""
    options = _options()
    inside.find_system_programs()
    if options.measure:
        json.dump(BY_NAME[options.measure].run(options.quick), sys.stdout)
        return 0
    inside.compile_pointsman()
    console = Console()
    rows = [BY_NAME[name] for name in options.rows] or list(ROWS)
    results = _measure_all(console, rows, options)
    report.write(options.output, results, quick=options.quick)
    console.print(report.table(results, judged=not options.quick))
    for result in results:
        if result.failure:
            console.print(f"{result.row.name}: {result.failure}", style="red", markup=False, highlight=False)
    console.print(f"Everything that was measured is in {options.output}.", highlight=False)
    return 1 if any(result.failure for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks",
        description="Measure speed and memory, from objects as JSON to the kernel.",
        epilog="Rows: " + ", ".join(row.name for row in ROWS),
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", type=_known, help="what to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once: whether it runs, not how fast")
    parser.add_argument("--repeats", type=int, metavar="N", help="processes for each row (default: 3, with --quick 1)")
    parser.add_argument("--output", type=Path, default=Path("bench-results.json"), metavar="FILE", help="(%(default)s)")
    parser.add_argument("--measure", choices=[*BY_NAME], help=argparse.SUPPRESS)
    return parser.parse_args()


def _known(name: str) -> str:
    if name not in BY_NAME:
        raise argparse.ArgumentTypeError(f"there is no row {name!r}; there are {', '.join(BY_NAME)}")
    return name


def _measure_all(console: Console, rows: list[Row], options: argparse.Namespace) -> list[Result]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console) as progress:
        for row in rows:
            repeats = options.repeats or (1 if options.quick else row.repeats)
            task = progress.add_task(row.work, total=repeats)
            results.append(_measure(row, repeats, quick=options.quick, done=functools.partial(progress.advance, task)))
    return results


def _measure(row: Row, repeats: int, *, quick: bool, done: Callable[[], object]) -> Result:
    runs = []
    for _ in range(repeats):
        finished = subprocess.run(_command(row, quick=quick), capture_output=True, text=True, check=False)
        if finished.returncode:
            return Result(row, runs, finished.stderr.strip() or f"status {finished.returncode}")
        runs.append(json.loads(finished.stdout))
        done()
    return Result(row, runs)


def _command(row: Row, *, quick: bool) -> list[str]:
    return inside.command(Path(__file__).parent, "--measure", row.name, *(["--quick"] if quick else []))


if __name__ == "__main__":
    sys.exit(main())
