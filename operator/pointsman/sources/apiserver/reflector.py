"""Following one resource of an API server: a list, and then every change.

The same rules as client-go's reflector, but for one: a new list never replaces what is known, it is compared with it,
and what it lacks is told as gone.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.sources.apiserver.backoff import Backoff
from pointsman.sources.apiserver.client import ApiError
from pointsman.sources.apiserver.decode import Bookmark, Changed, Decoder, Failure, UnreadableError
from pointsman.sources.apiserver.known import Known
from pointsman.sources.apiserver.refusals import failed, refused
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pointsman.model.objects import Kind, ObjectKey
    from pointsman.model.problems import Problem
    from pointsman.sources.apiserver.decode import Item
    from pointsman.sources.apiserver.link import Link
    from pointsman.sources.protocol import Change

_PAGE: Final = 500
_WATCH_SECONDS: Final = (300, 600)
"""A watch is ended by the server after a time in this range, as for client-go: connections spread anew."""
_SILENCE: Final = 30.0
"""Seconds of silence among initial events after which a plain list is tried: some servers never end them. As long after
its time a watch that the server has not ended is given up: a load balancer may keep a connection that leads nowhere."""
_SETTLED: Final = 5.0
"""Seconds after which a watch that was not refused counts as good."""
_LOOK_AGAIN: Final = 30.0
"""Seconds between two looks for a resource that the server does not have."""
_BREATH: Final = 200
"""Events that are taken at a stretch; then others get their turn in the event loop."""
_NO_STREAM: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_MARK_EVERY: Final = 600.0
"""Seconds until a bookmark alone moves `Reflector.version`. It comes about once a minute with another version, as other
resources change: every agent of a cluster would write that into its status, though there is nothing new."""
_FAILURES: Final = 3
"""How often in a row a connection fails until it is told as a problem; before, it is a restart somewhere."""
_NOBODY: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Resource(NamedTuple):
    """What to follow.

    Attributes:
        kind: of its objects.
        path: of the list, as ``/api/v1/services``.
        labels, fields: selectors; "" for all.
        required: nothing can be said without it: neither its absence nor a refusal counts as an answer.
    """

    kind: Kind
    path: str
    labels: str = ""
    fields: str = ""
    required: bool = False

    def params(self, **others: str) -> dict[str, str]:
        """Return the parameters of a request."""
        selectors = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in {**selectors, **others}.items() if value}


class Reflector:
    """Follows one resource.

    Args:
        link: the connection.
        resource: what to follow.
        tell: is called with changes as they come; with none when something else is new (see the attributes).
        known: remembers what has been told; another one may tell more of each object.

    Attributes:
        resource: see there.
        listed: everything that there was has been told at least once, or the server does not have the resource.
        refused: the server refuses to tell (401, 403).
        version: newest resourceVersion, of a list or a change, until which everything has been told, or None; where
            nothing changes, that of a bookmark now and then.
    """

    def __init__(
        self, link: Link, resource: Resource, tell: Callable[[Iterable[Change]], None], known: Known | None = None
    ) -> None:
        self.resource = resource
        self.listed = False
        self.refused = False
        self.version: int | None = None
        self._client = link.client
        self._tell = tell
        self._link = link
        self._clock = link.clock
        self._chance = link.chance
        self._backoff = Backoff(link.chance)
        self._decoder = Decoder(resource.kind)
        self._known = known or Known()
        self._trouble: Problem | None = None
        self._failures = 0
        self._resume = ""
        self._moved_at = 0.0
        self._streams = True
        self._stream_next = True
        self._attempt: asyncio.Timeout | None = None
        self._over_at = 0.0
        link.on_outage(self.interrupt)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong now."""
        return self._known.problems if self._trouble is None else (self._trouble, *self._known.problems)

    def interrupt(self) -> None:
        """Give up the connection that is open, and make another."""
        if self._attempt is not None and not self._attempt.expired():
            self._attempt.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._link.answering()
            pause = await self._try()
            if pause:
                await self._clock.sleep(pause)

    async def _try(self) -> float:
        """List if need be, and watch until that ends; return the seconds to wait then."""
        try:
            async with asyncio.timeout(None) as self._attempt:
                if self._resume:
                    return await self._watch()
                if self._streams and self._stream_next:
                    return await self._stream()
                await self._list()
                return 0.0
        except (ApiError, UnreadableError, SourceError, OSError) as error:
            return self._take_failure(error)
        finally:
            self._attempt = None

    def _take_failure(self, error: Exception) -> float:
        """Return the seconds to wait after `error`."""
        if isinstance(error, ApiError):
            return self._take_refusal(error)
        if isinstance(error, TimeoutError):
            self._stream_next = False  # silence among initial events, or an outage: a list is as good then
            return self._backoff.next()
        if isinstance(error, UnreadableError):
            # Whatever the line said is lost: a list tells it.
            self._resume, self._stream_next = "", False
            self._complain(failed(self.resource.path, str(error)))
            return self._backoff.next()
        self._link.doubt()
        self._failures += 1
        if self._failures >= _FAILURES or isinstance(error, SourceError):
            self._complain(failed(self.resource.path, str(error)))
        return self._backoff.next()

    def _take_refusal(self, error: ApiError) -> float:
        if error.status in _NO_STREAM and not self._resume and self._streams and self._stream_next:
            self._streams = False
            return 0.0
        if error.status == HTTPStatus.GONE:
            self._resume = ""
            return self._backoff.next(error.retry_after)
        if error.status == HTTPStatus.NOT_FOUND and not self.resource.required:
            self._be_absent()
            return _LOOK_AGAIN * self._chance.uniform(0.9, 1.0)
        self.refused = error.status in _NOBODY
        self._complain(refused(self.resource.path, error))
        return self._backoff.next(error.retry_after)

    def _be_absent(self) -> None:
        """Note that the server does not have the resource. What is known stays, as when it does not answer."""
        self._resume = ""
        self.listed, self.refused = True, False
        self._complain(None)

    async def _list(self) -> None:
        """Get a list in pages; when the token for the next one has expired, all of it at once."""
        seen = self._known.begin()
        params = self.resource.params(limit=str(_PAGE))
        while True:
            try:
                body = await self._client.get(self.resource.path, params)
            except ApiError as error:
                if error.status != HTTPStatus.GONE or "continue" not in params:
                    raise
                params = self.resource.params()
                seen.clear()  # the whole list is newer than the pages before it, of which some may be gone
                continue
            self._link.hear()
            page = self._decoder.page(body)
            self._take_items(page.items, seen)
            await asyncio.sleep(0)
            if not page.next:
                break
            params = self.resource.params(limit=str(_PAGE), **{"continue": page.next})
        self._end_list(seen, page.version)

    async def _stream(self) -> float:
        """Have the server send the list as the first events of a watch (KEP-3157), and go on with the watch."""
        return await self._follow(
            self.resource.params(sendInitialEvents="true", resourceVersionMatch="NotOlderThan", **self._watch_params()),
            seen=self._known.begin(),
        )

    async def _watch(self) -> float:
        return await self._follow(self.resource.params(resourceVersion=self._resume, **self._watch_params()))

    def _watch_params(self) -> Mapping[str, str]:
        return {"allowWatchBookmarks": "true", "timeoutSeconds": str(self._chance.randint(*_WATCH_SECONDS))}

    async def _follow(self, params: Mapping[str, str], seen: set[ObjectKey] | None = None) -> float:
        """Take the events of a watch until it ends; those until the end of a list go into `seen`."""
        loop = asyncio.get_running_loop()
        settling = loop.call_later(_SETTLED, self._be_good)
        self._over_at = loop.time() + int(params["timeoutSeconds"]) + _SILENCE
        count = 0
        try:
            async with aclosing(self._client.watch(self.resource.path, params)) as lines:
                self._limit_silence(seen)
                async for line in lines:
                    count += 1
                    if count % _BREATH == 0:
                        await asyncio.sleep(0)
                    event = self._event(line)
                    if seen is None:
                        self._take(event)
                    else:
                        seen = self._take_initial(event, seen)
                        self._limit_silence(seen)
        finally:
            settling.cancel()
        self._stream_next = seen is None
        return self._backoff.next()

    def _event(self, line: bytes) -> Changed | Bookmark:
        self._link.hear()
        event = self._decoder.event(line)
        if isinstance(event, Failure):
            self._resume = ""
            raise ApiError(event.code or HTTPStatus.INTERNAL_SERVER_ERROR, event.reason, event.message)
        return event

    def _limit_silence(self, seen: set[ObjectKey] | None) -> None:
        if self._attempt is None or self._attempt.expired():
            return
        if seen is None:
            self._attempt.reschedule(self._over_at)
            return
        until = asyncio.get_running_loop().time() + _SILENCE
        # A new timer for each of many thousand events would take longer than reading them from the connection.
        if until - (self._attempt.when() or 0.0) > _SILENCE / 10:
            self._attempt.reschedule(until)

    def _take_initial(self, event: Changed | Bookmark, seen: set[ObjectKey]) -> set[ObjectKey] | None:
        if isinstance(event, Changed) and event.gone:
            # A server whose cache lags sends what happened since before it ends the list.
            self._tell(self._known.remove(event.item.key))
        elif isinstance(event, Changed):
            self._take_items((event.item,), seen)
        elif event.ends_list:
            self._end_list(seen, event.version)
            return None
        return seen

    def _take(self, event: Changed | Bookmark) -> None:
        self._be_good()
        if isinstance(event, Bookmark):
            self._resume = event.version or self._resume
            if self._clock.wall() - self._moved_at >= _MARK_EVERY:
                self._advance(event.version)
                self._tell(())
            return
        self._advance(event.item.version)
        self._tell(self._known.remove(event.item.key) if event.gone else self._known.put(event.item))

    def _take_items(self, items: Iterable[Item], seen: set[ObjectKey]) -> None:
        changes = [change for item in items for change in self._known.put(item, seen)]
        if changes:
            self._tell(changes)

    def _end_list(self, seen: set[ObjectKey], version: str) -> None:
        self.listed, self.refused, self._stream_next, self._trouble = True, False, True, None
        self._failures = 0
        gone = self._known.end(seen)
        self._advance(version)
        self._tell(gone)

    def _advance(self, version: str) -> None:
        """Note until where everything has been told; the next watch goes on from there."""
        if version:
            self._resume = version
            self.version = int(version) if version.isdecimal() else self.version
            self._moved_at = self._clock.wall()

    def _be_good(self) -> None:
        self._backoff.reset()
        self._failures = 0
        if self._trouble is not None:
            self.refused = False
            self._complain(None)

    def _complain(self, trouble: Problem | None) -> None:
        self._trouble = trouble
        self._tell(())
