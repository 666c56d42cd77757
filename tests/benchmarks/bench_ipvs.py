"""Measure the mode `ipvs` beside ``ipvsadm --restore``: ``make bench-ipvs``.

On a machine whose kernel has no IPVS everything runs in a guest under software emulation, where ratios alone mean
anything: both sides of each are measured in turn, in the same guest. Every measurement is made in a network namespace
of its own. It takes root, and ``ipvsadm``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pointsman.dataplane.ipvs import IpvsDataplane, render
from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.local_routes import LocalRoutes
from pointsman.model.plan import Answer, Backend, Delta, Frontend, NodeSettings, Plan, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Numbers = dict[str, float]

_CLONE_NEWNET = 0x40000000
_CHANGES = 50
_WAY = """link set lo up
link add way0 type dummy
address add 192.0.2.1/24 dev way0
link set way0 up
route add default dev way0
"""
_SETTINGS = NodeSettings(pod_cidrs=("10.128.0.0/9",), service_cidrs=("10.96.0.0/12",))
_TARGETS = {"adopt / ipvsadm --restore": 1.5, "change, own CPU ms": 10.0}


def main() -> int:
    """Measure here, or in a guest."""
    options = _options()
    if not _has_ipvs():
        return _in_a_guest(options)
    console = Console(width=100)
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    results = {
        f"{services} x {endpoints}": _servers(services, endpoints, options.repeats) for services, endpoints in sizes
    }
    services = sizes[-1][0]
    results[f"{services} addresses"] = _addresses(services)
    console.print(_table(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/benchmarks/bench_ipvs.py", description="Measure the mode ipvs.")
    parser.add_argument("--sizes", default="1000x10,10000x10", metavar="SxE,...", help="(default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="gets everything that was measured, as JSON")
    return parser.parse_args()


def _has_ipvs() -> bool:
    try:
        IpvsSocket().close()
    except OSError:
        return False
    return True


def _in_a_guest(options: argparse.Namespace) -> int:
    from pointsman.lab.vm.__main__ import main as run_in_guest  # noqa: PLC0415 (only where there is no IPVS)

    command = [sys.executable, __file__, "--sizes", options.sizes, "--repeats", str(options.repeats)]
    if not options.output:
        return run_in_guest(["--", *command])
    results = ["--results", str(options.output.parent)]
    return run_in_guest([*results, "--", *command, "--output", f"/run/pointsman/{options.output.name}"])


def _servers(services: int, endpoints: int, repeats: int) -> Numbers:
    """Load a plan by us and by ipvsadm, in turn; then change it."""
    plan = _plan(services, endpoints)
    lines = render(plan).partition("ipvsadm --restore <<'END'\n")[2].partition("END\n")[0]
    ours, theirs = [], []
    for _ in range(repeats):
        with _namespace():
            theirs.append(_seconds(partial(_run, "ipvsadm", "--restore", stdin=lines)))
        with _namespace():
            dataplane = IpvsDataplane()
            ours.append(_seconds(partial(dataplane.adopt, plan)))
            numbers = _changes(dataplane, plan)
            dataplane.cleanup()
            dataplane.close()
    numbers["adopt s"] = statistics.median(ours)
    numbers["ipvsadm --restore s"] = statistics.median(theirs)
    numbers["adopt / ipvsadm --restore"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return numbers


def _changes(dataplane: IpvsDataplane, plan: Plan) -> Numbers:
    """Change one endpoint of one Service, many times; then compare everything with the kernel."""
    walls, own = [], []
    frontends = list(plan.answers)
    for number in range(_CHANGES):
        frontend = frontends[number * len(frontends) // _CHANGES]
        answer = plan.answers[frontend]
        first, *rest = answer.pool.backends
        backends = (Backend("10.255.255.254", first.port), *rest)
        delta = Delta({frontend: Answer(answer.service_port, answer.scheduler, Pool(backends), exclusive=True)})
        before = os.times()
        walls.append(_seconds(partial(dataplane.apply, delta)))
        own.append(os.times().user - before.user)
    return {
        "change, wall p50 ms": statistics.median(walls) * 1000,
        "change, own CPU ms": statistics.mean(own) * 1000,
        "nothing to do, adopt s": _seconds(partial(dataplane.adopt, plan)),
    }


def _addresses(count: int) -> Numbers:
    """Make cluster IPs local: an address each on a dummy device, as kube-proxy does, or one route."""
    batch = "".join(f"address add 10.96.{number >> 8}.{number & 255}/32 dev d0\n" for number in range(count))
    with _namespace():
        _run("ip", "link", "add", "d0", "type", "dummy")
        dummy = _seconds(partial(_run, "ip", "-batch", "-", stdin=batch))
        dummy_listing = _seconds(partial(_run, "ip", "-o", "address"))
        dummy_octets = len(_run("ip", "-o", "address"))
    with _namespace():
        routes = LocalRoutes()
        route = _seconds(partial(routes.change, 4, ["10.96.0.0/12"], [], None))
        routes.close()
        listing = _seconds(partial(_run, "ip", "-o", "address"))
        octets = len(_run("ip", "-o", "address"))
    return {
        "on a dummy device s": dummy,
        "ip address, dummy s": dummy_listing,
        "ip address, dummy KiB": dummy_octets / 1024,
        "one route s": route,
        "ip address, route s": listing,
        "ip address, route KiB": octets / 1024,
    }


def _plan(services: int, endpoints: int) -> Plan:
    return Plan({_frontend(number): _answer(number, endpoints) for number in range(services)}, _SETTINGS)


def _frontend(number: int) -> Frontend:
    return Frontend(4, f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", "tcp", 80)


def _answer(number: int, endpoints: int) -> Answer:
    backends = (
        Backend(f"10.{128 + (place >> 16)}.{place >> 8 & 255}.{place & 255}", 8080)
        for place in range(number * endpoints, (number + 1) * endpoints)
    )
    return Answer(f"bench/service-{number}", "rr", Pool(tuple(backends)), masquerade="off-cluster", exclusive=True)


@contextmanager
def _namespace() -> Iterator[None]:
    """Put this process into a network namespace of its own, with a way to everywhere; it is gone afterwards.

    IPVS takes only real servers to which there is a way.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace can be made; run this as root")
        try:
            _run("ip", "-batch", "-", stdin=_WAY)
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


def _run(*command: str, stdin: str = "") -> str:
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _table(results: dict[str, Numbers]) -> Table:
    made = Table(title="the mode ipvs", title_justify="left", header_style="bold")
    made.add_column("size")
    made.add_column("what")
    made.add_column("measured", justify="right")
    made.add_column("target", justify="right")
    for size, numbers in results.items():
        for number, (name, value) in enumerate(sorted(numbers.items())):
            target = f"≤ {_TARGETS[name]:g}" if name in _TARGETS else ""
            made.add_row("" if number else size, name, f"{value:,.3f}", target)
        made.add_section()
    return made


if __name__ == "__main__":
    sys.exit(main())
