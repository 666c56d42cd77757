"""``make conformance``: Kubernetes' own tests of Services, with Pointsman and with kube-proxy as the only proxy."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pointsman
from conformance import suite, table
from pointsman.lab import records
from pointsman.lab.components.build import provide
from pointsman.lab.components.catalogue import KUBERNETES
from pointsman.lab.containers.cluster import POD_CIDR, SETTINGS, ContainerCluster
from pointsman.lab.containers.release import Release
from pointsman.lab.controlplane import commands
from pointsman.lab.daemon import Daemon
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLONE: Final = Path(__file__).parents[2]
PAGE: Final = CLONE / "docs/conformance.md"
LOGS: Final = CLONE / "build/conformance"
NODES: Final = ("node-1", "node-2")


def main(arguments: list[str]) -> int:
    """Run the tests; returns the exit status: 1 when Pointsman fails one that it has to pass."""
    options = _parser().parse_args(arguments)
    records.sweep()
    found = {proxy: list(_results(proxy, options.focus)) for proxy in options.proxy or INSTALLERS}
    today = dt.datetime.now(dt.UTC).date().isoformat()
    kernel = ".".join(platform.release().split(".")[:2])
    about = table.About(today, KUBERNETES.version, pointsman.__version__, kernel)
    if options.write:
        PAGE.write_text(table.page(about, found), "utf-8")
        _say(f"wrote {PAGE.relative_to(CLONE)}")
    for line in table.summary(found):
        _say(line)
    lost = table.regressions(found)
    for name in lost:
        _say(f"- Pointsman has to pass: {name}")
    return 1 if lost else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument(
        "--proxy",
        action="append",
        choices=list(INSTALLERS),
        help="with which proxy (default: with both)",
    )
    parser.add_argument("--focus", default=suite.FOCUS, help="regular expression of the names of tests")
    parser.add_argument("--write", action="store_true", help=f"write the results into {PAGE.relative_to(CLONE)}")
    return parser


def _results(proxy: str, focus: str) -> Iterator[suite.Result]:
    program = provide(("e2e.test",), _say)["e2e.test"]
    settings = commands.Settings(node_port_range=commands.OWN_RANGE, controllers=SETTINGS.controllers)
    with ContainerCluster(NODES, settings=settings, say=_say) as cluster, INSTALLERS[proxy](cluster):
        _say(f"{proxy} is the Service proxy of {', '.join(NODES)}")
        for result in suite.run(cluster, program, focus=focus):
            _say(f"{'passed' if result.passed else 'FAILED'} after {result.seconds:5.1f} s: {result.name}")
            yield result
        log = cluster.plane.files / "logs/e2e.log"
        LOGS.mkdir(parents=True, exist_ok=True)
        kept = LOGS / f"{proxy}.log"
        kept.write_bytes(log.read_bytes())
        _say(f"what the tests said is in {kept.relative_to(CLONE)}")


@contextlib.contextmanager
def _pointsman(cluster: ContainerCluster) -> Iterator[None]:
    Release(cluster, CLONE, say=_say).install()
    yield


@contextlib.contextmanager
def _kube_proxy(cluster: ContainerCluster) -> Iterator[None]:
    plane = cluster.plane
    program = provide(("kube-proxy",), _say)["kube-proxy"]
    kubeconfig = plane.user("system:kube-proxy")
    daemons = []
    for name, node in cluster.nodes.items():
        command = commands.kube_proxy(program, kubeconfig, name, mode="nftables", pod_cidr=POD_CIDR)
        daemons.append(
            Daemon(f"kube-proxy of {name}", node.host.namespace, command, plane.files / f"logs/proxy-{name}.log")
        )
        daemons[-1].start()
    try:
        yield
    finally:
        for daemon in daemons:
            daemon.kill()


INSTALLERS: Final[dict[str, Callable[[ContainerCluster], contextlib.AbstractContextManager[None]]]] = {
    "Pointsman": _pointsman,
    "kube-proxy": _kube_proxy,
}
_BEGUN: Final = time.monotonic()


def _say(words: str) -> None:
    minutes, seconds = divmod(round(time.monotonic() - _BEGUN), 60)
    sys.stdout.write(f"{minutes:3}:{seconds:02}  {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"make conformance: {error}")
