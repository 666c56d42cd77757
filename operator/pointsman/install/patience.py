"""Requests that are repeated while the API server is away, until there is no time left."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pointsman.sources.apiserver.client import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pointsman.process.clock import Clock
    from pointsman.sources.apiserver.client import PatchKind

T = TypeVar("T")
_UNKNOWN: Final = frozenset({401, 403})
"""Of an API server that has just started, too, or to which the rights have come just now: it knows no roles yet."""
_LEARNS: Final = 5.0
"""Seconds in which it gets to know them."""
_STARTS: Final = 30.0
"""Seconds in which one gets to know them that was away before."""
_PAUSE: Final = 1.0
"""Seconds from one try to the next."""
_ONE_TRY: Final = 10.0
"""Seconds that one request may take."""


class InstallError(Exception):
    """It was not done; the message says why and what to do."""


class Requests(Protocol):
    """What is needed of `pointsman.sources.apiserver.client.ApiClient`."""

    @property
    def server(self) -> str:
        """The API server's URL."""
        ...

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Read an object or a list."""
        ...

    async def patch(
        self, path: str, body: object, kind: PatchKind = "merge", params: Mapping[str, str] | None = None
    ) -> bytes:
        """Change an object."""
        ...

    async def delete(self, path: str, params: Mapping[str, str] | None = None, body: object = None) -> bytes:
        """Delete an object."""
        ...


class Patience:
    """The time that there is for something, and requests that make use of it.

    Args:
        clock: time.
        seconds: how much there is.
        say: told why something takes its time.
    """

    def __init__(self, clock: Clock, seconds: float, say: Callable[[str], None]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock.monotonic() + seconds
        self._say = say
        self._said = ""
        self._refused_at: float | None = None
        self._learns = _LEARNS
        self._never = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self._clock.monotonic() >= self._end

    async def pause(self) -> None:
        """Wait a little."""
        await self._clock.wait(self._never, _PAUSE)

    async def ask(self, request: Callable[[], Awaitable[T]], permission: str) -> T:
        """Send a request, again and again while the API server is away.

        Args:
            request: sends it.
            permission: that it needs, as verb and resource.

        Raises:
            ApiError: there is nothing of that name (404).
            InstallError: the API server refuses it, or was away until no time was left.
        """
        while True:
            try:
                async with asyncio.timeout(_ONE_TRY):
                    return await request()
            except ApiError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    raise
                if not self._passes(error):
                    raise InstallError(_refusal(error, permission)) from error
                trouble = str(error)
            except (Unreachable, TimeoutError) as error:
                self._was_away()
                trouble = str(error) or f"no answer within {_ONE_TRY:g} s"
            await self._wait_for_better_times(trouble)

    def _passes(self, error: ApiError) -> bool:
        """Tell whether to ask again after such an answer."""
        if error.status not in _UNKNOWN:
            self._was_away()
            return error.is_passing
        now = self._clock.monotonic()
        self._refused_at = now if self._refused_at is None else self._refused_at
        return now - self._refused_at < self._learns and not self.is_over

    def _was_away(self) -> None:
        self._refused_at, self._learns = None, _STARTS

    async def _wait_for_better_times(self, trouble: str) -> None:
        if self.is_over:
            raise InstallError(
                f"the API server is not ready: {trouble}; gave up after {self.seconds:g} s: give an address of it that "
                "answers (--server), or more time (--timeout)"
            )
        if trouble != self._said:
            self._said = trouble
            self._say(f"the API server is not ready: {trouble}; trying again")
        await self.pause()


def _refusal(error: ApiError, permission: str) -> str:
    remedies = {
        HTTPStatus.FORBIDDEN: f"let the account {permission} (RBAC)",
        HTTPStatus.UNAUTHORIZED: "renew the credentials",
    }
    remedy = next((words for status, words in remedies.items() if status == error.status), "look into its log")
    return f"the API server refuses: {error}; {remedy}"
