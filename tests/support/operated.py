"""A live cluster as the operator leads it: its configurations, its NodeProxies, and every write there was."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pointsman.lab.controlplane.plane import KubectlError
from support.scenes import PATIENCE, configuration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster
    from support.scenes import Document

PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
CONFIGS = "/apis/pointsman.dev/v1alpha1/proxyconfigs"
SERVICES = "/api/v1/namespaces/default/services"


def said(document: Document | None, kind: str) -> tuple[str, str]:
    """Return status and reason of a condition; empty ones when it is not there."""
    for found in ((document or {}).get("status") or {}).get("conditions", ()):
        if found["type"] == kind:
            return found["status"], found["reason"]
    return "", ""


def message(document: Document, kind: str) -> str:
    """Return what a condition says to people."""
    return "".join(each["message"] for each in document["status"]["conditions"] if each["type"] == kind)


def proxy(cluster: LiveCluster, node: str) -> Document:
    """Read a NodeProxy."""
    found: Document = cluster.plane.api.get(f"{PROXIES}/{node}")
    return found


def config(cluster: LiveCluster, name: str = "default") -> Document:
    """Read a ProxyConfig."""
    found: Document = cluster.plane.api.get(f"{CONFIGS}/{name}")
    return found


def specs(cluster: LiveCluster, field: str) -> dict[str, Any]:
    """Return a field of each NodeProxy's spec, by node."""
    return {each["metadata"]["name"]: each["spec"].get(field) for each in cluster.plane.api.get(PROXIES)["items"]}


def is_complete(document: Document) -> bool:
    """Tell whether a ProxyConfig's newest form is in force on each of its nodes."""
    observed = document.get("status", {}).get("observedGeneration") == document["metadata"]["generation"]
    ready, progressing = said(document, "Ready"), said(document, "Progressing")
    return observed and ready == ("True", "AllNodesReady") and progressing == ("False", "Complete")


def wait_until_complete(cluster: LiveCluster, name: str = "default", *, patience: float = PATIENCE) -> Document:
    """Wait until a ProxyConfig is in force everywhere; return it."""
    seen: list[Document] = []

    def done() -> bool:
        seen[:] = [config(cluster, name)]
        return is_complete(seen[0])

    cluster.wait_until(done, lambda: f"ProxyConfig {name} in force: {seen[0].get('status')}", patience=patience)
    return seen[0]


def replace(cluster: LiveCluster, **spec: object) -> None:
    """Write the ProxyConfig ``default`` anew: what it began with, and some fields more."""
    document = json.dumps(configuration(cluster, **spec))

    def written() -> bool:
        done = cluster.plane.try_kubectl("replace", "-f", "-", stdin=document)
        if done.returncode and "(Conflict)" not in done.stderr:
            raise KubectlError(("replace",), done)
        return not done.returncode

    # kubectl replaces the version that it has just read; the operator may write a status in between.
    cluster.wait_until(written, lambda: "ProxyConfig default written without a conflict", patience=PATIENCE)


@contextmanager
def configured(cluster: LiveCluster, **spec: object) -> Iterator[None]:
    """Change the ProxyConfig ``default`` and wait until it is in force; put it back at the end."""
    try:
        replace(cluster, **spec)
        wait_until_complete(cluster)
        yield
    finally:
        restore(cluster)


def restore(cluster: LiveCluster) -> None:
    """Put the ProxyConfig ``default`` back, and wait until it is in force."""
    replace(cluster)
    wait_until_complete(cluster)


def restart_operator(cluster: LiveCluster) -> None:
    """Kill every replica (SIGKILL) and start it again, and wait until the new one has decided on all that there is.

    That it has is seen by a ProxyConfig for no node, which gets a status.
    """
    for replica in cluster.operators.replicas:
        replica.kill()
    for replica in cluster.operators.replicas:
        replica.start()
    for replica in cluster.operators.replicas:
        replica.wait_until_ready()
    nowhere: Document = {
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "ProxyConfig",
        "metadata": {"name": "nowhere"},
        "spec": {"nodeSelector": {"matchLabels": {"pointsman-test": "nowhere"}}},
    }
    cluster.plane.api.create(CONFIGS, nowhere)
    try:
        is_decided = ("False", "NoNodes")
        cluster.wait_until(
            lambda: said(config(cluster, "nowhere"), "Ready") == is_decided, "the operator to lead", patience=PATIENCE
        )
    finally:
        cluster.plane.api.delete(f"{CONFIGS}/nowhere")


class Record:
    """Every write to the objects of a list, from the making of this object on."""

    def __init__(self, cluster: LiveCluster, path: str) -> None:
        self._api = cluster.plane.api
        self._path = path
        self._since = self._api.get(path)["metadata"]["resourceVersion"]

    def events(self, *, seconds: int = 0) -> list[Document]:
        """Return the watch events until now, in their order.

        Args:
            seconds: how long to wait for more, once those until now are known.
        """
        now = int(self._api.get(self._path)["metadata"]["resourceVersion"])
        query = {"resourceVersion": self._since, "timeoutSeconds": str(max(seconds, 1))}
        found = list(self._api.watch(self._path, query, timeout=seconds + 10))
        if seconds:
            return found
        return [each for each in found if int(each["object"]["metadata"]["resourceVersion"]) <= now]


def names(events: Iterable[Document]) -> list[str]:
    """Return of whom events tell."""
    return [each["object"]["metadata"]["name"] for each in events]
