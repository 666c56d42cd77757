"""An API server in memory that can be listed and watched, and that misbehaves on request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

Document = dict[str, Any]


class Watched:
    """Objects by path of their list; every write is an event with a resourceVersion of its own.

    Selectors are not looked at. Tokens of pages are numbers of objects.

    Attributes:
        streams: it knows sendInitialEvents.
        ends_lists: it tells the end of the initial events.
        page: how many objects a page holds at most.
        failures: by path: raised by the next requests for it, one each; None lets one through.
        refusals: by path: raised by every request for it.
        is_away: nothing can be reached.
        hangs: nothing is answered, and nothing more is sent.
        requests: (verb, path, parameters) of every request.
    """

    server = "http://memory"

    def __init__(self, *, streams: bool = True) -> None:
        self.streams = streams
        self.ends_lists = True
        self.page = 2
        self.failures: dict[str, list[Exception | None]] = {}
        self.refusals: dict[str, Exception] = {}
        self.is_away = False
        self.hangs = False
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.objects: dict[str, dict[str, Document]] = {}
        self._version = 10
        self._compacted = 0
        self._events: list[tuple[int, str, bytes]] = []
        self._watches: list[tuple[str, asyncio.Queue[bytes | Exception | None]]] = []

    @property
    def version(self) -> int:
        return self._version

    def put(self, path: str, name: str, **fields: Any) -> None:  # noqa: ANN401 (JSON)
        """Make or change an object."""
        self._version += 1
        objects = self.objects.setdefault(path, {})
        metadata = {"name": name, "resourceVersion": str(self._version), **fields.pop("metadata", {})}
        event = "MODIFIED" if name in objects else "ADDED"
        objects[name] = {**fields, "metadata": metadata}
        self._send(path, event, objects[name])

    def remove(self, path: str, name: str) -> None:
        """Delete an object."""
        self._version += 1
        gone = self.objects[path].pop(name)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._send(path, "DELETED", gone)

    def compact(self) -> None:
        """Forget all events: who comes with an old version is told 410."""
        self._compacted = self._version
        self._events.clear()

    def bookmark(self, path: str) -> None:
        """Tell the watches of a list how far they are."""
        self._version += 1
        self.line(path, _event("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}}))

    def line(self, path: str, line: bytes) -> None:
        """Send a line to the watches of a list."""
        for watched, queue in self._watches:
            if watched == path:
                queue.put_nowait(line)

    def error(self, path: str, code: int, reason: str = "", message: str = "") -> None:
        """Send an ERROR event to the watches of a list."""
        self.line(path, _event("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": message}))

    def drop(self, error: Exception | None = None) -> None:
        """End all watches: as the server does at the end of their time, or by an error."""
        for _, queue in self._watches:
            queue.put_nowait(error)

    def watches(self, path: str) -> int:
        """Count the open watches of a list."""
        return sum(watched == path for watched, _ in self._watches)

    def asked(self, path: str) -> list[str]:
        """Say what was asked for of a list: ``stream``, ``watch VERSION``, ``list``, ``list LIMIT TOKEN``."""
        return [_asked(verb, params) for verb, asked, params in self.requests if asked == path]

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        params = dict(params or {})
        await self._answer("get", path, params)
        if path == "/version":
            return b"{}"
        objects = list(self.objects.get(path, {}).values())
        start = int(params.get("continue", 0))
        size = min(int(params["limit"]), self.page) if "limit" in params else len(objects)
        rest = str(start + size) if start + size < len(objects) else ""
        metadata = {"resourceVersion": str(self._version), "continue": rest}
        return json.dumps({"metadata": metadata, "items": objects[start : start + size]}).encode()

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes]:
        await self._answer("watch", path, dict(params))
        queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        if "sendInitialEvents" in params:
            self._begin_stream(path, queue)
        else:
            since = int(params["resourceVersion"])
            if since < self._compacted:
                queue.put_nowait(_event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
            for version, told, line in self._events:
                if told == path and version > since:
                    queue.put_nowait(line)
        entry = (path, queue)
        self._watches.append(entry)
        try:
            while (line := await queue.get()) is not None:
                if isinstance(line, Exception):
                    raise line
                if self.hangs:
                    await asyncio.Event().wait()
                yield line
        finally:
            self._watches.remove(entry)

    def _begin_stream(self, path: str, queue: asyncio.Queue[bytes | Exception | None]) -> None:
        if not self.streams:
            raise ApiError(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch")
        for document in self.objects.get(path, {}).values():
            queue.put_nowait(_event("ADDED", document))
        end = {"resourceVersion": str(self._version), "annotations": {"k8s.io/initial-events-end": "true"}}
        if self.ends_lists:
            queue.put_nowait(_event("BOOKMARK", {"metadata": end}))

    async def _answer(self, verb: str, path: str, params: dict[str, str]) -> None:
        self.requests.append((verb, path, params))
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise Unreachable("http://memory: connection refused")
        if (failures := self.failures.get(path)) and (failure := failures.pop(0)) is not None:
            raise failure
        if path in self.refusals:
            raise self.refusals[path]

    def _send(self, path: str, event: str, document: Document) -> None:
        line = _event(event, document)
        self._events.append((self._version, path, line))
        self.line(path, line)


def _event(event: str, document: Document) -> bytes:
    return json.dumps({"type": event, "object": document}).encode()


def _asked(verb: str, params: Mapping[str, str]) -> str:
    if "sendInitialEvents" in params:
        return "stream"
    if verb == "watch":
        return f"watch {params['resourceVersion']}"
    return " ".join(("list", *(params[name] for name in ("limit", "continue") if name in params)))
