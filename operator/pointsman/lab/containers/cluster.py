"""A real Kubernetes: the lab's control plane, a scheduler, nodes with containerd and kubelet, CoreDNS.

There is no Service proxy in it: to install one is what it is there for.
"""

from __future__ import annotations

import contextlib
import ipaddress
from functools import partial
from typing import TYPE_CHECKING, Final

from pointsman.lab import cgroups, records
from pointsman.lab.components.build import provide
from pointsman.lab.containers import machine, manifests
from pointsman.lab.containers.images import Images
from pointsman.lab.containers.node import Identity, Node, start_all
from pointsman.lab.containers.runtime import NodeFiles
from pointsman.lab.controlplane import commands, documents
from pointsman.lab.controlplane.plane import PROGRAMS as PLANE_PROGRAMS
from pointsman.lab.controlplane.plane import ControlPlane
from pointsman.lab.controlplane.pods import now
from pointsman.lab.daemon import Daemon
from pointsman.lab.layout import CLIENT_ADDRESSES
from pointsman.lab.network import Host
from pointsman.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from pointsman.lab.containers.images import Image
    from pointsman.lab.controlplane.api import Document

PROGRAMS: Final = (*PLANE_PROGRAMS, "kube-scheduler", "kubelet", "agnhost", "coredns")
POD_CIDR: Final = "192.168.0.0/16"
SETTINGS: Final = commands.Settings(controllers=("*",), audit=True)

_NODE_NETWORK: Final = ipaddress.ip_network("172.16.0.0/24")
_FIRST_NODE: Final = 5
_PATIENCE: Final = 90.0
_PAUSE: Final = 0.05


class ContainerCluster:
    """A Kubernetes cluster on this machine; a context manager that ends what it started.

    Attributes:
        plane: its control plane.
        images: builds more images.
        nodes: by name.
        outside: a client outside of the cluster.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        settings: commands.Settings = SETTINGS,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Build what is missing, make network and files; nothing runs yet.

        Args:
            names: of the nodes.
            settings: of the control plane.
            say: is told the progress.

        Raises:
            LabError: the machine lacks something, or a build failed.
        """
        machine.check()
        self._say = say
        programs = provide(PROGRAMS, say)
        self.images = Images(programs, say)
        self._shared = self.images.of_nodes()
        self.plane = ControlPlane(settings, say=say)
        self.nodes: dict[str, Node] = {}
        self.scheduler = Daemon(
            "kube-scheduler",
            self.plane.namespace,
            commands.kube_scheduler(programs["kube-scheduler"], self.plane.files),
            self.plane.files / "logs/kube-scheduler.log",
        )
        try:
            network = self.plane.network
            self.outside = network.client("outside", CLIENT_ADDRESSES[0])
            self.plane.user("system:kube-scheduler").rename(self.plane.files / "scheduler.kubeconfig")
            hosts = [network.node(name, str(_NODE_NETWORK[_FIRST_NODE + n])) for n, name in enumerate(names)]
            network.build()
            for number, host in enumerate(hosts):
                self._declare(host, f"192.168.{number}.0/24", programs)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def dns(self) -> str:
        """Address of the name server's Service."""
        return str(ipaddress.ip_network(self.plane.settings.service_cidr)[10])

    def start(self) -> None:
        """Start everything, and wait until the nodes are ready.

        Raises:
            LabError: a program ended, or is not ready in time; the message holds the end of its log.
        """
        self._say("starting etcd, API server, controllers and scheduler")
        self.plane.start()
        self.scheduler.start()
        for node in self.nodes.values():
            self.plane.api.create("/api/v1/nodes", _node(node))
        self._say(f"starting the nodes {', '.join(self.nodes)}, each with containerd and kubelet")
        start_all(self.nodes.values(), self._shared)
        self.plane.apply(manifests.name_server(self.dns))
        for node in self.nodes.values():
            node.kubelet.wait_until(partial(self._is_ready, node), "is not ready", patience=_PATIENCE)

    def close(self) -> None:
        """End everything and remove every trace."""
        with contextlib.ExitStack() as stack:  # the rest ends, too, when the end of a node fails
            stack.callback(self.plane.close)
            stack.callback(cgroups.sweep, cgroups.name_of(self.plane.network.prefix))
            stack.callback(self.scheduler.kill)
            for node in self.nodes.values():
                stack.callback(node.close)

    def bring(self, image: Image) -> None:
        """Let all nodes have an image."""
        for node in self.nodes.values():
            node.bring(image)

    def pods(self, namespace: str, selector: str = "") -> list[Document]:
        """List Pods, those that are being deleted left out."""
        found = self.plane.api.get(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod_host(self, pod: Document) -> Host:
        """Return a Pod that runs as a host to send packets from."""
        node = self.nodes[pod["spec"]["nodeName"]]
        addresses = tuple(entry["ip"] for entry in pod["status"]["podIPs"])
        return Host(pod["metadata"]["name"], "pod", node.pod(pod["metadata"]["uid"]), addresses, node.host, 0)

    def wait_until(
        self, done: Callable[[], bool], what: str | Callable[[], str], *, patience: float = _PATIENCE
    ) -> float:
        """Wait until something is so; see `pointsman.lab.waiting`."""
        return wait_until(done, what, patience=patience, pause=_PAUSE)

    def _declare(self, host: Host, pod_cidr: str, programs: dict[str, Path]) -> None:
        plane = self.plane
        plane.network.route(pod_cidr, via=host)
        state = plane.files / "nodes" / host.name
        state.mkdir(parents=True)
        kubeconfig = plane.user(f"system:node:{host.name}", "system:nodes")
        identity = Identity(kubeconfig, plane.files / "pki/ca.crt", self.dns)
        files = NodeFiles(state, records.data(plane.network.prefix) / host.name)
        self.nodes[host.name] = Node(host, pod_cidr, files, identity, kubelet=programs["kubelet"])

    def _is_ready(self, node: Node) -> bool:
        found = self.plane.api.get(f"/api/v1/nodes/{node.host.name}")
        conditions = found.get("status", {}).get("conditions", ())
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _node(node: Node) -> Document:
    """Describe a node before its kubelet is there: its Pods' network is for somebody else to say."""
    document = documents.node(node.host.name, node.host.addresses, (node.pod_cidr,), now())
    return {key: value for key, value in document.items() if key != "status"}
