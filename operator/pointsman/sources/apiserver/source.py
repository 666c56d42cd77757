"""An API server as a source of objects: everything that a node's agent follows, in batches."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from pointsman.api.names import API_VERSION, WEIGHT_ANNOTATION
from pointsman.model.problems import Problem
from pointsman.sources.apiserver.backoff import SystemClock
from pointsman.sources.apiserver.link import Link, Reads
from pointsman.sources.apiserver.reflector import Reflector, Resource
from pointsman.sources.protocol import Batch, Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from pointsman.model.objects import Kind, ObjectKey
    from pointsman.model.parse import Object

_OURS: Final = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
_WRITTEN_BY_HAND: Final = "endpoints.kubernetes.io/managed-by!=endpoint-controller"
"""Endpoints that Kubernetes' own controller makes have slices for sure. Servers before 1.33 do not label them: there
all are followed, and the policy leaves out those of Services that have slices."""
_NOT_MIRRORED: Final = "endpointslice.kubernetes.io/skip-mirror!=true"
_GRACE: Final = 30.0
"""Seconds for which the first batch waits for a resource that can be done without and is refused."""


def resources(node_name: str) -> tuple[Resource, ...]:
    """Return what the agent of a node follows."""
    own = f"metadata.name={node_name}"
    return (
        Resource("Service", "/api/v1/services", labels=_OURS, required=True),
        Resource("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices", labels=_OURS, required=True),
        Resource("Endpoints", "/api/v1/endpoints", labels=f"{_OURS},{_WRITTEN_BY_HAND},{_NOT_MIRRORED}"),
        Resource("Node", "/api/v1/nodes", fields=own, required=True),
        Resource("Namespace", "/api/v1/namespaces"),
        Resource("ServiceCIDR", "/apis/networking.k8s.io/v1/servicecidrs"),
        Resource("NodeProxy", f"/apis/{API_VERSION}/nodeproxies", fields=own),
        # The label alone selects: Pods with the annotation, as manifests may have it, cannot be asked for by it.
        Resource("Pod", "/api/v1/pods", labels=WEIGHT_ANNOTATION),
    )


class ApiServerSource:
    """Follows Services, their endpoints, and what concerns one node.

    Args:
        client: connected.
        node_name: of the node.
        link: the connection, with time and chance; made here from `client` unless a test brings one.
    """

    def __init__(self, client: Reads, node_name: str, *, link: Link | None = None) -> None:
        self._link = link or Link(client, SystemClock(), random.SystemRandom())
        self._wake = asyncio.Event()
        self._changes: dict[ObjectKey, Object | None] = {}
        self._versions: dict[Kind, int] = {}
        self._problems: tuple[Problem, ...] = ()
        self._complete = False
        self._node_name = node_name
        self._has_node = False
        self._patient = True
        self._reflectors = tuple(Reflector(self._link, resource, self._take) for resource in resources(node_name))

    @property
    def outage(self) -> float | None:
        """Unix seconds since when the API server does not answer; None while it does."""
        return self._link.outage

    async def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then every change, until cancelled; may be used once.

        Nothing that the API server does or fails to do ends it.
        """
        tasks = [asyncio.create_task(part) for part in (self._link.run(), self._give_up_waiting())]
        tasks += [asyncio.create_task(reflector.run()) for reflector in self._reflectors]
        for task in tasks:
            task.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                _raise_faults(tasks)
                if (batch := self._batch()) is not None:
                    yield batch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            # Last come, last told: the order of changes is that of their last forms.
            self._changes.pop(change.key, None)
            self._changes[change.key] = change.obj
            if change.key.kind == "Node":
                self._has_node = change.obj is not None
        self._wake.set()

    def _batch(self) -> Batch | None:
        """Put everything that is new into one batch; None when nothing is."""
        changes = tuple(Change(key, obj) for key, obj in self._changes.items())
        self._changes = {}
        versions = {
            reflector.resource.kind: reflector.version
            for reflector in self._reflectors
            if reflector.version is not None and reflector.version != self._versions.get(reflector.resource.kind)
        }
        self._versions |= versions
        was, self._complete = self._complete, self._complete or all(map(self._has_told, self._reflectors))
        before, self._problems = (
            self._problems,
            (*self._missing(), *(p for part in self._reflectors for p in part.problems)),
        )
        problems = self._problems if self._problems != before else None
        if not changes and not versions and problems is None and was == self._complete:
            return None
        return Batch(changes, self._complete, problems, versions)

    def _missing(self) -> tuple[Problem, ...]:
        """Say that there is no such node: most likely its name is misspelled."""
        if self._has_node or not self._complete:
            return ()
        return (
            Problem(
                source="API server",
                object=f"Node {self._node_name}",
                field="",
                message="does not exist",
                remedy="name this node by --node-name as `kubectl get nodes` does",
                dropped="what follows from it: its configuration, addresses, zone and own endpoints",
            ),
        )

    def _has_told(self, reflector: Reflector) -> bool:
        unwilling = reflector.refused and not reflector.resource.required and not self._patient
        return reflector.listed or unwilling

    async def _give_up_waiting(self) -> None:
        """Do without what is refused, after a while: an API server that has just started refuses more than it will."""
        await self._link.clock.sleep(_GRACE)
        self._patient = False
        self._wake.set()


def _raise_faults(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
