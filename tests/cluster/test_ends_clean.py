"""A cluster takes its processes, mounts and files with it; those of one that was killed the next run removes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab import cgroups, namespaces, records

if TYPE_CHECKING:
    from .conftest import Web

PROGRAM = """
import sys
from pointsman.lab.containers.cluster import ContainerCluster

with ContainerCluster(["alone"]) as cluster:
    cluster.wait_until(lambda: any(p["status"]["phase"] == "Running" for p in cluster.pods("kube-system")), "a Pod")
    print(cluster.plane.network.prefix, flush=True)
    sys.stdin.read()
"""


def groups_of(processes: set[int]) -> set[Path]:
    """Return the control groups that containerd made for the containers among processes."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has just ended
            names = {line.split(":", 2)[2] for line in Path(f"/proc/{process}/cgroup").read_text().splitlines()}
            found |= {name.lstrip("/") for name in names if name.startswith("/k8s.io/")}
    return {
        path for name in found for path in (Path("/sys/fs/cgroup", name), *Path("/sys/fs/cgroup").glob(f"*/{name}"))
    }


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_nothing_of_a_cluster_is_left(web: Web, killed: bool) -> None:  # noqa: FBT001 - a parameter
    """The session's own cluster goes on meanwhile."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        processes = cgroups.processes(cgroups.name_of(prefix))
        groups = groups_of(processes)
        assert (
            len(processes) >= 6
        )  # of the node: its mounts' holder, containerd, kubelet; of a Pod: shim, pause, container
        assert len(groups) >= 2
        if killed:
            os.kill(process.pid, signal.SIGKILL)
    if killed:
        assert prefix in records.sweep()
    assert [process for process in processes if namespaces.is_running(process)] == []
    assert [group for group in groups if group.exists()] == []
    assert namespaces.with_prefix(prefix) == []
    assert prefix not in Path("/proc/self/mountinfo").read_text()
    assert not records.data(prefix).exists()
    assert not (records.home() / prefix).exists()
    assert web.ground.cluster.nodes["node-1"].kubelet.running
