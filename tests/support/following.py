"""Following an API server in memory, with time that goes fast."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from pointsman.sources.apiserver.link import Link
from pointsman.sources.apiserver.reflector import Reflector, Resource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pointsman.model.objects import ObjectKey
    from pointsman.model.parse import Object
    from pointsman.sources.protocol import Change
    from support.watched import Watched

NAMESPACES = "/api/v1/namespaces"


class QuickClock:
    """A second of a pause takes a millisecond.

    Attributes:
        slept: all pauses, in seconds.
        now: Unix seconds.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.now = 1e9

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(seconds / 1000)


class Follower:
    """One reflector and what it told.

    Attributes:
        objects: what there is, as far as it was told.
        told: every change, as ``+name`` or ``-name``.
    """

    def __init__(self, server: Watched, resource: Resource | None = None) -> None:
        self.clock = QuickClock()
        self.link = Link(server, self.clock, random.Random(1), period=0.05, patience=0.1)  # noqa: S311 (no secret)
        self.reflector = Reflector(self.link, resource or Resource("Namespace", NAMESPACES), self._take)
        self.objects: dict[ObjectKey, Object] = {}
        self.told: list[str] = []

    def names(self) -> set[str]:
        return {key.name for key in self.objects}

    def problems(self) -> str:
        return "\n".join(map(str, self.reflector.problems))

    def _take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.obj is None:
                self.told.append(f"-{change.key.name}")
                self.objects.pop(change.key, None)
            else:
                self.told.append(f"+{change.key.name}")
                self.objects[change.key] = change.obj


def follow(follower: Follower, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario while the reflector and its link run."""

    async def main() -> None:
        tasks = [asyncio.create_task(part) for part in (follower.link.run(), follower.reflector.run())]
        try:
            async with asyncio.timeout(10):
                await scenario()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def until(done: Callable[[], object]) -> None:
    """Wait for something that happens soon."""
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 (memory has no event to wait for)
            await asyncio.sleep(0.001)
