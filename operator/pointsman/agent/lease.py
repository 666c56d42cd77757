"""A sign of life: each agent renews a Lease of its own, and the operator sees which agents are silent."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pointsman.agent.patience import ask
from pointsman.agent.writes import refused, uid_of
from pointsman.api.names import AGENT_LEASE_PREFIX
from pointsman.api.timestamps import rfc3339_micro
from pointsman.model.problems import Problem
from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
    from typing import Any

    from pointsman.agent.writes import Writes
    from pointsman.process.clock import Clock

DURATION: Final = 40
"""Seconds without renewal after which an agent counts as silent; as of the kubelet's own Leases."""
PERIOD: Final = 10.0
"""Seconds from one renewal to the next."""
_RETRY: Final = 2.0
"""Seconds until a renewal that was not answered is tried again."""
_GIVE_BACK: Final = 5.0
"""Seconds that the agent's end waits for it."""
_LABELS: Final = {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "agent"}


class LeaseKeeper:
    """Renews the Lease ``pointsman-agent-NODE``, and makes it when there is none.

    Args:
        client: of the API server.
        node_name: name of the node.
        namespace: where the Lease is.
        on_problems: told why there is no Lease now, if so. An API server that does not answer is no problem of the
            Lease; the source tells of it.
        clock: time.
        chance: for what agents shall not do at the same time.
    """

    def __init__(
        self,
        client: Writes,
        node_name: str,
        *,
        namespace: str,
        on_problems: Callable[[tuple[Problem, ...]], None],
        clock: Clock,
        chance: Random,
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._namespace = namespace
        self._name = f"{AGENT_LEASE_PREFIX}{node_name}"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._on_problems = on_problems
        self._clock = clock
        self._chance = chance

    async def run(self) -> None:
        """Renew until cancelled. The Lease stays then, and runs out by itself; its holder has left rules behind."""
        never = asyncio.Event()
        while True:
            pause = await self.renew()
            await self._clock.wait(never, pause * self._chance.uniform(0.9, 1.0))

    async def renew(self) -> float:
        """Renew the Lease once; return in how many seconds to do so again."""
        try:
            await self._renew_or_make()
        except ApiError as error:
            self._on_problems((self._problem(error),))
            return PERIOD
        except Unreachable:
            return _RETRY
        self._on_problems(())
        return PERIOD

    async def give_back(self) -> bool:
        """Leave the Lease without a holder: nothing of Pointsman is left on this node.

        Returns:
            Whether the API server has it.
        """
        path = f"{self._leases}/{self._name}"
        try:
            await ask(lambda: self._client.patch(path, {"spec": {"holderIdentity": ""}}), self._clock, _GIVE_BACK)
        except (ApiError, Unreachable, TimeoutError):
            return False
        return True

    async def _renew_or_make(self) -> None:
        spec = {
            "holderIdentity": self._node_name,
            "leaseDurationSeconds": DURATION,
            "renewTime": rfc3339_micro(self._clock.wall()),
        }
        try:
            await self._client.patch(f"{self._leases}/{self._name}", {"spec": spec}, kind="merge")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            await self._make(spec)

    async def _make(self, spec: dict[str, Any]) -> None:
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace, "labels": _LABELS}
        owner = await self._owner()
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        document = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        await self._client.post(self._leases, document)

    async def _owner(self) -> dict[str, Any] | None:
        """Point to the Node, so that the Lease goes with it; without a Node object it has no owner."""
        try:
            uid = uid_of(await self._client.get(f"/api/v1/nodes/{self._node_name}"))
        except ApiError:
            return None
        return {"apiVersion": "v1", "kind": "Node", "name": self._node_name, "uid": uid} if uid else None

    def _problem(self, error: ApiError) -> Problem:
        if error.status != HTTPStatus.NOT_FOUND:
            return refused(f"Lease {self._namespace}/{self._name}", error, "create and patch leases")
        return Problem(
            source="API server",
            object=f"Namespace {self._namespace}",
            field="",
            message="does not exist, so that the agent cannot keep its Lease there",
            remedy="create it, or name the operator's namespace by --namespace",
            dropped="the agent's sign of life",
        )
