"""``python -m pointsman.lab.controlplane.keeper FILE``: runs the Pods of a lab that was left up, until SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.controlplane.api import Api
from pointsman.lab.controlplane.pods import Pods
from pointsman.lab.keeper import LISTENING
from pointsman.lab.network import Network, Role
from pointsman.lab.servers import Servers

if TYPE_CHECKING:
    from pointsman.lab.controlplane.cluster import LiveCluster


class KeptHost(msgspec.Struct, frozen=True):
    """A host of the lab's network; see `pointsman.lab.network.Host`."""

    name: str
    role: Role
    addresses: tuple[str, ...]
    hub: str
    link: int


class KeptCluster(msgspec.Struct, frozen=True):
    """A cluster whose Pods go on.

    Attributes:
        prefix: of its namespaces.
        keys: directory with the certificates of the API server's authority and of the administrator.
        hosts: in an order in which hubs come first.
        nodes: the networks of their Pods, by name.
    """

    prefix: str
    keys: str
    hosts: tuple[KeptHost, ...]
    nodes: dict[str, str]


def describe(cluster: LiveCluster) -> KeptCluster:
    """Describe a cluster for `keep`."""
    network = cluster.plane.network
    hosts = tuple(
        KeptHost(host.name, host.role, host.addresses, host.hub.name if host.hub else "", host.link)
        for host in network.hosts.values()
    )
    nodes = {name: node.pod_cidr for name, node in cluster.nodes.items()}
    return KeptCluster(network.prefix, str(cluster.plane.files / "pki"), hosts, nodes)


def keep(file: Path) -> None:
    """Run the Pods of the cluster that a file describes (JSON, `KeptCluster`) until SIGTERM or SIGINT."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    kept = msgspec.json.decode(file.read_bytes(), type=KeptCluster)
    network = Network(kept.prefix)
    for host in kept.hosts:
        network.adopt(host.name, host.role, host.addresses, host.hub, host.link)
    api = Api.of_administrator(network.hosts["control-plane"].namespace, Path(kept.keys))
    with Servers() as servers:
        pods = Pods(api, network, servers)
        for name, pod_cidr in kept.nodes.items():
            pods.add_node(network.hosts[name], (pod_cidr,))
        pods.start()
        pods.listed.wait()
        print(LISTENING, flush=True)  # noqa: T201 - the lab's own process waits for it
        signal.sigwait(signals)
        pods.close()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
