"""An API server in memory: enough of it for the webhook's own objects, with what goes wrong between replicas."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pointsman.sources.apiserver.client import ApiError, Unreachable


class MemoryApi:
    """Objects by path; each write counts the resourceVersion up, and one of an older version is refused.

    Attributes:
        objects: what there is.
        writes: what was written, as (verb, path).
        is_away: it does not answer.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[tuple[str, str]] = []
        self.reads: list[str] = []
        self.is_away = False
        self._version = 0

    def put(self, path: str, document: dict[str, Any]) -> None:
        """Write as somebody else."""
        self._version += 1
        document = json.loads(json.dumps(document))
        document.setdefault("metadata", {})["resourceVersion"] = str(self._version)
        self.objects[path] = document

    async def get(self, path: str, params: object = None) -> bytes:  # noqa: ARG002 -- the client's signature
        self._answer()
        self.reads.append(path)
        return msgspec.json.encode(self._find(path))

    async def post(self, path: str, body: Any) -> bytes:  # noqa: ANN401 -- JSON
        self._answer()
        full = f"{path}/{body['metadata']['name']}"
        if full in self.objects:
            raise ApiError(409, "AlreadyExists", f"{full} already exists")
        self.writes.append(("post", full))
        self.put(full, body)
        return msgspec.json.encode(self.objects[full])

    async def patch(self, path: str, body: Any, kind: str = "merge", params: object = None) -> bytes:  # noqa: ANN401, ARG002 -- JSON; the client's signature
        self._answer()
        current = self._find(path)
        changed = _merged(current, body) if kind == "merge" else _edited(current, body)
        if changed["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", f"{path} has been modified")
        self.writes.append(("patch", path))
        self.put(path, changed)
        return msgspec.json.encode(self.objects[path])

    def _answer(self) -> None:
        if self.is_away:
            raise Unreachable("no answer")

    def _find(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return self.objects[path]


def _merged(current: Any, change: Any) -> Any:  # noqa: ANN401 -- JSON
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    base = current if isinstance(current, dict) else {}
    merged = {**base, **{key: _merged(base.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def _edited(current: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """Apply a JSON patch (RFC 6902): `test` and `add`."""
    edited: dict[str, Any] = json.loads(json.dumps(current))
    for operation in operations:
        *path, last = operation["path"].removeprefix("/").split("/")
        inside: Any = edited
        for step in path:
            inside = inside[int(step)] if isinstance(inside, list) else inside[step]
        if operation["op"] == "test" and inside[last] != operation["value"]:
            raise ApiError(422, "Invalid", "the test failed")
        if operation["op"] == "add":
            inside[last] = operation["value"]
    return edited
