"""Kubernetes' own end-to-end tests of Services, run against a cluster; what comes of each, as it comes."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pointsman.lab.containers.cluster import ContainerCluster

FOCUS: Final = r"\[sig-network\] Services"
SKIP: Final = r"\[Slow\]|\[Disruptive\]|\[Alpha\]|\[Feature:|LoadBalancer|evicted pods"
"""What takes very long, breaks nodes, is not there by default, or needs what is not here.

There is no cloud, and nodes that share a file system evict no Pod for the room that it takes.
"""

CONFORMANCE: Final = " [Conformance]"

_LAST_LINES: Final = 30

_NAME: Final = re.compile(r"^\[sig-network\] Services (?P<name>[^[].*?)( \[sig-network[^]]*\])?$")
"""Ginkgo's line before a test, which repeats the labels at its end."""

_RAN: Final = re.compile(r"^Ran (?P<count>\d+) of \d+ Specs in ")
"""Ginkgo's line at the end of all: without it they have not come to their end."""

_ENDED: Final = re.compile(r"^• (?:\[(?P<verdict>\w+)\] )?\[(?P<seconds>[\d.]+) seconds\]$")
"""Ginkgo's line after a test that was not skipped."""


class Result(NamedTuple):
    """What came of one test.

    Attributes:
        name: without its area and labels: ``should serve a basic endpoint from pods [Conformance]``.
        passed: whether it did.
        seconds: how long it took.
    """

    name: str
    passed: bool
    seconds: float


def run(cluster: ContainerCluster, program: Path, *, focus: str = FOCUS) -> Iterator[Result]:
    """Run the tests one after another.

    Args:
        cluster: with a Service proxy.
        program: the compiled tests.
        focus: regular expression of the names of those to run.

    Yields:
        Each result when it is there.

    Raises:
        LabError: nothing was run, or not all that there is; the message holds the end of the output.
    """
    plane = cluster.plane
    log = plane.files / "logs/e2e.log"
    chosen = (f"--ginkgo.focus={focus}", f"--ginkgo.skip={SKIP}")
    access = (f"--kubeconfig={plane.kubeconfig}", f"--kubectl-path={plane.kubectl_command()[0]}")
    options = (*access, "--provider=skeleton", "--ginkgo.v", "--ginkgo.no-color")
    with plane.namespace.entered():
        process = subprocess.Popen(
            [str(program), *options, *chosen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=plane.files,
        )
    with process, log.open("w", encoding="utf-8") as kept:
        try:
            yield from results(_copied(process.stdout or (), kept))
        finally:
            process.terminate()
    check_complete(log.read_text("utf-8"))


def check_complete(output: str) -> None:
    """Check that tests were run, and that each that was begun has ended.

    Raises:
        LabError: it is not so; the message holds the end of the output.
    """
    lines = output.splitlines()
    counts = [int(found["count"]) for found in map(_RAN.match, lines) if found]
    if len(counts) != 1 or counts[0] != len(list(results(lines))) or not counts[0]:
        raise LabError("the tests did not come to their end; they say at last:\n" + "\n".join(lines[-_LAST_LINES:]))


def results(lines: Iterable[str]) -> Iterator[Result]:
    """Read results out of Ginkgo's output."""
    name = ""
    for line in lines:
        if found := _NAME.match(line.rstrip()):
            name = found["name"]
        elif (ended := _ENDED.match(line.rstrip())) and name:
            yield Result(name, ended["verdict"] is None, float(ended["seconds"]))
            name = ""


def _copied(lines: Iterable[str], file: TextIO) -> Iterator[str]:
    for line in lines:
        file.write(line)
        yield line
