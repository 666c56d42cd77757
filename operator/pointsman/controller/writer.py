"""Doing what was decided: each action is one request to the API server, and its answer goes into the view.

What the API server refuses is told and left: the next decision says it again if it is still due. A conflict (somebody
wrote meanwhile) and an object that is gone are no failures: the view is brought up to date, and the decision made anew.
"""

from __future__ import annotations

import hashlib
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import pydantic

from pointsman.api.names import API_VERSION
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.proxyconfig import ProxyConfig
from pointsman.api.timestamps import rfc3339_micro
from pointsman.controller import actions as do
from pointsman.controller.conditions import PROGRAMMED
from pointsman.model.kinds import BY_KIND
from pointsman.model.objects import ObjectKey
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.api.resource import Part
    from pointsman.controller.actions import Action
    from pointsman.controller.view import View
    from pointsman.process.clock import Clock
    from pointsman.sources.apiserver.client import ApiClient

_PROXIES: Final = f"/apis/{API_VERSION}/nodeproxies"
_CONFIGS: Final = f"/apis/{API_VERSION}/proxyconfigs"
MANAGER: Final = "pointsman-operator"
"""Field manager of what is applied; also the controller that events name."""
_MAX_NOTE: Final = 1024
"""Bytes of `note` that the API server takes."""
_SHORTEST: Final = 1.0
_LONGEST: Final = 60.0
"""Seconds until a write that was refused is tried again; others go on meanwhile."""
_MANY: Final = 10_000
_LOG: Final = logging.getLogger(__name__)
Outcome = Literal["done", "conflict", "failed"]
"""What became of a request that was sent. `conflict`: somebody wrote meanwhile, or the object is gone."""


class _Refused(NamedTuple):
    """A write that the API server refused: its words, until when to leave it, and for how long that is."""

    said: str
    until: float
    pause: float


class Writer:
    """Does actions.

    Args:
        client: speaks to the API server.
        view: gets what it answers.
        identity: of this replica, for events.
        clock: time.
        is_allowed: asked before each write: a replica that does not lead any more must not write.
        count: told of each request that was sent what became of it.
    """

    def __init__(
        self,
        client: ApiClient,
        view: View,
        identity: str,
        clock: Clock,
        is_allowed: Callable[[], bool],
        *,
        count: Callable[[Outcome], None],
    ) -> None:
        self._client = client
        self._view = view
        self._identity = identity
        self._clock = clock
        self._is_allowed = is_allowed
        self._count = count
        self._refused: dict[str, _Refused] = {}

    async def carry_out(self, action: Action) -> bool:
        """Do one action; tell whether it is done, or need not be any more.

        Raises:
            Unreachable: the API server does not answer.
            SourceError: the credentials cannot be read any more.
            msgspec.DecodeError: the answer cannot be read.
        """
        if not self._is_allowed():
            return False
        what = _named(action)
        refused = self._refused.get(what)
        if refused is not None and self._clock.monotonic() < refused.until:
            return False
        try:
            await self._send(action)
        except ApiError as error:
            return await self._settle(action, what, error)
        except (Unreachable, SourceError, msgspec.DecodeError):
            self._count("failed")
            raise
        self._count("done")
        self._refused.pop(what, None)
        return True

    async def _settle(self, action: Action, what: str, error: ApiError) -> bool:
        """Take a refusal; tell whether that settles the action."""
        if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            self._count("conflict")
            await self._refresh(action)
            return True
        self._count("failed")
        before = self._refused.get(what, _Refused("", 0.0, _SHORTEST / 2))
        if before.said != str(error):
            _LOG.warning("cannot %s: %s; it is tried again", what, error)
        pause = min(before.pause * 2, _LONGEST)
        self._forget(_MANY)
        self._refused[what] = _Refused(str(error), self._clock.monotonic() + pause, pause)
        return False

    def _forget(self, most: int) -> None:
        """Keep the newest refusals alone: objects that are gone are not asked for again."""
        while len(self._refused) >= most:
            del self._refused[next(iter(self._refused))]

    async def _refresh(self, action: Action) -> None:
        """Bring the view up to date with what the action was about."""
        match action:
            case do.CreateNodeProxy() | do.UpdateNodeProxy() | do.DeleteNodeProxy() | do.PatchNodeProxyStatus():
                await self._reread("NodeProxy", _PROXIES, action.node)
            case do.PatchProxyConfigStatus():
                await self._reread("ProxyConfig", _CONFIGS, action.name)
            case do.PatchServiceCondition() | do.SendEvent():
                pass  # an event that is there has been told; a Service that is gone leaves the view by its watch

    async def _reread(self, kind: str, path: str, name: str) -> None:
        try:
            self._take(kind, await self._client.get(f"{path}/{name}"))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                self._view.remove(ObjectKey(BY_KIND[kind].kind, "", name))

    async def _send(self, action: Action) -> None:
        match action:
            case do.CreateNodeProxy():
                self._take("NodeProxy", await self._client.post(_PROXIES, _node_proxy(action)))
            case do.UpdateNodeProxy():
                patch = [
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": str(action.resource_version)},
                    {"op": "add", "path": "/spec", "value": written(action.spec)},
                ]
                self._take("NodeProxy", await self._client.patch(f"{_PROXIES}/{action.node}", patch, kind="json"))
            case do.DeleteNodeProxy():
                await self._client.delete(f"{_PROXIES}/{action.node}")
                self._view.remove(ObjectKey("NodeProxy", "", action.node))
            case do.PatchProxyConfigStatus():
                status = [{"op": "add", "path": "/status", "value": written(action.status)}]
                path = f"{_CONFIGS}/{action.name}/status"
                self._take("ProxyConfig", await self._client.patch(path, status, kind="json"))
            case do.PatchNodeProxyStatus():
                path = f"{_PROXIES}/{action.node}/status"
                self._take("NodeProxy", await self._client.patch(path, _silence(action), kind="merge"))
            case do.PatchServiceCondition():
                await self._condition(action)
            case do.SendEvent():
                namespace = action.regarding.namespace or "default"
                await self._client.post(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", self._event(action))

    async def _condition(self, action: do.PatchServiceCondition) -> None:
        """Apply the condition: server-side apply leaves the others alone, and takes away what is not said any more."""
        path = f"/api/v1/namespaces/{action.namespace}/services/{action.name}/status"
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": action.namespace, "name": action.name},
            "status": {"conditions": [written(action.condition)]} if action.condition is not None else {},
        }
        answer = await self._client.patch(path, body, "apply", {"fieldManager": MANAGER, "force": "true"})
        self._view.put_condition(ObjectKey("Service", action.namespace, action.name), *programmed(answer))

    def _take(self, kind: str, answer: bytes) -> None:
        """Put an object that the API server answered into the view."""
        plain = msgspec.json.decode(answer)
        reader = NodeProxy if kind == "NodeProxy" else ProxyConfig
        try:
            obj = reader.read(plain)
        except pydantic.ValidationError:
            return  # told where it is followed
        version = str(plain.get("metadata", {}).get("resourceVersion", ""))
        self._view.put(obj, int(version) if version.isdecimal() else 0)

    def _event(self, action: do.SendEvent) -> dict[str, Any]:
        regarding = action.regarding
        digest = hashlib.sha256(action.key.encode()).hexdigest()[:16]
        api_version = BY_KIND[regarding.kind].api_versions[0]
        about = {"apiVersion": api_version, "kind": regarding.kind, "name": regarding.name, "uid": action.uid}
        about["namespace"] = regarding.namespace
        namespace = regarding.namespace or "default"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": namespace, "name": f"{regarding.name[:200].rstrip('-.')}.{digest}"},
            "eventTime": rfc3339_micro(self._clock.wall()),
            "reportingController": f"pointsman.dev/{MANAGER.removeprefix('pointsman-')}",
            "reportingInstance": self._identity[:128],
            "action": "Reconcile",
            "reason": action.reason,
            "type": "Warning",
            "regarding": {name: value for name, value in about.items() if value},
            "note": action.message.encode()[:_MAX_NOTE].decode(errors="ignore"),
        }


def written(part: Part) -> dict[str, Any]:
    """Write a part of an object as the API server has it."""
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Service(msgspec.Struct):
    metadata: _Metadata
    status: _Status | None = None


def programmed(service: bytes) -> tuple[str, int]:
    """Return the status of a Service's condition `pointsman.dev/Programmed` ("" for none), and its resourceVersion."""
    read = msgspec.json.decode(service, type=_Service)
    conditions = (read.status or _Status()).conditions or ()
    version = read.metadata.resource_version
    status = next((each.status for each in conditions if each.type == PROGRAMMED), "")
    return status, int(version) if version.isdecimal() else 0


def _node_proxy(action: do.CreateNodeProxy) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Node", "name": action.node, "uid": action.node_uid}
    return {
        "apiVersion": API_VERSION,
        "kind": "NodeProxy",
        "metadata": {"name": action.node, "ownerReferences": [owner]},
        "spec": written(action.spec),
    }


def _silence(action: do.PatchNodeProxyStatus) -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": str(action.resource_version)},
        "status": {"conditions": [written(condition) for condition in action.conditions]},
    }


def _named(action: Action) -> str:
    """Say for people what an action is."""
    match action:
        case do.CreateNodeProxy() | do.UpdateNodeProxy() | do.DeleteNodeProxy():
            said = f"{type(action).__name__.removesuffix('NodeProxy').lower()} NodeProxy {action.node}"
        case do.PatchProxyConfigStatus():
            said = f"write the status of ProxyConfig {action.name}"
        case do.PatchNodeProxyStatus():
            said = f"write the status of NodeProxy {action.node}"
        case do.PatchServiceCondition():
            said = f"write the condition {PROGRAMMED} of Service {action.namespace}/{action.name}"
        case do.SendEvent():
            said = f"send the event {action.reason} on {action.regarding.kind} {action.regarding.name}"
    return said
