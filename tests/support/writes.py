"""An API server in memory that takes what an agent writes."""

from __future__ import annotations

import copy
import heapq
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman.sources.apiserver.client import ApiError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping


class FakeWrites:
    """Objects by path, changed by merge patches as RFC 7396 says.

    Attributes:
        objects: what there is.
        calls: (time, verb, path, body) of every write.
        failures: raised by the next calls, one each; None lets one through.
        faults: raised by the next reads of a path, one each.
    """

    def __init__(self, clock: ScriptedClock) -> None:
        self._clock = clock
        self.objects: dict[str, Any] = {}
        self.calls: list[tuple[float, str, str, Any]] = []
        self.failures: list[Exception | None] = []
        self.faults: dict[str, list[Exception]] = {}

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        assert params is None
        if faults := self.faults.get(path):
            raise faults.pop(0)
        return msgspec.json.encode(self._find(path))

    async def post(self, path: str, body: Any) -> bytes:  # noqa: ANN401 (plain data)
        self._note("post", path, body)
        self.objects[f"{path}/{body['metadata']['name']}"] = copy.deepcopy(body)
        return msgspec.json.encode(body)

    async def patch(
        self, path: str, body: Any, kind: str = "merge", params: Mapping[str, str] | None = None  # noqa: ANN401 (as above)
    ) -> bytes:  # fmt: skip
        assert (kind, params) == ("merge", None)
        self._note("patch", path, body)
        found = self._find(path.removesuffix("/status"))
        _merge(found, body)
        return msgspec.json.encode(found)

    def _note(self, verb: str, path: str, body: object) -> None:
        self.calls.append((round(self._clock.now, 3), verb, path, copy.deepcopy(body)))
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure

    def _find(self, path: str) -> Any:  # noqa: ANN401 (as above)
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return self.objects[path]


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


class OverError(Exception):
    """The script has come to its end."""


class ScriptedClock:
    """Goes on only when somebody waits, to the next thing that happens; `OverError` at `end`."""

    def __init__(self, end: float) -> None:
        self.now = 0.0
        self.end = end
        self._script: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, time: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._script, (time, len(self._script), action))

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        until = min(self.end, self.end if seconds is None else self.now + max(seconds, 0.0))
        while not event.is_set() and self.now < until:
            if self._script and self._script[0][0] <= until:
                time, _, action = heapq.heappop(self._script)
                self.now = max(self.now, time)
                action()
            else:
                self.now = until
        if self.now >= self.end:
            raise OverError
        return event.is_set()
