"""Where it is measured: all endpoints in one namespace, and a fresh node with a pod for each start of a proxy."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.controlplane import documents
from pointsman.lab.daemon import Daemon
from pointsman.lab.network import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.plane import ControlPlane
    from side_by_side.proxies import Proxy

NODE: Final = "node-0"
ENDPOINT_PORT: Final = 8080

_NODE_ADDRESS: Final = "172.16.1.1"
_POD: Final = "192.168.0.1"
_POD_CIDR: Final = "192.168.0.0/24"
_ENDPOINTS: Final = "10.128.0.0/9"
"""`objects.pod_ip`."""
_ENDPOINTS_HOST: Final = "172.16.2.1"
_CREATED: Final = "2026-01-01T00:00:00Z"

_SERVER: Final = f"""
import socket
listener = socket.create_server(("", {ENDPOINT_PORT}), backlog=4096)
while True:
    connection, _ = listener.accept()
    try:
        connection.send(socket.inet_aton(connection.getsockname()[0]))
    except OSError:
        pass
    connection.close()
"""
"""Says at which of its addresses it was reached."""


class Started(msgspec.Struct):
    """A proxy on a fresh node.

    Attributes:
        daemon: its process.
        client: a pod on the node.
        begun: when it was started, by `time.perf_counter`.
    """

    daemon: Daemon
    client: Host
    begun: float


class Ground:
    """The network around a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._runs = 0
        endpoints = plane.network.client("endpoints", _ENDPOINTS_HOST)
        plane.network.build()
        endpoints.namespace.run("ip", "route", "add", "local", _ENDPOINTS, "dev", "lo")
        plane.network.route(_ENDPOINTS, via=endpoints)
        endpoints.namespace.start([sys.executable, "-c", _SERVER])  # ends with the network
        plane.api.create("/api/v1/nodes", documents.node(NODE, [_NODE_ADDRESS], [_POD_CIDR], _CREATED))

    @contextlib.contextmanager
    def started(self, proxy: Proxy) -> Iterator[Started]:
        """Start a proxy on a node that has just been made; both are gone afterwards."""
        network = self._plane.network
        node = network.node(NODE, _NODE_ADDRESS)
        client = network.pod("client", _POD, node=node)
        network.build()
        self._runs += 1
        log = self._plane.files / "logs" / f"{self._runs}-{proxy.name}.log"
        daemon = Daemon(proxy.name, node.namespace, proxy.command, log)
        try:
            begun = time.perf_counter()
            daemon.start()
            yield Started(daemon, client, begun)
        finally:
            daemon.stop()
            network.remove(client)
            network.remove(node)
