"""What Pointsman's programs may do, looked up in the kernel and at the API server."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator  # noqa: TC003 (pytest reads the annotations of fixtures)
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab.controlplane.commands import ADDRESS, API_PORT

if TYPE_CHECKING:
    from pointsman.lab.controlplane.plane import ControlPlane

    from .conftest import Ground, Web

SYSTEM = "pointsman-system"
NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
NET_ADMIN = 1 << 12  # linux/capability.h


def processes(ground: Ground, component: str) -> Iterator[Path]:
    """Yield the /proc directories of a component's containers."""
    pods = ground.cluster.pods(SYSTEM, f"app.kubernetes.io/component={component}")
    assert len(pods) == 2
    for pod in pods:
        node = ground.cluster.nodes[pod["spec"]["nodeName"]]
        yield Path(f"/proc/{node.process(pod['metadata']['uid'], component)}")


def status(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(("component", "capabilities", "user"), [("agent", NET_ADMIN, "0"), ("operator", 0, "65532")])
def test_programs_have_the_capabilities_that_they_need_alone(
    ground: Ground, component: str, capabilities: int, user: str
) -> None:
    for process in processes(ground, component):
        found = status(process)
        assert found["Uid"].split() == [user] * 4
        assert int(found["CapEff"], 16) == capabilities
        assert int(found["CapBnd"], 16) == capabilities
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2"  # a filter is in force


@pytest.mark.parametrize("component", ["agent", "operator"])
def test_their_file_system_is_read_only(ground: Ground, component: str) -> None:
    for process in processes(ground, component):
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        options = {fields[4]: fields[5].split(",") for fields in mounts}
        assert "ro" in options["/"]
        assert "ro" in options["/proc/sys"]


def test_the_image_is_small_of_programs_and_nobodys(web: Web) -> None:
    """Pods that say nothing of a user run as the image's; nothing in it can build or install."""
    pod = web.pods[0]
    node = web.ground.cluster.nodes[pod["spec"]["nodeName"]]
    process = Path(f"/proc/{node.process(pod['metadata']['uid'], 'server')}")
    assert status(process)["Uid"].split() == ["65532"] * 4
    places = [process / "root" / place for place in ("usr/bin", "opt/pointsman/bin")]
    programs = {path.name for place in places for path in place.iterdir()}
    assert {"python3", "pointsman"} <= programs
    assert not programs & {"cc", "gcc", "c++", "make", "pip", "pip3", "curl", "wget", "git"}


def test_agents_set_sysctls_of_the_node(ground: Ground) -> None:
    """They are not privileged, and /proc/sys is read-only for them: the chart mounts the part that they need."""
    cluster = ground.cluster
    name = "net/netfilter/nf_conntrack_udp_timeout"

    def value(node: str) -> str:
        with cluster.nodes[node].host.namespace.entered():
            return Path("/proc/sys", name).read_text().strip()

    patch = {"spec": {"conntrack": {"udpTimeout": "77s"}}}
    cluster.plane.kubectl("patch", "pxc", "default", "--type=merge", "-p", json.dumps(patch))
    try:
        for node in cluster.nodes:
            cluster.wait_until(lambda node=node: value(node) == "77", f"{name} on {node}")
    finally:
        patch = {"spec": {"conntrack": None}}
        cluster.plane.kubectl("patch", "pxc", "default", "--type=merge", "-p", json.dumps(patch))


def test_an_agents_token_is_good_for_its_own_node_alone(ground: Ground) -> None:
    """What RBAC cannot say: a ValidatingAdmissionPolicy of the chart does."""
    plane = ground.cluster.plane
    token = next(processes(ground, "agent")) / "root/run/secrets/kubernetes.io/serviceaccount/token"
    own = json.loads(base64.urlsafe_b64decode(token.read_text().split(".")[1] + "=="))["kubernetes.io"]["node"]["name"]
    (other,) = set(ground.cluster.nodes) - {own}
    body = {"status": {"endpoints": 1}}
    assert patch(plane, token.read_text(), f"{NODE_PROXIES}/{own}/status", body)[0] == 200
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
    for path in (f"{NODE_PROXIES}/{other}/status", f"{leases}/pointsman-agent-{other}", f"{leases}/pointsman-operator"):
        status_code, said = patch(plane, token.read_text(), path, body)
        assert status_code == 403
        assert f"the agent of node {own} may write" in said


def patch(plane: ControlPlane, token: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Send a merge patch with a token; returns HTTP's status and what the API server says."""
    context = ssl.create_default_context(cadata=plane.authority.certificate.decode())
    connection = http.client.HTTPSConnection(ADDRESS, API_PORT, context=context)
    with plane.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        plain.connect((ADDRESS, API_PORT))
        with context.wrap_socket(plain, server_hostname=ADDRESS) as connection.sock:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
            connection.request("PATCH", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, str(json.loads(answer.read()).get("message", ""))
