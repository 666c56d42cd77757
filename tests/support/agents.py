"""A real agent on the ground's node, following a directory of manifests."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.agent import Agent
from pointsman.lab.traffic import Answered, connect, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kernel.conftest import Ground
    from pointsman.lab.connections import Outcome
    from pointsman.lab.network import Host
    from pointsman.model.plan import Transport
    from support.manifests import Document

METRICS_PORT = 10249
_CLUSTER: tuple[Document, ...] = (
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-1"},
        "spec": {"podCIDRs": ["192.168.1.0/24", "fd00:192:168:1::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "172.16.0.1"},
                {"type": "InternalIP", "address": "fd00:172:16::1"},
            ]
        },
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12", "fd00:10:96::/112"]},
    },
    {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": "default"},
        "spec": {"podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"]},
    },
)


class Supervised:
    """An agent and the directory that it follows.

    Attributes:
        ground: where its node is.
        manifests: the directory.
        agent: to start, kill and stop; not started yet.
    """

    def __init__(self, ground: Ground, files: Path) -> None:
        self.ground = ground
        self.manifests = files / "manifests"
        self.manifests.mkdir()
        self._files = files
        self.log = files / "agent.log"
        self.agent = Agent(ground.node, ("--manifests", str(self.manifests)), self.log)
        self.write("cluster.json", *_CLUSTER)

    def start(self) -> None:
        """Start the agent, and wait until its first sync is in the kernel."""
        self.agent.start()
        self.agent.wait_until_ready()

    def write(self, name: str, *documents: Document) -> float:
        """Replace a manifest in one step; return when, in Unix seconds."""
        draft = self._files / "draft"
        draft.write_bytes(text_of(*documents))
        written = time.time()
        draft.rename(self.manifests / name)
        return written

    def put(self, name: str, *documents: Document) -> None:
        """Replace a manifest, and wait until it is in the kernel."""
        self.agent.wait_for_sync(self.write(name, *documents))

    def syncs(self) -> list[tuple[int, int]]:
        """Return what each full sync added and removed, as the log has it."""
        found = re.findall(r"full sync .*?: (\d+) elements added, (\d+) removed", self.log.read_text("utf-8"))
        return [(int(added), int(removed)) for added, removed in found]

    def metrics(self) -> dict[str, float]:
        """Scrape the agent: value by name and labels."""
        status, body = fetch(self.ground.node, "127.0.0.1", METRICS_PORT, "/metrics")
        assert status == 200
        lines = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def run(self, *words: str) -> str:
        """Run a command of ours on the node."""
        return self.ground.node.namespace.run(sys.executable, "-m", "pointsman", *words)


@contextmanager
def supervised(ground: Ground, files: Path) -> Iterator[Supervised]:
    """Make a directory of manifests for an agent on the ground's node; the agent is killed at the end."""
    made = Supervised(ground, files)
    try:
        yield made
    finally:
        made.agent.kill()


def text_of(*documents: Document) -> bytes:
    """Write documents as a manifest."""
    return b"\n---\n".join(map(msgspec.json.encode, documents)) + b"\n"


def server_at(origin: Host, address: str, port: int = 80, protocol: Transport = "tcp", *, source_port: int = 0) -> str:
    """Connect once and return the server's name, or "" when nobody answers."""
    return _named(connect(origin, address, port, protocol, source_port=source_port))


def server_now(origin: Host, address: str) -> str:
    """Connect once to port 80, for a short time, and return the server's name, or ""; for asking again and again."""
    return _named(connect(origin, address, 80, timeout=0.1))


def _named(outcome: Outcome) -> str:
    return outcome.server if isinstance(outcome, Answered) else ""


def seconds_until(done: Callable[[], bool], *, limit: float = 30.0) -> float:
    """Wait until something is done, and return how long that took."""
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < limit, f"not done after {limit:g} s"
        time.sleep(0.002)
    return time.monotonic() - begun
