"""An API server in memory for what the operator writes, and time that a test moves on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman.sources.apiserver.client import ApiError
from support.api_memory import MemoryApi

if TYPE_CHECKING:
    import asyncio


class OperatorApi(MemoryApi):
    """As `MemoryApi`, with PUT, DELETE, `/status` and lists.

    Attributes:
        refusals: raised by the next writes, one each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[ApiError] = []

    async def get(self, path: str, params: object = None, accept: str = "") -> bytes:
        if path in self.objects or not path.endswith("s"):
            return await super().get(path, params)
        self._answer()
        items = [found for name, found in self.objects.items() if name.rpartition("/")[0] == path]
        return msgspec.json.encode({"metadata": {"resourceVersion": str(self._version)}, "items": items, "as": accept})

    async def post(self, path: str, body: Any) -> bytes:  # noqa: ANN401 -- JSON
        self._refuse()
        return await super().post(path, body)

    async def patch(self, path: str, body: Any, kind: str = "merge", params: object = None) -> bytes:  # noqa: ANN401 -- JSON
        self._refuse()
        path = path.removesuffix("/status")
        if kind != "json":
            return await super().patch(path, body, "merge", params)
        added = [{**each, "op": "add"} for each in body]
        return await super().patch(path, added, kind, params)

    async def replace(self, path: str, body: Any) -> bytes:  # noqa: ANN401 -- JSON
        self._answer()
        if self._find(path)["metadata"]["resourceVersion"] != body["metadata"].get("resourceVersion"):
            raise ApiError(409, "Conflict", f"{path} has been modified")
        self.writes.append(("put", path))
        self.put(path, body)
        return json.dumps(self.objects[path]).encode()

    async def delete(self, path: str, params: object = None, body: object = None) -> bytes:  # noqa: ARG002 -- the client's signature
        self._refuse()
        self._find(path)
        del self.objects[path]
        self.writes.append(("delete", path))
        return b"{}"

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)


class Puts:
    """The client that a replica has: as `OperatorApi`, with PUT as a request."""

    def __init__(self, api: OperatorApi) -> None:
        self.get, self.post, self.patch, self.put, self.delete = api.get, api.post, api.patch, api.replace, api.delete


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        assert seconds is not None or event.is_set(), "waits for ever"
        self.now += 0 if event.is_set() else seconds or 0
        return event.is_set()
