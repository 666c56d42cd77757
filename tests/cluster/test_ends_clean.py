"""A cluster whose process was killed leaves processes, mounts and files behind: the next run removes them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman.lab import cgroups, namespaces, records

if TYPE_CHECKING:
    from .conftest import Web

PROGRAM = """
import signal
from pointsman.lab.containers.cluster import ContainerCluster

with ContainerCluster(["alone"]) as cluster:
    cluster.wait_until(lambda: any(p["status"]["phase"] == "Running" for p in cluster.pods("kube-system")), "a Pod")
    print(cluster.plane.network.prefix, flush=True)
    signal.pause()
"""


def groups_of(processes: set[int]) -> set[Path]:
    """Return the control groups that containerd made for the containers among processes."""
    found = set()
    for process in processes:
        names = {line.split(":", 2)[2] for line in Path(f"/proc/{process}/cgroup").read_text().splitlines()}
        found |= {name.lstrip("/") for name in names if name.startswith("/k8s.io/")}
    return {
        path for name in found for path in (Path("/sys/fs/cgroup", name), *Path("/sys/fs/cgroup").glob(f"*/{name}"))
    }


def test_what_a_killed_run_left_is_removed(web: Web) -> None:
    """The session's own cluster goes on meanwhile."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        processes = cgroups.processes(cgroups.name_of(prefix))
        groups = groups_of(processes)
        assert (
            len(processes) >= 6
        )  # of the node: its mounts' holder, containerd, kubelet; of a Pod: shim, pause, container
        assert len(groups) >= 2
        os.kill(process.pid, signal.SIGKILL)
    assert prefix in records.sweep()
    assert [process for process in processes if namespaces.is_running(process)] == []
    assert [group for group in groups if group.exists()] == []
    assert namespaces.with_prefix(prefix) == []
    assert prefix not in Path("/proc/self/mountinfo").read_text()
    assert not records.data(prefix).exists()
    assert not (records.home() / prefix).exists()
    assert web.ground.cluster.nodes["node-1"].kubelet.running
