"""The two programs: how each is started on a node, with its defaults and an account of its own."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import pointsman
from pointsman.api import crds, permissions
from pointsman.lab.components.build import provide
from pointsman.lab.components.catalogue import COMPONENTS
from pointsman.lab.controlplane import commands
from pointsman.lab.controlplane.api import ApiRefusedError
from pointsman.lab.controlplane.cluster import proxy_config
from pointsman.lab.controlplane.operators import NAMESPACE, Operators
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.api.names import Mode
    from pointsman.lab.controlplane.plane import ControlPlane

KUBE_PROXY: Final = "kube-proxy"
POINTSMAN: Final = "Pointsman"

_PATIENCE: Final = 30.0
_NODE_PROXIES: Final = "/apis/pointsman.dev/v1alpha1/nodeproxies"


class Proxy(NamedTuple):
    """A program that is measured.

    Attributes:
        name: how the table calls it.
        version: what is measured.
        command: its command line.
        mode: the dataplane.
    """

    name: str
    version: str
    command: tuple[str, ...]
    mode: Mode = "nftables"


def kube_proxy(plane: ControlPlane, node: str, mode: Mode) -> Proxy:
    """Prepare kube-proxy for a node: Kubernetes' own roles, and its defaults.

    Args:
        plane: the control plane.
        node: name of the node.
        mode: ``nftables`` or ``iptables``.
    """
    command = commands.kube_proxy(kube_proxy_program(), plane.user("system:kube-proxy"), node, mode=mode)
    return Proxy(KUBE_PROXY, f"{COMPONENTS['kube-proxy'].version} {mode}", tuple(command), mode)


def kube_proxy_program() -> Path:
    """Return kube-proxy, which is built when it is not there; the build's progress goes to standard error."""
    return provide(("kube-proxy",), lambda words: print(words, file=sys.stderr, flush=True))["kube-proxy"]  # noqa: T201


def agent(plane: ControlPlane, node: str, mode: Mode) -> Proxy:
    """Prepare Pointsman's agent for a node, as in a cluster: its own role, and a NodeProxy that an operator wrote.

    The operator is gone before anything is measured: it would take the cores.
    """
    plane.apply([*crds.documents(), *permissions.manifests(NAMESPACE)])
    plane.wait_for_definitions()
    plane.apply([proxy_config("default", {"mode": mode})])
    with contextlib.closing(Operators(plane)) as operators:
        operators.start()
        _wait_for_node_proxy(plane, node)
    kubeconfig = plane.service_account(NAMESPACE, "pointsman-agent")
    command = (sys.executable, "-m", "pointsman", "agent", "--kubeconfig", str(kubeconfig), "--node-name", node)
    return Proxy(POINTSMAN, f"{pointsman.__version__} {mode}", command, mode)


def _wait_for_node_proxy(plane: ControlPlane, node: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(ApiRefusedError):
            plane.api.get(f"{_NODE_PROXIES}/{node}")
            return
        time.sleep(0.1)
    raise LabError(f"the operator made no NodeProxy for {node} within {_PATIENCE:g} s")
