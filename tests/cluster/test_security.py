"""What Pointsman's programs may do, looked up in the kernel and at the API server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator  # noqa: TC003 (pytest reads the annotations of fixtures)
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.controlplane import kubeconfigs
from pointsman.lab.controlplane.plane import KubectlError

if TYPE_CHECKING:
    from .conftest import Ground

SYSTEM = "pointsman-system"
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
    kubeconfig = plane.files / "an-agent.kubeconfig"
    kubeconfig.write_text(kubeconfigs.with_token_file(plane.authority.certificate, token))
    command = (f"--kubeconfig={kubeconfig}", "--namespace=pointsman-system", "patch", "--type=merge", "-p")
    status_of = ("--subresource=status", "nodeproxy")
    assert "patched" in plane.kubectl(*command, '{"status": {"endpoints": 1}}', *status_of, own)
    for patch, *target in (
        ('{"status": {"endpoints": 1}}', *status_of, other),
        ('{"spec": {"holderIdentity": "me"}}', "lease", f"pointsman-agent-{other}"),
        ('{"spec": {"holderIdentity": "me"}}', "lease", "pointsman-operator"),
    ):
        with pytest.raises(KubectlError, match=rf"the agent of node {own} may write .* alone, not {target[-1]}"):
            plane.kubectl(*command, patch, *target)
