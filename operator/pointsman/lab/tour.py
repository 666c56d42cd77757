"""The guided tour: three nodes, real connections, and whether each came out as it has to.

The cluster is the one in ``manifests/`` beside this module: two web pods on two of three nodes, Services over them by
cluster IP, by node port and with ClientIP affinity, and a Service without endpoints. With manifests of the user's own
the tour is a survey: every frontend is tried.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from pointsman.lab.cluster import Cluster
from pointsman.lab.step_log import StepLog
from pointsman.lab.steps import Found, Table, bars, count
from pointsman.lab.survey import survey
from pointsman.lab.traffic import Answered, Held, Load, Refused, Spread, connect, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.lab.network import Host
    from pointsman.lab.steps import Result, Watcher

MANIFESTS: Final = Path(__file__).with_name("manifests")

CLUSTER_IP: Final = "10.96.200.75"
STICKY_IP: Final = "10.96.0.30"
EMPTY_IP: Final = "10.96.0.40"
PORT: Final = 8080
NODE_PORT: Final = 30000
WEB: Final = "web.yaml"
CLUSTER: Final = "cluster.yaml"
FIRST_MODE: Final = "nftables"
CHANGES: Final = ("iptables", "userspace", FIRST_MODE)
"""The modes that every kernel with namespaces has, ending where it began."""
LEAVING: Final = "192.168.1.3"
LEAVING_NAME: Final = "nginx-b"
"""The endpoint that goes away."""

_PATIENCE: Final = 3
"""Failures after which a step gives up: each may take a second."""

_LEAST_SHARE: Final = 0.3
"""Of two endpoints each gets half; less than this of 200 connections comes once in 10^8 tours."""


class Tour:
    """The steps over one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pod = cluster.client_pods["node02"]
        self._web = tuple(pod.name for pod in cluster.pods.values())

    def steps(self) -> tuple[tuple[str, str, Callable[[], Found]], ...]:
        """List the steps: title, what is done, and what does it."""
        return (
            ("ClusterIP", f"200 connections from a pod on node02 to {CLUSTER_IP}:{PORT}", self.cluster_ip),
            ("ClusterIP from the nodes", f"50 connections from each node itself to {CLUSTER_IP}:{PORT}", self.nodes),
            ("NodePort", f"50 connections from outside to port {NODE_PORT} of each node", self.node_port),
            ("Source addresses", "whom the web pods see, by where the client is", self.sources),
            ("Session affinity", f"40 connections from each of 3 clients to {STICKY_IP}:{PORT}", self.affinity),
            ("Empty Service", f"connections to {EMPTY_IP}:{PORT}, which has no endpoint", self.empty),
            (
                "A backend goes away under load",
                "nginx-b leaves its EndpointSlices while a pod connects without pause, then ends",
                self.backend_leaves,
            ),
            (
                "The mode changes under load",
                f"to {', '.join(CHANGES)}, while a pod connects without pause and holds 20 connections of before each",
                self.mode_changes,
            ),
            (
                "An agent is killed",
                "SIGKILL to that of node02 while a pod there connects without pause, then a new one",
                self.agent_killed,
            ),
        )

    def cluster_ip(self) -> Found:
        """Spread over both endpoints, source kept."""
        seen = spread(self._pod, CLUSTER_IP, PORT, count=200, patience=_PATIENCE)
        shares = [seen.servers[name] / 200 for name in self._web]
        good = not seen.failures and min(shares) > _LEAST_SHARE and set(seen.sources) == {self._pod.address()}
        return Found(good, _answers(seen), bars=(bars("endpoint", seen.servers, self._web),))

    def nodes(self) -> Found:
        """A node's own connections."""
        seen = {
            name: spread(node, CLUSTER_IP, PORT, count=50, patience=_PATIENCE)
            for name, node in self._cluster.nodes.items()
        }
        return self._of_each_node(seen)

    def node_port(self) -> Found:
        """The node port answers on every node, those without an endpoint too."""
        nodes = self._cluster.nodes.items()
        outside = self._cluster.outside
        seen = {name: spread(outside, node.address(), NODE_PORT, count=50, patience=_PATIENCE) for name, node in nodes}
        return self._of_each_node(seen)

    def sources(self) -> Found:
        """Who is masqueraded, and who is not."""
        cluster = self._cluster
        master, web = cluster.nodes["master"], cluster.pods["192.168.0.15"]
        kept, replaced = "kept", "the node's"
        cases = (
            ("a pod, to a ClusterIP", self._pod, CLUSTER_IP, PORT, kept, {self._pod.address()}),
            ("outside, to a nodePort", cluster.outside, master.address(), NODE_PORT, replaced, {master.address()}),
            ("a web pod, to itself through its Service", web, CLUSTER_IP, PORT, replaced, {master.address()}),
        )
        rows, good = [], True
        for label, origin, address, port, word, expected in cases:
            seen = self._seen_by(origin, address, port, "nginx-a")
            good &= seen == expected
            rows.append((label, origin.address(), ", ".join(sorted(seen)), word if seen == expected else "WRONG"))
        says = "kept inside the cluster, the node's for clients outside and for a pod that reaches itself"
        headings = ("client", "its address", "nginx-a sees", "address")
        return Found(good, says if good else "not as it has to be", table=Table(headings, tuple(rows)))

    def affinity(self) -> Found:
        """Every client stays with its endpoint."""
        seen = {
            pod.name: spread(pod, STICKY_IP, PORT, count=40, patience=_PATIENCE)
            for pod in self._cluster.client_pods.values()
        }
        good = all(len(each.servers) == 1 and not each.failures for each in seen.values())
        says = "every client stayed with one endpoint" if good else "a client did not stay with its endpoint"
        return Found(good, says, bars=tuple(bars(name, each.servers, self._web) for name, each in seen.items()))

    def empty(self) -> Found:
        """Refused means refused at once."""
        origins = (self._pod, self._cluster.nodes["node02"], self._cluster.nodes["master"])
        begun = time.perf_counter()
        outcomes = [connect(origin, EMPTY_IP, PORT) for origin in origins]
        each = (time.perf_counter() - begun) / len(origins)
        good = all(isinstance(outcome, Refused) for outcome in outcomes)
        says = f"refused after {each * 1000:.1f} ms" if good else f"not refused: {outcomes}"
        return Found(good, says)

    def backend_leaves(self) -> Found:
        """No connection fails, and after the sync none reaches the backend that left; held ones stay."""
        cluster = self._cluster
        with Held(self._pod, CLUSTER_IP, PORT, count=20) as held, Load(self._pod, CLUSTER_IP, PORT) as load:
            load.wait(100)
            left = self._set_endpoints(lambda address: address != LEAVING)
            synced = cluster.wait_for_sync(left)
            after = time.monotonic()
            load.wait(100)
            stayed = held.broken() == []
            server = cluster.server(LEAVING)
            cluster.servers.stop(server)
            load.wait(100)
            gone = load.spread(since=after)
            cluster.servers.start(server.host, server.port, server.protocol, address=server.address)
            cluster.wait_for_sync(self._set_endpoints(lambda _: True))
            back_at = time.monotonic()
            load.wait(100)
        seen, back = load.spread(), load.spread(since=back_at)
        good = stayed and not seen.failures and LEAVING_NAME not in gone.servers and len(back.servers) == 2  # noqa: PLR2004
        return Found(
            good,
            f"in every kernel {(synced - left) * 1000:.0f} ms after the file was written; {_answers(seen)}",
            bars=(
                bars("while it was away", gone.servers, self._web),
                bars("when it was back", back.servers, self._web),
            ),
            notes=("20 connections opened before lived until its process ended",) if stayed else ("held ones broke",),
        )

    def mode_changes(self) -> Found:
        """Each mode takes over from the one before it; nobody notices."""
        rows, good, before = [], True, FIRST_MODE
        with contextlib.ExitStack() as lines:
            for mode in CHANGES:
                held = lines.enter_context(Held(self._pod, CLUSTER_IP, PORT, count=20))
                with Load(self._pod, CLUSTER_IP, PORT) as load:
                    load.wait(50)
                    self._set_mode(mode)
                    load.wait(100)
                seen, broken = load.spread(), len(held.broken())
                found = {agent.mode() for agent in self._cluster.agents.values()}
                good &= not seen.failures and not broken and found == {mode}
                told = (
                    f"{before} to {', '.join(sorted(found))}",
                    str(seen.answered),
                    str(len(seen.failures)),
                    str(broken),
                )
                rows.append(told)
                before = mode
        says = "no connection failed, none broke" if good else "not as it has to be"
        return Found(good, says, table=Table(("change", "answered", "failed", "held ones that broke"), tuple(rows)))

    def agent_killed(self) -> Found:
        """The kernel's rules stay; a new agent adopts them."""
        agent = self._cluster.agents["node02"]
        with Held(self._pod, CLUSTER_IP, PORT, count=20) as held, Load(self._pod, CLUSTER_IP, PORT) as load:
            load.wait(50)
            agent.kill()
            load.wait(100)
            begun = time.perf_counter()
            agent.start()
            agent.wait_until_ready()
            ready = time.perf_counter() - begun
            load.wait(50)
            broken = len(held.broken())
        seen = load.spread()
        says = f"{_answers(seen)}; {broken} of 20 held ones broke; the new agent was ready after {ready:.1f} s"
        return Found(not seen.failures and not broken, says)

    def _of_each_node(self, seen: dict[str, Spread]) -> Found:
        good = all(not each.failures and len(each.servers) == len(self._web) for each in seen.values())
        failed = sum(len(each.failures) for each in seen.values())
        total = sum(each.answered for each in seen.values())
        says = f"{count(total, 'connection')} answered, {failed} failed"
        return Found(good, says, bars=tuple(bars(name, each.servers, self._web) for name, each in seen.items()))

    def _seen_by(self, origin: Host, address: str, port: int, server: str) -> set[str]:
        """Connect until a server answered, and return the client's address as it saw it."""
        for _ in range(40):
            outcome = connect(origin, address, port)
            if not isinstance(outcome, Answered):
                return {f"nothing: {type(outcome).__name__}"}
            if outcome.server == server:
                return {outcome.seen[0]}
        return set()

    def _set_mode(self, mode: str) -> None:
        text = (MANIFESTS / CLUSTER).read_text("utf-8")
        self._cluster.wait_for_sync(
            self._cluster.write(CLUSTER, text.replace(f"mode: {FIRST_MODE}", f"mode: {mode}").encode())
        )

    def _set_endpoints(self, wanted: Callable[[str], bool]) -> float:
        """Write the manifest anew with the endpoints that are wanted, and return when that was done."""
        documents = list(yaml.safe_load_all((MANIFESTS / WEB).read_text("utf-8")))
        for document in documents:
            if "endpoints" in document:
                document["endpoints"] = [e for e in document["endpoints"] if wanted(e["addresses"][0])]
        return self._cluster.write(WEB, yaml.safe_dump_all(documents).encode())


def run_tour(
    watcher: Watcher, *, manifests: Path | None = None, leave_up: Callable[[Cluster], None] | None = None
) -> Result:
    """Build a cluster, show what it does, and remove it.

    Args:
        watcher: is told of each step.
        manifests: directory with the objects of the cluster; None for the tour's own.
        leave_up: when given, the cluster is left up at the end, and this is told of it.

    Raises:
        LabError: the lab itself does not work here, or the manifests cannot be read.
    """
    log = StepLog(watcher)
    made: list[Cluster] = []

    def build() -> Found:
        made.append(Cluster(manifests or MANIFESTS))
        return _built(made[0])

    try:
        log.take("Network", "namespaces for nodes, pods and clients, joined by veth pairs", build)
        cluster = made[0]
        if log.take("Agents", "`pointsman agent` on every node, until /healthz says 200", lambda: _started(cluster)):
            if manifests is None:
                for title, does, act in Tour(cluster).steps():
                    log.take(title, does, act)
            else:
                log.take("Survey", "every frontend, from a pod of each node and from outside", lambda: survey(cluster))
            if leave_up is not None:
                cluster.keep()
                leave_up(cluster)
    finally:
        for cluster in made:
            cluster.close()
    return log.result()


def _built(cluster: Cluster) -> Found:
    nodes = ", ".join(f"{name} {node.addresses[0]}" for name, node in cluster.nodes.items())
    pods = ", ".join(f"{pod.name} {address}" for address, pod in list(cluster.pods.items())[:10])
    more = f" and {len(cluster.pods) - 10} more" if len(cluster.pods) > 10 else ""  # noqa: PLR2004 - as above
    notes = (f"nodes: {nodes}", f"pods with servers: {pods or 'none'}{more}")
    return Found(good=True, says=count(len(cluster.network.hosts), "namespace"), notes=notes)


def _started(cluster: Cluster) -> Found:
    cluster.start_agents()
    return Found(good=True, says=f"{count(len(cluster.agents), 'agent')} ready")


def _answers(seen: Spread) -> str:
    return f"{count(seen.answered, 'connection')} answered, {len(seen.failures)} failed"
