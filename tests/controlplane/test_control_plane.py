"""The lab's control plane itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pointsman.lab import namespaces, records
from pointsman.lab.controlplane.plane import KubectlError
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pointsman.lab.controlplane.plane import ControlPlane


def test_it_is_the_version_that_is_asked_for(control_plane: ControlPlane) -> None:
    assert "Server Version: v1.37.2" in control_plane.kubectl("version")


def test_rights_are_checked(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.service_account("default", "default")
    with pytest.raises(KubectlError, match='User "system:serviceaccount:default:default" cannot list resource'):
        control_plane.kubectl("--kubeconfig", str(kubeconfig), "get", "services")


def test_what_was_compacted_is_gone(control_plane: ControlPlane) -> None:
    path = "/api/v1/namespaces"
    old = control_plane.api.get(path)["metadata"]["resourceVersion"]
    control_plane.api.create(path, {"metadata": {"name": "compacted"}})
    control_plane.api.delete(f"{path}/compacted")
    control_plane.kill_api_server()
    assert control_plane.compact() > int(old)
    control_plane.start_api_server()
    (event,) = control_plane.api.watch(path, {"resourceVersion": old}, timeout=5)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


START = """
import sys, time
from pointsman.lab.controlplane.plane import ControlPlane
with ControlPlane() as plane:
    print(plane.network.prefix, *(daemon.pid for daemon in plane.daemons()), flush=True)
    time.sleep(300)
"""


def test_the_next_run_ends_what_a_killed_one_left(ground: None) -> None:  # noqa: ARG001 - asked for first
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        prefix, *pids = run.stdout.readline().split()
        run.kill()
    left = [records.process(int(pid)) for pid in pids]
    assert len(left) == 3
    assert prefix in records.sweep()
    for process in left:
        with pytest.raises(OSError, match=r"No such (file|process)|has ended"):
            records.process(process.pid)
    assert namespaces.with_prefix(prefix) == []
    assert not (records.home() / prefix).exists()


def test_a_component_that_ends_is_told_with_its_log(control_plane: ControlPlane) -> None:
    daemon = control_plane.api_server
    command = list(daemon.command)
    control_plane.kill_api_server()
    daemon.command = [*command, "--service-node-port-range=nonsense"]
    with pytest.raises(LabError, match=r"(?s)kube-apiserver ended with status 1; its log .* ends with:.*nonsense"):
        control_plane.start_api_server()
    daemon.command = command
    control_plane.start_api_server()
