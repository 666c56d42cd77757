"""Kubernetes events: what the owner of an object has to hear of, where `kubectl describe` shows it."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pointsman.agent.writes import uid_of
from pointsman.api.timestamps import rfc3339_micro
from pointsman.model.objects import ObjectKey
from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random
    from typing import Any

    from pointsman.agent.outcome import Facts
    from pointsman.agent.writes import Writes
    from pointsman.model.problems import Problem
    from pointsman.process.clock import Clock

_LOG: Final = logging.getLogger(__name__)
_AGAIN: Final = 3600.0
"""Seconds after which the same is told again: the API server forgets events after an hour."""
_RETRY: Final = 30.0
"""Seconds until an event is sent again that the API server did not take."""
_LASTING: Final = frozenset({400, 404, 409, 422})
"""Refusals for what the event says or whose it is: the same is refused again. All others may pass, as 429 or 503."""
_CONTROLLER: Final = "pointsman.dev/agent"
_CLUSTER_SCOPED: Final = "default"
"""Namespace of the events of objects that are in none, as the API server wants it."""
_MAX_NOTE: Final = 1024
"""Bytes of `note` that the API server takes."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of an object.

    Attributes:
        regarding: the object: a Service or a Node.
        kind: the event's `type`.
        reason: why, as one word for programs.
        action: what was tried, as one word for programs.
        note: what is wrong and what to do, or what is well again.
        repeats: it is told again each hour for as long as it holds.
        occasion: another number tells the same anew, as something else was the case in between.
    """

    regarding: ObjectKey
    kind: Literal["Warning", "Normal"] = "Warning"
    reason: str
    action: str
    note: str
    repeats: bool = True
    occasion: int = 0


class Events:
    """Sends each event once, and again after an hour while it holds.

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
        self._standing: dict[str, tuple[Event, ...]] = {}
        self._sent: dict[Event, float] = {}
        self._warned: dict[Event, str] = {}
        self._wake = asyncio.Event()

    def tell(self, origin: str, events: Iterable[Event]) -> None:
        """Take all that holds now at `origin`; returns at once."""
        now = tuple(events)
        if now != self._standing.get(origin, ()):
            self._standing[origin] = now
            self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            waiting = any(event.repeats or event not in self._sent for event in self._all())
            await self._clock.wait(self._wake, _RETRY if waiting else None)
            self._wake.clear()
            await self._send_all()

    def _all(self) -> Iterator[Event]:
        for events in self._standing.values():
            yield from events

    async def _send_all(self) -> None:
        now = self._clock.monotonic()
        standing = list(self._all())
        done = {event for event in standing if not event.repeats}
        self._sent = {event: at for event, at in self._sent.items() if now - at < _AGAIN or event in done}
        for event in standing:
            if event in self._sent:
                continue
            try:
                await self._post(event)
            except Unreachable:
                return
            except ApiError as error:
                self._warn(event, str(error))
                if error.status not in _LASTING:
                    continue
            self._sent[event] = now

    def _warn(self, event: Event, trouble: str) -> None:
        """Log a refusal, once as long as it stays the same."""
        standing = set(self._all())
        self._warned = {each: words for each, words in self._warned.items() if each in standing}
        if self._warned.get(event) != trouble:
            self._warned[event] = trouble
            _LOG.warning("the event on %s was refused: %s", event.regarding, trouble)

    async def _post(self, event: Event) -> None:
        key = event.regarding
        namespace = key.namespace or _CLUSTER_SCOPED
        regarding: dict[str, Any] = {"apiVersion": "v1", "kind": key.kind, "name": key.name}
        regarding |= {"namespace": key.namespace} if key.namespace else {}
        document = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # As client-go names them: the object, and something that no other event has.
            "metadata": {
                "namespace": namespace,
                "name": f"{key.name[:200].rstrip('-.')}.{self._chance.getrandbits(64):016x}",
            },
            "eventTime": rfc3339_micro(self._clock.wall()),
            "reportingController": _CONTROLLER,
            "reportingInstance": f"pointsman-agent-{self._node_name}"[:128],
            "action": event.action,
            "reason": event.reason,
            "type": event.kind,
            "regarding": regarding | await self._uid(key),
            "note": _cut(event.note),
        }
        await self._client.post(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", document)

    async def _uid(self, key: ObjectKey) -> dict[str, str]:
        """Look up the object's uid, by which `kubectl describe` finds its events."""
        place = f"namespaces/{key.namespace}/services" if key.kind == "Service" else "nodes"
        try:
            uid = uid_of(await self._client.get(f"/api/v1/{place}/{key.name}"))
        except ApiError as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
                raise
            return {}
        return {"uid": uid} if uid else {}


def failed_check(node_name: str, service: str, problem: Problem) -> Event:
    """Say that a Service's health check port cannot be opened; reason and action are kube-proxy's.

    Args:
        node_name: where.
        service: its ``namespace/name``.
        problem: its message begins with the reason and a colon.
    """
    namespace, _, name = service.partition("/")
    reason, _, message = problem.message.partition(": ")
    return Event(
        regarding=ObjectKey("Service", namespace, name),
        reason=reason,
        action="Listen",
        note=f"node {node_name}: {message}; {problem.remedy}",
    )


class ModeNews:
    """Says on the Node when another mode than the wanted one is in force, and when that is over."""

    def __init__(self, node_name: str) -> None:
        self._node = ObjectKey("Node", "", node_name)
        self._fell_back = False
        self._changes = 0

    def event(self, facts: Facts) -> Event | None:
        """Return what holds after a sync; None as long as the mode was always the wanted one."""
        falls_back = facts.wanted is not None and facts.wanted != facts.mode
        if falls_back != self._fell_back:
            self._fell_back = falls_back
            self._changes += 1
        if falls_back:
            return Event(
                regarding=self._node,
                reason="ProxyModeFellBack",
                action="ChooseMode",
                note=f"mode {facts.wanted} is wanted, mode {facts.mode} is in force; {facts.why}",
                occasion=self._changes,
            )
        if not self._changes:
            return None
        return Event(
            regarding=self._node,
            kind="Normal",
            reason="ProxyModeInForce",
            action="ChooseMode",
            note=f"mode {facts.mode} is in force, as the configuration says",
            repeats=False,
            occasion=self._changes,
        )


def _cut(note: str) -> str:
    return note.encode()[: _MAX_NOTE - 1].decode(errors="ignore")
