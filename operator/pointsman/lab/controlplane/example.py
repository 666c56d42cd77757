"""The example that the project starts from, on a real API server: two web Pods, two Services, one that is refused.

The objects are in ``manifests/`` beside this module, for `kubectl apply`. Every step changes something through the
API server and shows with real connections that it has reached the kernels.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.lab.steps import Found, Table, bars, count
from pointsman.lab.traffic import Answered, Load, Refused, Spread, TimedOut, connect, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.lab.controlplane.cluster import LiveCluster
    from pointsman.lab.network import Host

MANIFESTS: Final = Path(__file__).with_name("manifests")
CLUSTER_IP: Final = "10.96.200.75"
PORT: Final = 8080
NODE_PORT: Final = 30000
REFUSAL: Final = (
    "spec.ports[0].nodePort: Invalid value: 58080: provided port is not in the valid range. "
    "The range of valid ports is 30000-32767"
)
_SELECTOR: Final = "app=nginx"
_PATIENCE: Final = 3
"""Failures after which a step gives up: each may take a second."""


class Example:
    """The steps over one cluster."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._plane = cluster.plane
        self._pod = cluster.nodes["node02"].client

    def steps(self) -> tuple[tuple[str, str, Callable[[], Found]], ...]:
        """List the steps: title, what is done, and what does it."""
        return (
            ("Deployment", "kubectl apply: test-nginx, two replicas", self.deployment),
            ("ClusterIP", f"kubectl apply: test-nginx-service; connections to {CLUSTER_IP}:{PORT}", self.cluster_ip),
            ("Session affinity", "kubectl patch: sessionAffinity ClientIP, and back", self.affinity),
            ("A node port out of range", "kubectl apply: a Service with nodePort 58080", self.refused),
            (
                "NodePort",
                f"kubectl apply: nodePort {NODE_PORT}; connections to it from outside",
                self.node_port,
            ),
            ("Five replicas", "kubectl scale --replicas=5 while a pod connects without pause", self.five),
            ("A Pod is not ready", "its readiness is lost, and comes back", self.readiness),
            ("No replica", "kubectl scale --replicas=0, and back to 2", self.none),
            ("What the cluster says", "kubectl get pxc,npx", self.dashboard),
            ("Delete", "kubectl delete: both Services and the Deployment", self.delete),
        )

    def deployment(self) -> Found:
        """Pods come from the real controllers."""
        self._apply("deployment.yaml")
        self._cluster.wait_for_pods(_SELECTOR, 2)
        return Found(good=True, says="two Pods are ready", table=self._table("get", "pods", "-o", "wide", columns=7))

    def cluster_ip(self) -> Found:
        """From a pod and from every node."""
        self._apply("service.yaml")
        seconds = self._until_answered(self._pod, CLUSTER_IP, PORT)
        origins = {"a pod": self._pod} | {f"node {name}": node.host for name, node in self._cluster.nodes.items()}
        for origin in origins.values():
            self._until_all(origin, CLUSTER_IP, PORT)
        seen = {label: self._spread(origin, CLUSTER_IP, PORT) for label, origin in origins.items()}
        return self._of_each(seen, f"answered {_ms(seconds)} after kubectl was done; ")

    def affinity(self) -> Found:
        """Every client stays with its Pod."""
        self._patch('{"spec": {"sessionAffinity": "ClientIP"}}')
        clients = {name: node.client for name, node in self._cluster.nodes.items()}
        self._cluster.wait_until(
            lambda: all(len(self._spread(client, CLUSTER_IP, PORT, 20).servers) == 1 for client in clients.values()),
            "every client to stay with one Pod",
        )
        seen = {name: self._spread(client, CLUSTER_IP, PORT, 40) for name, client in clients.items()}
        good = all(len(each.servers) == 1 and not each.failures for each in seen.values())
        self._patch('{"spec": {"sessionAffinity": "None"}}')
        says = "every client stayed with one Pod" if good else "a client did not stay with its Pod"
        return Found(good, says, bars=tuple(bars(f"pod on {name}", each.servers) for name, each in seen.items()))

    def refused(self) -> Found:
        """The webhook refuses in the API server's own words."""
        done = self._plane.try_kubectl("apply", "-f", str(MANIFESTS / "refused.yaml"))
        return Found(REFUSAL in done.stderr and done.returncode != 0, done.stderr.strip() or "it was not refused")

    def node_port(self) -> Found:
        """It answers on every node."""
        self._apply("nodeport.yaml")
        nodes = self._cluster.nodes.items()
        outside = self._cluster.outside
        seconds = max(self._until_answered(outside, node.host.address(), NODE_PORT) for _, node in nodes)
        for _, node in nodes:
            self._until_all(outside, node.host.address(), NODE_PORT)
        seen = {f"node {name}": self._spread(outside, node.host.address(), NODE_PORT) for name, node in nodes}
        return self._of_each(seen, f"answered {_ms(seconds)} after kubectl was done; ")

    def five(self) -> Found:
        """No connection fails on the way."""
        with Load(self._pod, CLUSTER_IP, PORT) as load:
            load.wait(50)
            self._scale(5)
            self._until_spread(5)
            after = time.monotonic()
            load.wait(300)
        seen, new = load.spread(), load.spread(since=after)
        return Found(not seen.failures, _answers(seen), bars=(bars("five Pods", new.servers),))

    def readiness(self) -> Found:
        """A Pod that is not ready gets no connection."""
        name = self._names()[0]
        with Load(self._pod, CLUSTER_IP, PORT) as load:
            self._cluster.pods.set_ready(name, ready=False)
            lost = self._until_spread(4)
            after = time.monotonic()
            load.wait(200)
            meanwhile = load.spread(since=after, until=time.monotonic())
            self._cluster.pods.set_ready(name, ready=True)
            back = self._until_spread(5)
        seen = load.spread()
        good = not seen.failures and name not in meanwhile.servers
        says = f"left after {_ms(lost)}, back after {_ms(back)}; {_answers(seen)}"
        return Found(good, says, bars=(bars("while it was not ready", meanwhile.servers, (name,)),))

    def none(self) -> Found:
        """Refused means refused at once."""
        origins = (self._pod, *(node.host for node in self._cluster.nodes.values()))

        def all_refused() -> bool:
            return all(isinstance(connect(origin, CLUSTER_IP, PORT), Refused) for origin in origins)

        self._scale(0)
        # A Pod that ends refuses by itself for a moment, and is silent in the next: only without Pods it is the node.
        scaled = time.perf_counter()
        self._cluster.wait_for_pods(_SELECTOR, 0)
        self._cluster.wait_until(all_refused, "connections to be refused")
        seconds = time.perf_counter() - scaled
        begun = time.perf_counter()
        good = all_refused()
        each = (time.perf_counter() - begun) / len(origins)
        self._scale(2)
        self._cluster.wait_for_pods(_SELECTOR, 2)
        back = self._until_answered(self._pod, CLUSTER_IP, PORT)
        says = (
            f"refused {_ms(seconds)} after kubectl was done, within {each * 1000:.1f} ms; "
            f"answered again {_ms(back)} after two Pods were ready"
        )
        return Found(good, says)

    def dashboard(self) -> Found:
        """All nodes have what they have to."""
        self._plane.kubectl("wait", "--for=condition=Ready", "pxc,npx", "--all", "--timeout=60s")
        configs = self._plane.kubectl("get", "pxc").splitlines()
        return Found(good=True, says="all nodes are ready", table=self._table("get", "npx"), notes=tuple(configs))

    def delete(self) -> Found:
        """Nothing answers any more."""
        self._plane.kubectl("delete", "-f", str(MANIFESTS), "--ignore-not-found")
        gone = TimedOut | Refused
        seconds = self._cluster.wait_until(
            lambda: isinstance(connect(self._pod, CLUSTER_IP, PORT, timeout=0.2), gone), "the cluster IP to be gone"
        )
        self._cluster.wait_for_pods(_SELECTOR, 0)
        return Found(good=True, says=f"nothing answers {_ms(seconds)} after kubectl was done, and the Pods are gone")

    def restore(self) -> None:
        """Bring the objects back, for somebody to look at."""
        for name in ("deployment.yaml", "service.yaml", "nodeport.yaml"):
            self._apply(name)
        self._cluster.wait_for_pods(_SELECTOR, 2)

    def _apply(self, name: str) -> None:
        self._plane.kubectl("apply", "-f", str(MANIFESTS / name))

    def _patch(self, patch: str) -> None:
        self._plane.kubectl("patch", "service", "test-nginx-service", "--patch", patch)

    def _scale(self, replicas: int) -> None:
        self._plane.kubectl("scale", "deployment/test-nginx", f"--replicas={replicas}")

    def _names(self) -> list[str]:
        pods = self._plane.api.get("/api/v1/namespaces/default/pods", {"labelSelector": _SELECTOR})["items"]
        return sorted(pod["metadata"]["name"] for pod in pods)

    def _spread(self, origin: Host, address: str, port: int, number: int = 50) -> Spread:
        return spread(origin, address, port, count=number, patience=_PATIENCE)

    def _until_answered(self, origin: Host, address: str, port: int) -> float:
        return self._cluster.wait_until(
            lambda: isinstance(connect(origin, address, port, timeout=0.2), Answered), f"{address}:{port} to answer"
        )

    def _until_spread(self, number: int) -> float:
        """Wait until connections come to exactly so many Pods."""
        return self._cluster.wait_until(
            lambda: len(self._spread(self._pod, CLUSTER_IP, PORT, 16 * number).servers) == number,
            f"connections to come to {number} Pods",
        )

    def _until_all(self, origin: Host, address: str, port: int) -> None:
        """Wait until connections come to every Pod: each node hears of a change in its own time."""
        names = set(self._names())
        self._cluster.wait_until(
            lambda: set(self._spread(origin, address, port).servers) == names,
            f"connections from {origin.name} to {address}:{port} to come to {sorted(names)}",
        )

    def _of_each(self, seen: dict[str, Spread], before: str) -> Found:
        names = tuple(self._names())
        good = all(not each.failures and set(each.servers) == set(names) for each in seen.values())
        failed = sum(len(each.failures) for each in seen.values())
        total = sum(each.answered for each in seen.values())
        says = f"{before}{count(total, 'connection')} answered, {failed} failed"
        return Found(good, says, bars=tuple(bars(label, each.servers, names) for label, each in seen.items()))

    def _table(self, *arguments: str, columns: int | None = None) -> Table:
        """Turn what kubectl prints into a table."""
        headings, *rows = split_columns(self._plane.kubectl(*arguments))
        return Table(headings[:columns], tuple(row[:columns] for row in rows))


def split_columns(text: str) -> list[tuple[str, ...]]:
    """Split what kubectl prints into cells; a column begins where its heading does."""
    lines = text.splitlines()
    starts = [match.start() for match in re.finditer(r"(?<!\S)\S+(?: \S+)*", lines[0])]
    ends = [*starts[1:], None]
    return [tuple(line[start:end].strip() for start, end in zip(starts, ends, strict=True)) for line in lines]


def _answers(seen: Spread) -> str:
    return f"{count(seen.answered, 'connection')} answered, {len(seen.failures)} failed"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
