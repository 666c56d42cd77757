"""The guided tour over a real API server: a cluster is brought up, and the founding example is replayed on it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from pointsman.lab.controlplane.cluster import LiveCluster
from pointsman.lab.controlplane.example import Example
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.step_log import StepLog
from pointsman.lab.steps import Found, count

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.lab.steps import Result, Watcher

NODES: Final = ("master", "node01", "node02")


def run_cluster_tour(watcher: Watcher, *, leave_up: Callable[[LiveCluster], None] | None = None) -> Result:
    """Bring up a cluster, show what it does, and remove it.

    Args:
        watcher: is told of each step.
        leave_up: when given, the cluster is left up at the end, and this is told of it.

    Raises:
        LabError: the programs cannot be built, or the lab itself does not work here.
    """
    log = StepLog(watcher)
    with contextlib.closing(ControlPlane()) as plane:
        if log.take("Control plane", "etcd, kube-apiserver and kube-controller-manager", lambda: _started(plane)):
            with LiveCluster(plane) as cluster:
                _tour(cluster, log)
                if leave_up is not None:
                    if log.result().good:
                        Example(cluster).restore()
                    cluster.keep()
                    leave_up(cluster)
    return log.result()


def _tour(cluster: LiveCluster, log: StepLog) -> None:
    if not log.take("Operator", "custom resources, permissions, `pointsman operator`", lambda: _operated(cluster)):
        return
    if not log.take("Nodes", "`pointsman agent` on every node, until /healthz says 200", lambda: _joined(cluster)):
        return
    for title, does, act in Example(cluster).steps():
        log.take(title, does, act)


def _started(plane: ControlPlane) -> Found:
    plane.start()
    versions = plane.kubectl("version").splitlines()
    return Found(good=True, says="ready", notes=(versions[-1],))


def _operated(cluster: LiveCluster) -> Found:
    cluster.install()
    cluster.operators.start()
    cluster.operators.wait_for_webhook()
    return Found(good=True, says="the operator leads, and the API server asks its webhook")


def _joined(cluster: LiveCluster) -> Found:
    nodes = cluster.add_nodes(NODES)
    notes = ", ".join(f"{node.host.name} {node.host.address()} with Pods in {node.pod_cidr}" for node in nodes)
    return Found(good=True, says=f"{count(len(nodes), 'agent')} ready", notes=(notes,))
