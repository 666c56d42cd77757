"""A small cluster: a node for each Node object with an agent of its own, a pod for each endpoint, clients."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab import keeper, records
from pointsman.lab.agent import Agent
from pointsman.lab.daemon import Daemon
from pointsman.lab.layout import CLIENT_ADDRESSES, Layout, lay_out
from pointsman.lab.namespaces import LabError
from pointsman.lab.network import Network, family_of, has_ipv6
from pointsman.lab.servers import Server, Servers
from pointsman.sources.manifest_files import ManifestFiles
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from pointsman.model.parse import Object
    from pointsman.model.problems import Problem


class Cluster:
    """Nodes with agents, pods with servers, client pods and a client outside; a context manager that removes all.

    Attributes:
        manifests: the directory that the agents follow, a copy of the one given.
        objects, problems: what was in it at the start.
        pods: by address.
        client_pods: a pod without a server on each node, by the node's name.
        outside: the client outside of the cluster.
    """

    def __init__(self, manifests: Path) -> None:
        """Read the manifests and build the network; agents are not started yet.

        Raises:
            LabError: the manifests or the kernel do not let it.
        """
        self.network = Network()
        self.files = records.make(self.network.prefix)
        self.manifests = self.files / "manifests"
        self.kept = False
        self.servers = Servers()
        try:
            shutil.copytree(manifests, self.manifests)
            (self.files / "logs").mkdir()
            self.objects, self.problems = read_manifests(self.manifests)
            self.layout = lay_out(self.objects)
            self._build(self.layout)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start_agents(self) -> None:
        """Start the agents of all nodes, and wait until they are ready."""
        for agent in self.agents.values():
            agent.start()
        for agent in self.agents.values():
            agent.wait_until_ready()

    def write(self, name: str, data: bytes) -> float:
        """Replace one manifest, in one step.

        Returns:
            When, in Unix seconds.
        """
        draft = self.files / "draft"
        draft.write_bytes(data)
        written = time.time()
        draft.rename(self.manifests / name)
        return written

    def wait_for_sync(self, after: float) -> float:
        """Wait until a change is in the kernel of every node; takes and returns Unix seconds."""
        return max(agent.wait_for_sync(after) for agent in self.agents.values())

    def server(self, address: str) -> Server:
        """Return the (first) server at an address."""
        return next(server for server in self.servers.running() if server.address == address)

    def keep(self) -> None:
        """Leave everything up when this object is closed; the servers go on in a process of their own."""
        file = self.files / "servers.json"
        file.write_bytes(msgspec.json.encode([keeper.describe(server) for server in self.servers.running()]))
        self.servers.close()
        command = [sys.executable, "-m", "pointsman.lab.keeper", str(file)]
        servers = Daemon("the keeper of the servers", self.network.router.namespace, command, self.files / "keeper.log")
        keeper.start(servers)
        daemons = (servers, *(agent.daemon for agent in self.agents.values()))
        records.keep(records.Kept(self.network.prefix, tuple(records.process(daemon.pid) for daemon in daemons)))
        for daemon in daemons:
            daemon.release()
        self.kept = True

    def close(self) -> None:
        """End agents and servers and remove every trace, unless it is kept."""
        if self.kept:
            return
        for agent in getattr(self, "agents", {}).values():
            agent.kill()
        self.servers.close()
        self.network.close()
        records.forget(self.network.prefix)

    def _build(self, layout: Layout) -> None:
        network = self.network
        self.nodes = {planned.name: network.node(planned.name, *_usable(planned.addresses)) for planned in layout.nodes}
        self.pods = {
            planned.address: network.pod(planned.name, planned.address, node=self.nodes[planned.node])
            for planned in layout.pods
        }
        self.client_pods = {
            planned.name: network.pod(f"client-{planned.name}", *_usable(planned.client), node=self.nodes[planned.name])
            for planned in layout.nodes
        }
        self.outside = network.client("outside", *_usable(CLIENT_ADDRESSES))
        network.build()
        first = next(iter(self.nodes.values()))
        for address in _usable(layout.outside):
            network.route(address, via=first)
        hosts = {address: host for host in network.hosts.values() for address in host.addresses}
        for server in layout.servers:
            self.servers.start(hosts[server.address], server.port, server.protocol, address=server.address)
        self.agents = {
            name: Agent(node, ("--manifests", str(self.manifests)), self.files / "logs" / f"{name}.log")
            for name, node in self.nodes.items()
        }


def read_manifests(directory: Path) -> tuple[tuple[Object, ...], tuple[Problem, ...]]:
    """Read a directory as the agents do.

    Raises:
        LabError: it cannot be read, or has no object that can be used.
    """
    try:
        batch = ManifestFiles(directory).scan()
    except SourceError as error:
        raise LabError(str(error)) from error
    problems = (batch.problems or ()) if batch is not None else ()
    objects = tuple(change.obj for change in batch.changes if change.obj is not None) if batch is not None else ()
    if not objects:
        remedy = "correct the files" if problems else "put Services and EndpointSlices into it"
        raise LabError("\n".join([f"--manifests: the directory has no object to use; {remedy}", *map(str, problems)]))
    return objects, problems


def _usable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out IPv6 where the kernel has none."""
    return addresses if has_ipv6() else tuple(address for address in addresses if family_of(address) == 4)  # noqa: PLR2004 - IP version 4
