"""Stands in for scheduler and kubelets: Pods get a node, a namespace with an address, a server, and their status.

No container runs. A Pod's server answers at the ports that its containers name, with the Pod's name; readiness is
what `Pods.set_ready` says. A Pod that is deleted serves on for a moment, and is gone then.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.controlplane import documents
from pointsman.lab.controlplane.api import ApiAwayError, ApiRefusedError, Document
from pointsman.lab.controlplane.follower import LISTED, Follower
from pointsman.lab.controlplane.pod_hosts import PodHost, PodHosts, PodNode
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.lab.controlplane.api import Api
    from pointsman.lab.network import Host, Network
    from pointsman.lab.servers import Server, Servers

LINGER: Final = 2.0
"""Seconds that a deleted Pod serves on; less when its grace period is shorter."""

_PAUSE: Final = 0.1


class _Running(msgspec.Struct):
    """A Pod that has its namespace; `pod` is its newest form."""

    pod: Document
    has: PodHost
    ready: bool = True
    ends_at: float | None = None


class Pods:
    """The Pods on the lab's nodes; those on other nodes are left alone.

    Attributes:
        failures: what went wrong, for messages.
        listed: set when the Pods that there were at the start have what they need.
    """

    def __init__(self, api: Api, network: Network, servers: Servers, *, linger: float = LINGER) -> None:
        """Prepare; see `start`.

        Args:
            api: whose Pods.
            network: where their namespaces are made.
            servers: what answers in them.
            linger: seconds that a deleted Pod serves on.
        """
        self.failures: list[str] = []
        self.listed = threading.Event()
        self._api = api
        self._hosts = PodHosts(network, servers)
        self._linger = linger
        self._lock = threading.RLock()
        self._nodes: dict[str, PodNode] = {}
        self._running: dict[str, _Running] = {}
        self._bound: dict[str, str] = {}
        self._events: queue.SimpleQueue[tuple[str, Document]] = queue.SimpleQueue()
        self._follower = Follower(api, "/api/v1/pods", lambda kind, pod: self._events.put((kind, pod)))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lab pods", daemon=True)

    def start(self) -> None:
        """Begin to run Pods."""
        self._follower.start()
        self._thread.start()

    def close(self) -> None:
        """Let go of all Pods: their namespaces and servers stay as they are."""
        self._stopping.set()
        self._follower.close()
        if self._thread.is_alive():
            self._thread.join()

    def add_node(self, host: Host, pod_cidrs: Sequence[str]) -> None:
        """Let Pods run on a node."""
        node = self._hosts.node(host, pod_cidrs)
        with self._lock:
            self._nodes[host.name] = node
        self._follower.again()

    def remove_node(self, name: str) -> None:
        """End the Pods of a node at once, and run no more there."""
        with self._lock:
            for uid, running in list(self._running.items()):
                if running.pod["spec"]["nodeName"] == name:
                    self._end(uid)
            del self._nodes[name]

    def host(self, name: str, namespace: str = "default") -> Host:
        """Return the namespace of a Pod that runs.

        Raises:
            LabError: it does not run.
        """
        return self._find(name, namespace).has.host

    def servers_of(self, name: str, namespace: str = "default") -> tuple[Server, ...]:
        """Return the servers of a Pod that runs, to stop and start them behind the API server's back.

        Raises:
            LabError: it does not run.
        """
        return tuple(self._find(name, namespace).has.servers)

    def set_ready(self, name: str, *, ready: bool, namespace: str = "default") -> None:
        """Say whether a Pod is ready, as its readiness probe would; its server goes on.

        Raises:
            LabError: it does not run, or the API server refuses.
        """
        with self._lock:
            running = self._find(name, namespace)
            running.ready = ready
            self._write_status(running)

    def _find(self, name: str, namespace: str) -> _Running:
        with self._lock:
            for running in self._running.values():
                meta = running.pod["metadata"]
                if (meta["namespace"], meta["name"]) == (namespace, name):
                    return running
        raise LabError(f"Pod {namespace}/{name} does not run" + "".join(f"\n{line}" for line in self.failures[-3:]))

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                kind, found = self._events.get(timeout=_PAUSE)
            except queue.Empty:
                kind, found = "", {}
            with self._lock:
                for pod in found["items"] if kind == LISTED else [found] if found else []:
                    self._try_to_follow(kind, pod)
                if kind == LISTED:
                    self._forget_others({pod["metadata"]["uid"] for pod in found["items"]})
                    self.listed.set()
                self._end_what_is_due(time.monotonic())

    def _try_to_follow(self, kind: str, pod: Document) -> None:
        """Do what a Pod needs; what fails because the API server is away is done after the next list."""
        try:
            if kind == "DELETED":
                self._end(pod["metadata"]["uid"])
            else:
                self._follow(pod)
        except ApiAwayError:
            pass
        except ApiRefusedError as error:
            self._note(error)
        except (LabError, OSError, LookupError) as error:
            self._note_of(pod, error)

    def _follow(self, pod: Document) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        running = self._running.get(uid)
        if running is not None:
            running.pod = pod
        if documents.is_over(pod) or (node and node not in self._nodes):
            return
        if "deletionTimestamp" in pod["metadata"]:
            self._let_go(pod, running)
        elif not node:
            self._bind(pod)
        elif running is None:
            self._run(pod, self._nodes[node])
        elif pod["status"].get("phase") != "Running":
            self._write_status(running)

    def _bind(self, pod: Document) -> None:
        """Choose the node with the fewest Pods, the first of them in name order."""
        wanted = pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname")
        names = sorted(name for name in self._nodes if wanted in {None, name})
        if not names or pod["metadata"]["uid"] in self._bound:
            return
        taken = list(self._bound.values())
        chosen = min(names, key=taken.count)
        self._api.create(documents.path_of(pod) + "/binding", documents.binding(pod, chosen))
        self._bound[pod["metadata"]["uid"]] = chosen

    def _run(self, pod: Document, node: PodNode) -> None:
        uid = pod["metadata"]["uid"]
        self._bound[uid] = node.host.name
        running = _Running(pod, self._hosts.make(pod, node))
        self._running[uid] = running
        self._write_status(running)

    def _write_status(self, running: _Running) -> None:
        status = documents.running(
            running.pod,
            host_addresses=running.has.node.host.addresses,
            addresses=running.has.host.addresses,
            ready=running.ready,
            at=now(),
        )
        running.pod = self._api.patch(documents.path_of(running.pod) + "/status", {"status": status})

    def _let_go(self, pod: Document, running: _Running | None) -> None:
        grace = min(self._linger, pod["metadata"].get("deletionGracePeriodSeconds", 0))
        if running is None or grace <= 0:
            self._end(pod["metadata"]["uid"])
            self._delete(pod)
        elif running.ends_at is None:
            running.ends_at = time.monotonic() + grace

    def _end_what_is_due(self, at: float) -> None:
        for uid, running in list(self._running.items()):
            if running.ends_at is not None and running.ends_at <= at:
                self._end(uid)
                with contextlib.suppress(ApiAwayError):  # it is deleted after the next list then
                    self._delete(running.pod)

    def _delete(self, pod: Document) -> None:
        uid = pod["metadata"]["uid"]
        try:
            self._api.delete(documents.path_of(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
        except ApiRefusedError as error:
            self._note(error)

    def _note(self, refusal: ApiRefusedError) -> None:
        """Keep a refusal, unless it only says that the Pod was changed or deleted meanwhile."""
        if refusal.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            self.failures.append(str(refusal))

    def _note_of(self, pod: Document, error: Exception) -> None:
        self.failures.append(f"Pod {pod['metadata']['namespace']}/{pod['metadata']['name']}: {error}")

    def _end(self, uid: str) -> None:
        """Remove a Pod's server and namespace; what of that fails does not keep the Pod."""
        self._bound.pop(uid, None)
        running = self._running.pop(uid, None)
        if running is not None:
            try:
                self._hosts.remove(running.has)
            except (LabError, OSError) as error:
                self._note_of(running.pod, error)

    def _forget_others(self, uids: set[str]) -> None:
        for uid in set(self._running) - uids:
            self._end(uid)


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
