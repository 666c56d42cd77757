"""Measure Pointsman's agent beside kube-proxy: ``make bench-cluster``, or ``python tests/benchmarks/bench_cluster.py``.

Both run against the same real control plane, with the same Services, on nodes that are alike, in turns. Every figure is
of real connections from a pod of the node. The control plane shares the machine's cores with what is measured.
"""

from __future__ import annotations

import argparse
import functools
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import inside
from objects import Size
from rich.console import Console
from side_by_side import measure, table
from side_by_side.proxies import kube_proxy_program

from pointsman.lab.components.build import provide
from pointsman.lab.controlplane.plane import PROGRAMS
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENDPOINTS = 2
_SIZES = (1_000, 5_000, 10_000)
_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Measure what the command line asks for."""
    options = _options(arguments)
    inside.find_system_programs()
    if not options.inside:
        return _start_inside(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        _measure(options, Console())
    except LabError as error:
        sys.stderr.write(f"bench-cluster: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("bench-cluster: interrupted; everything is removed\n")
        return _INTERRUPTED
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks/bench_cluster.py",
        description="Measure Pointsman's agent beside kube-proxy, against the same control plane, in turns.",
    )
    add = parser.add_argument
    add("sizes", nargs="*", type=int, metavar="SERVICES", default=_SIZES, help="sizes of the cluster (%(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="starts of each proxy at each size (%(default)s)")
    add("--changes", type=int, default=10, metavar="N", help="changes after each start (%(default)s)")
    add("--mode", choices=["nftables", "iptables"], default="nftables", help="of both (%(default)s)")
    add("--kube-proxy-mode", choices=["nftables", "iptables"], help="of kube-proxy, if it is to be another one")
    add("--output", type=Path, default=Path("bench-cluster-results.json"), metavar="FILE", help="(%(default)s)")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _start_inside(arguments: Sequence[str]) -> int:
    """Build what is missing, which needs the way to the outside, and start again in namespaces of one's own."""
    try:
        provide(PROGRAMS, functools.partial(print, file=sys.stderr, flush=True))
        kube_proxy_program()
        inside.compile_pointsman()
    except LabError as error:
        sys.stderr.write(f"bench-cluster: {error}\n")
        return 1
    return subprocess.run([*inside.command(Path(__file__)), *arguments, "--inside"], check=False).returncode


def _measure(options: argparse.Namespace, console: Console) -> None:
    begun = time.monotonic()

    def say(words: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        console.print(f"{minutes:2}:{seconds:02}  {words}", highlight=False, markup=False, soft_wrap=True)

    plan = measure.Plan(options.repeats, options.changes, options.mode, options.kube_proxy_mode or options.mode)
    found: table.Found = {}
    for services in options.sizes:
        size = Size(services, _ENDPOINTS)
        found[size] = measure.measure(size, plan, say)
        table.write(options.output, found, plan)
    console.print(table.table(found))
    if words := table.disturbed(found):
        console.print(words, style="yellow", highlight=False)
    console.print(f"Everything that was measured is in {options.output}.", highlight=False)


def _leave(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
