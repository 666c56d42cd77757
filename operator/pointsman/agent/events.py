"""Kubernetes events: what the owner of a Service has to hear of, where `kubectl describe service` shows it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pointsman.agent.writes import uid_of
from pointsman.api.timestamps import rfc3339_micro
from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random
    from typing import Any

    from pointsman.agent.writes import Writes
    from pointsman.model.problems import Problem
    from pointsman.process.clock import Clock

_LOG: Final = logging.getLogger(__name__)
_AGAIN: Final = 3600.0
"""Seconds after which the same is told again: the API server forgets events after an hour."""
_RETRY: Final = 30.0
"""Seconds until an event is sent again that the API server did not take."""
_CONTROLLER: Final = "pointsman.dev/agent"
_MAX_NOTE: Final = 1024
"""Bytes of `note` that the API server takes."""


class ServiceEvents:
    """Sends a Warning for each Service whose health check port cannot be opened: once, and again after an hour.

    Reason and action are kube-proxy's.

    Args:
        client: of the API server.
        node_name: name of the node.
        clock: time.
        chance: for the events' names.
    """

    def __init__(self, client: Writes, node_name: str, clock: Clock, chance: Random) -> None:
        self._client = client
        self._node_name = node_name
        self._clock = clock
        self._chance = chance
        self._failed: Mapping[str, Problem] = {}
        self._sent: dict[tuple[str, str], float] = {}
        self._wake = asyncio.Event()

    def tell(self, failed: Mapping[str, Problem]) -> None:
        """Take all ports that cannot be opened now, by ``namespace/name`` of the Service; returns at once."""
        self._failed = failed
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._clock.wait(self._wake, _RETRY if self._failed else None)
            self._wake.clear()
            await self._send_all()

    async def _send_all(self) -> None:
        now = self._clock.monotonic()
        self._sent = {what: at for what, at in self._sent.items() if now - at < _AGAIN}
        for name, problem in list(self._failed.items()):
            if (name, problem.message) in self._sent:
                continue
            try:
                await self._post(name, problem)
            except Unreachable:
                return
            except ApiError as error:
                _LOG.warning("the event on Service %s was refused: %s", name, error)
            self._sent[name, problem.message] = now

    async def _post(self, service: str, problem: Problem) -> None:
        namespace, _, name = service.partition("/")
        regarding: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name}
        regarding |= await self._uid(namespace, name)
        reason, _, message = problem.message.partition(": ")
        document = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # As client-go names them: the object, and something that no other event has.
            "metadata": {
                "namespace": namespace,
                "name": f"{name[:200].rstrip('-.')}.{self._chance.getrandbits(64):016x}",
            },
            "eventTime": rfc3339_micro(self._clock.wall()),
            "reportingController": _CONTROLLER,
            "reportingInstance": f"pointsman-agent-{self._node_name}"[:128],
            "action": "Listen",
            "reason": reason,
            "type": "Warning",
            "regarding": regarding,
            "note": _cut(f"node {self._node_name}: {message}; {problem.remedy}"),
        }
        await self._client.post(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", document)

    async def _uid(self, namespace: str, name: str) -> dict[str, str]:
        """Look up the Service's uid, by which `kubectl describe` finds its events."""
        try:
            uid = uid_of(await self._client.get(f"/api/v1/namespaces/{namespace}/services/{name}"))
        except ApiError:
            return {}
        return {"uid": uid} if uid else {}


def _cut(note: str) -> str:
    return note.encode()[: _MAX_NOTE - 1].decode(errors="ignore")
