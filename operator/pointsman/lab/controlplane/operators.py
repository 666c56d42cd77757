"""Replicas of the operator, and the way of the API server to their webhook."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

from pointsman.api.names import WEBHOOK_SERVICE
from pointsman.lab.connections import fetch
from pointsman.lab.controlplane.api import ApiRefusedError
from pointsman.lab.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.controlplane.plane import ControlPlane
    from pointsman.lab.network import Host

NAMESPACE: Final = "pointsman-system"

_WEBHOOK_PORT: Final = 9443
_HEALTHZ_PORT: Final = 8080
_FIRST_ADDRESS: Final = 21
_PATIENCE: Final = 30.0


class Operator:
    """One replica: a process on a host of its own, which can be killed and started again."""

    def __init__(self, host: Host, kubeconfig: Path, log: Path) -> None:
        options = {
            "--kubeconfig": str(kubeconfig),
            "--identity": host.name,
            "--namespace": NAMESPACE,
            "--webhook-address": f"0.0.0.0:{_WEBHOOK_PORT}",
            "--webhook-host": f"{WEBHOOK_SERVICE}.{NAMESPACE}.svc",
            "--healthz-address": f"0.0.0.0:{_HEALTHZ_PORT}",
        }
        command = [sys.executable, "-m", "pointsman", "operator", *(word for pair in options.items() for word in pair)]
        self.host = host
        self.daemon = Daemon(host.name, host.namespace, command, log)

    def start(self) -> None:
        """Start it; see `wait_until_ready`."""
        self.daemon.start()

    def kill(self) -> None:
        """End it with SIGKILL: it has no chance to give up its Lease."""
        self.daemon.kill()

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.daemon.stop()

    def is_healthy(self) -> bool:
        """Tell whether its health page says 200."""
        with contextlib.suppress(OSError):
            return fetch(self.host, "127.0.0.1", _HEALTHZ_PORT, "/healthz", timeout=2)[0] == 200  # noqa: PLR2004 - HTTP: OK
        return False

    def wait_until_ready(self) -> None:
        """Wait until it is healthy.

        Raises:
            LabError: it ended, or it is not healthy in time; the message holds the end of its log.
        """
        self.daemon.wait_until(self.is_healthy, "is not healthy", patience=_PATIENCE)


class Operators:
    """All replicas; those that run are behind the webhook's Service.

    Attributes:
        replicas: in the order of their names.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.replicas: list[Operator] = []
        self._plane = plane

    def start(self, count: int = 1) -> None:
        """Start replicas beside those that there are, wait until they are healthy, and let them be asked."""
        kubeconfig = self._plane.service_account(NAMESPACE, "pointsman-operator")
        new = [self._declare(len(self.replicas) + number, kubeconfig) for number in range(1, count + 1)]
        self._plane.network.build()
        self.replicas += new
        for operator in new:
            operator.start()
        for operator in new:
            operator.wait_until_ready()
        self.publish()

    def publish(self) -> None:
        """Write which replicas the webhook's Service leads to: those that run, as their readiness would say."""
        running = [operator.host.address() for operator in self.replicas if operator.daemon.running]
        self._plane.apply([service(), endpoint_slice(running)])

    def wait_for_webhook(self) -> None:
        """Wait until the API server has an answer of the webhook."""
        self.replicas[0].daemon.wait_until(
            self._refuses, "does not answer the API server's questions (its webhook)", patience=_PATIENCE
        )

    def close(self) -> None:
        """End all replicas."""
        for operator in self.replicas:
            operator.kill()

    def _declare(self, number: int, kubeconfig: Path) -> Operator:
        host = self._plane.network.client(f"operator-{number}", f"172.16.0.{_FIRST_ADDRESS + number - 1}")
        return Operator(host, kubeconfig, self._plane.files / "logs" / f"{host.name}.log")

    def _refuses(self) -> bool:
        """Ask for what the webhook alone refuses."""
        spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 1}]}
        question: Document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "try"}, "spec": spec}
        try:
            self._plane.api.create("/api/v1/namespaces/default/services?dryRun=All", question)
        except ApiRefusedError as error:
            return "valid range" in str(error)
        return False


def service() -> Document:
    """Describe the webhook's Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": WEBHOOK_SERVICE, "namespace": NAMESPACE},
        "spec": {"ports": [{"port": 443, "targetPort": _WEBHOOK_PORT, "protocol": "TCP"}]},
    }


def endpoint_slice(addresses: Sequence[str]) -> Document:
    """Describe which replicas answer for the webhook's Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{WEBHOOK_SERVICE}-lab",
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": WEBHOOK_SERVICE,
                "endpointslice.kubernetes.io/managed-by": "pointsman-lab",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": _WEBHOOK_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }
