"""A whole cluster: a control plane, nodes with agents, Pods that run, the operator."""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pointsman.api import crds, permissions, webhooks
from pointsman.api.names import WEBHOOK_SERVICE
from pointsman.lab import keeper as lab_keeper
from pointsman.lab import records
from pointsman.lab.agent import Agent
from pointsman.lab.controlplane import documents, keeper
from pointsman.lab.controlplane.operators import NAMESPACE, Operators
from pointsman.lab.controlplane.pods import Pods, now
from pointsman.lab.daemon import Daemon
from pointsman.lab.layout import CLIENT_ADDRESSES
from pointsman.lab.network import Host
from pointsman.lab.servers import Servers
from pointsman.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.controlplane.plane import ControlPlane

POD_CIDR: Final = "192.168.0.0/16"
_NODE_NETWORK: Final = ipaddress.ip_network("172.16.0.0/24")
_FIRST_NODE: Final = 5
_CLIENT: Final = -6
"""The address of a node's client pod, in its network."""

_PATIENCE: Final = 20.0
_PAUSE: Final = 0.01
_WEBHOOK_SECONDS: Final = 15
"""Until a webhook that says nothing is passed by: here it has to wait for a processor, together with all else."""


class LiveNode(msgspec.Struct, eq=False):
    """A node that is up.

    Attributes:
        host: the node itself.
        client: a pod on it that connects; no Pod of the API server's.
        agent: its agent.
        pod_cidr: the network of its Pods.
    """

    host: Host
    client: Host
    agent: Agent
    pod_cidr: str


class LiveCluster:
    """A cluster over a control plane; a context manager that ends what it started.

    Attributes:
        plane: the control plane.
        nodes: by name.
        pods: who runs Pods.
        operators: replicas of the operator; none until they are started.
        servers: what answers in Pods; more can be started.
        outside: a client outside of the cluster.
    """

    def __init__(self, plane: ControlPlane) -> None:
        """Prepare it over a control plane that runs; there are no nodes yet."""
        self.plane = plane
        self.nodes: dict[str, LiveNode] = {}
        self.servers = Servers()
        self.pods = Pods(plane.api, plane.network, self.servers)
        self.operators = Operators(plane)
        self.outside = plane.network.client("outside", CLIENT_ADDRESSES[0])
        plane.network.build()
        self.kept = False

    def __enter__(self) -> Self:
        self.pods.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def install(self) -> None:
        """Bring in what the chart will: custom resources, permissions, the webhook, and a ProxyConfig ``default``.

        Raises:
            KubectlError: the API server refuses a part.
            LabError: the API server does not offer the custom resources in time.
        """
        plane = self.plane
        plane.apply([*crds.documents(), *permissions.manifests(NAMESPACE)])
        plane.wait_for_definitions()
        webhook = webhooks.webhook_configuration(
            client_config=client_config(), namespace=NAMESPACE, timeout_seconds=_WEBHOOK_SECONDS
        )
        plane.apply([webhook])
        spec = {"podCIDRs": [POD_CIDR], "serviceCIDRs": [plane.settings.service_cidr]}
        plane.apply([proxy_config("default", spec)])

    def add_node(self, name: str, *, zone: str = "") -> LiveNode:
        """Add a node; see `add_nodes`."""
        (node,) = self.add_nodes((name,), zone=zone)
        return node

    def add_nodes(self, names: Sequence[str], *, zone: str = "") -> list[LiveNode]:
        """Add nodes, each with an agent of its own, and wait until the agents are ready.

        Args:
            names: of the nodes; addresses and networks are given in turn.
            zone: where they are, for topology hints.

        Raises:
            LabError: an agent does not become ready; the message holds the end of its log.
        """
        new = [self._declare(name) for name in names]
        self.plane.network.build()
        for node in new:
            self._register(node, zone)
            node.agent.start()
        for node in new:
            node.agent.wait_until_ready()
        return new

    def remove_node(self, name: str) -> None:
        """Remove a node as if its machine were gone, and its Node object with its Pods."""
        node = self.nodes.pop(name)
        node.agent.kill()
        self.pods.remove_node(name)
        self.plane.network.remove(node.client)
        self.plane.network.remove(node.host)
        api = self.plane.api
        api.delete(f"/api/v1/nodes/{name}")
        for pod in api.get("/api/v1/pods", {"fieldSelector": f"spec.nodeName={name}"})["items"]:
            api.delete(documents.path_of(pod), {"gracePeriodSeconds": 0})

    def wait_for_pods(
        self, selector: str, count: int, *, namespace: str = "default", patience: float = _PATIENCE
    ) -> list[str]:
        """Wait until exactly so many Pods match a label selector, all of them ready.

        Args:
            selector: of labels.
            count: how many.
            namespace: of the Pods.
            patience: seconds.

        Returns:
            Their names, sorted.

        Raises:
            LabError: they are not there in time.
        """
        path = f"/api/v1/namespaces/{namespace}/pods"
        found: list[str] = []

        def there() -> bool:
            pods = self.plane.api.get(path, {"labelSelector": selector})["items"]
            found[:] = sorted(pod["metadata"]["name"] for pod in pods)
            return len(pods) == count and all(_is_ready(pod) for pod in pods)

        self.wait_until(there, lambda: f"{count} ready Pods of {selector}, and there are {found}", patience=patience)
        return found

    def wait_until(
        self, done: Callable[[], bool], what: str | Callable[[], str], *, patience: float = _PATIENCE
    ) -> float:
        """Wait until something is so; see `pointsman.lab.waiting`. What went wrong with Pods is said, too."""

        def said() -> str:
            failures = "".join(f"\n{line}" for line in self.pods.failures[-5:])
            return (what if isinstance(what, str) else what()) + failures

        return wait_until(done, said, patience=patience, pause=_PAUSE)

    def keep(self) -> None:
        """Leave everything up when this object is closed; Pods go on in a process of their own."""
        plane = self.plane
        file = plane.files / "cluster.json"
        file.write_bytes(msgspec.json.encode(keeper.describe(self)))
        plane.write_kubectl_script()
        self.pods.close()
        self.servers.close()
        command = [sys.executable, "-m", keeper.__name__, str(file)]
        pods = Daemon("the keeper of the Pods", plane.namespace, command, plane.files / "logs" / "keeper.log")
        lab_keeper.start(pods)
        agents = (node.agent.daemon for node in self.nodes.values())
        operators = (operator.daemon for operator in self.operators.replicas)
        daemons = [daemon for daemon in (pods, *plane.daemons(), *operators, *agents) if daemon.running]
        records.keep(records.Kept(plane.network.prefix, tuple(records.process(daemon.pid) for daemon in daemons)))
        for daemon in daemons:
            daemon.release()
        self.kept = plane.kept = True

    def close(self) -> None:
        """End agents, operators and servers, unless they are kept."""
        if self.kept:
            return
        for node in self.nodes.values():
            node.agent.kill()
        self.operators.close()
        self.pods.close()
        self.servers.close()

    def _declare(self, name: str) -> LiveNode:
        number = self._free_number()
        network = ipaddress.ip_network(f"192.168.{number}.0/24")
        host = self.plane.network.node(name, str(_NODE_NETWORK[_FIRST_NODE + number]))
        client = self.plane.network.pod(f"client-{name}", str(network[_CLIENT]), node=host)
        node = LiveNode(host, client, self._agent(host), str(network))
        self.nodes[name] = node
        return node

    def _free_number(self) -> int:
        taken = {node.pod_cidr for node in self.nodes.values()}
        return next(number for number in range(200) if f"192.168.{number}.0/24" not in taken)

    def _agent(self, host: Host) -> Agent:
        kubeconfig = self.plane.service_account(NAMESPACE, "pointsman-agent")
        state = self.plane.files / "state" / host.name
        state.mkdir(parents=True, exist_ok=True)
        options = ("--kubeconfig", str(kubeconfig), "--state-dir", str(state), "--namespace", NAMESPACE)
        return Agent(host, options, self.plane.files / "logs" / f"agent-{host.name}.log")

    def _register(self, node: LiveNode, zone: str) -> None:
        document = documents.node(node.host.name, node.host.addresses, (node.pod_cidr,), now(), zone=zone)
        self.plane.api.create("/api/v1/nodes", document)
        # A new Node is tainted as not ready, until the node lifecycle controller, which does not run here, sees it.
        self.plane.api.patch(f"/api/v1/nodes/{node.host.name}", {"spec": {"taints": None}})
        self.pods.add_node(node.host, (node.pod_cidr,))


def client_config() -> dict[str, Any]:
    """Say where the API server finds the webhook; the operator adds its certificate."""
    return {"service": {"namespace": NAMESPACE, "name": WEBHOOK_SERVICE, "port": 443}}


def proxy_config(name: str, spec: Mapping[str, Any]) -> Document:
    """Describe a ProxyConfig."""
    return {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions: Iterable[Mapping[str, str]] = pod.get("status", {}).get("conditions", ())
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
