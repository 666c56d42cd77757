"""A cluster whose process was killed leaves processes, mounts and files behind: the next run removes them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman.lab import namespaces, records
from pointsman.lab.namespaces import Namespace

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


def of_pods() -> set[int]:
    """Find processes of containers: their control groups are named by containerd."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if "/k8s.io/" in entry.read_text():
                found.add(int(entry.parent.name))
        except OSError:
            continue
    return found


def groups() -> set[Path]:
    return {path for top in ("k8s.io", "pointsman-lab") for path in Path("/sys/fs/cgroup").glob(f"*/{top}/*")}


def test_what_a_killed_run_left_is_removed(web: Web) -> None:
    """The session's own cluster goes on meanwhile."""
    pods_before, groups_before = of_pods(), groups()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        node = Namespace(f"{prefix}alone")
        inodes = {node.inode()}
        assert len(node.processes()) >= 3  # containerd, kubelet, a shim
        assert of_pods() > pods_before
        assert records.data(prefix).exists()
        os.kill(process.pid, signal.SIGKILL)
    assert records.sweep() == [prefix]
    assert namespaces.processes_in(inodes) == ()
    assert namespaces.with_prefix(prefix) == []
    assert of_pods() - pods_before == set()
    assert groups() - groups_before == set()
    assert prefix not in Path("/proc/self/mountinfo").read_text()
    assert not records.data(prefix).exists()
    assert not (records.home() / prefix).exists()
    assert web.ground.cluster.nodes["node-1"].kubelet.running
