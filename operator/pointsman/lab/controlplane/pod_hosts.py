"""Namespaces and servers of Pods: made on a node, with an address of its network, and removed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.controlplane import documents
from pointsman.lab.network import Host
from pointsman.lab.servers import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.network import Network
    from pointsman.lab.servers import Servers


class PodNode(msgspec.Struct):
    """A node that Pods run on, with a pool of addresses for each family."""

    host: Host
    pools: list[documents.Pool]


class PodHost(msgspec.Struct):
    """What a Pod has on its node."""

    node: PodNode
    host: Host
    servers: list[Server]


class PodHosts:
    """Makes and removes what Pods have."""

    def __init__(self, network: Network, servers: Servers) -> None:
        self._network = network
        self._servers = servers

    def node(self, host: Host, pod_cidrs: Sequence[str]) -> PodNode:
        """Describe a node whose Pods get addresses of these networks, one of each."""
        return PodNode(host, [documents.Pool(network) for network in pod_cidrs])

    def make(self, pod: Document, node: PodNode) -> PodHost:
        """Make a Pod's namespace, and a server at each port that its containers name.

        Raises:
            LabError: the kernel refuses.
            LookupError: the node has no address left.
            OSError: two containers name the same port.
        """
        meta = pod["metadata"]
        suffix = "" if meta["namespace"] == "default" else f".{meta['namespace']}"
        host = self._host(meta["name"] + suffix, node)
        servers = [
            self._servers.start(host, port, protocol, address=address, name=meta["name"])
            for port, protocol in documents.ports(pod)
            for address in host.addresses
        ]
        return PodHost(node, host, servers)

    def remove(self, made: PodHost) -> None:
        """End a Pod's servers with their connections, and remove its namespace."""
        listening = set(self._servers.running())
        for server in made.servers:
            if server in listening:
                self._servers.stop(server)
        self._network.remove(made.host)
        for pool, address in zip(made.node.pools, made.host.addresses, strict=True):
            pool.give_back(address)

    def _host(self, name: str, node: PodNode) -> Host:
        host = self._network.hosts.get(name)
        if host is None:
            host = self._network.pod(name, *(pool.take() for pool in node.pools), node=node.host)
            self._network.build()
            return host
        for pool, address in zip(node.pools, host.addresses, strict=True):  # of a lab that was left up
            pool.claim(address)
        return host
