"""The lab's control plane itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.lab.controlplane.plane import KubectlError

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
