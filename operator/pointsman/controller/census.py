"""Whether the view has everything that there is of what Kopf follows.

Kopf tells what there is and every change, but not when a list has come to its end, and after a watch that broke it
lists anew and does not tell what went meanwhile. So the names are asked for beside it (metadata alone, not the
objects): the view is complete for a kind when everything that was listed has been heard of, or is gone; and what is
known but is not in the list any more went. A name that Kopf told of after the list was made has a newer resourceVersion
than the list, and stays. Nothing depends on the order of the two, and what was missed for any reason is found by the
next census.

Kopf looks for the resources that there are when it starts and when a CustomResourceDefinition changes, and the API
server offers a new one a moment later: then Kopf does not follow it, and never notices. So Kopf is started only when
the API server offers every resource (its discovery documents say so, which are what Kopf reads), and started again when
one was gone, or has another definition than when Kopf was started. Should it be deaf all the same, then what the census
finds is never told, and it is started again as well (`Deafness`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pointsman.api.names import GROUP
from pointsman.controller.discovery import PATHS, find_offer
from pointsman.controller.handlers import RESOURCES
from pointsman.model.kinds import BY_KIND
from pointsman.model.notes import Notes
from pointsman.model.objects import ObjectKey
from pointsman.sources.apiserver.client import METADATA, ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.controller.view import View
    from pointsman.model.objects import Kind
    from pointsman.model.parse import Object
    from pointsman.process.clock import Clock
    from pointsman.process.logs import ProblemLog
    from pointsman.sources.apiserver.client import ApiClient

_SOON: Final = 0.1
_LATER: Final = 2.0
"""Seconds from one census to the next while the view is not complete: the first pause, doubled, and the longest."""
_PERIOD: Final = 30.0
"""Seconds from one census to the next later."""
_DEAF_AFTER: Final = 10.0
"""Seconds without a word of a kind of which there is something untold; Kopf's own pauses between tries are 2 s."""
_TROUBLES: Final = (ApiError, Unreachable, SourceError, msgspec.DecodeError)
_REMEDY: Final = "install it (kubectl apply -f crds/)"
_SOURCE: Final = "API server"
_LOG: Final = logging.getLogger(__name__)


class Listed(msgspec.Struct, frozen=True):
    """What there is of a kind.

    Attributes:
        names: of the objects.
        version: resourceVersion of the list.
    """

    names: frozenset[str]
    version: int


class Census:
    """Puts what Kopf tells into the view, and knows when that is everything.

    Args:
        view: gets it.
        problems: gets what is wrong with objects.
        on_change: called when the view changed.
    """

    def __init__(self, view: View, problems: ProblemLog, on_change: Callable[[], None]) -> None:
        self._view = view
        self._problems = problems
        self._on_change = on_change
        self._versions: dict[Kind, dict[str, int]] = {kind: {} for kind in RESOURCES}
        self._missing: dict[Kind, frozenset[str]] = {}
        self._heard: dict[Kind, int] = dict.fromkeys(RESOURCES, 0)

    @property
    def untold(self) -> dict[Kind, int]:
        """The kinds of which something is there that Kopf has not told of, with how many events it told of them."""
        return {kind: self._heard[kind] for kind, names in self._missing.items() if names}

    @property
    def missing(self) -> tuple[Kind, ...]:
        """The kinds of which the view does not have everything yet."""
        return tuple(kind for kind in RESOURCES if kind not in self._view.listed)

    def hear(self, kind: Kind, event: str | None, body: Mapping[str, Any]) -> None:
        """Take an event as Kopf tells it.

        Args:
            kind: of the object.
            event: its type; None for what a list has.
            body: the object.
        """
        self._heard[kind] += 1
        metadata: Mapping[str, Any] = body.get("metadata") or {}
        name, version = str(metadata.get("name", "")), _number(metadata.get("resourceVersion"))
        if version < self._versions[kind].get(name, 0):
            return
        if event == "DELETED":
            self._forget(kind, name, version)
        else:
            self._versions[kind][name] = version
            self._put(kind, name, version, body)
        self._settle(kind, name)
        self._on_change()

    def take(self, kind: Kind, listed: Listed) -> None:
        """Take the names of everything that there is of a kind."""
        known = self._versions[kind]
        for name in [name for name, version in known.items() if name not in listed.names and version < listed.version]:
            _LOG.info("%s %s went unnoticed", kind, name)
            self._forget(kind, name, listed.version)
        self._missing[kind] = listed.names - known.keys()
        self._settle(kind, "")
        self._on_change()

    def _settle(self, kind: Kind, name: str) -> None:
        if kind in self._missing:
            self._missing[kind] -= {name}
            if not self._missing[kind]:
                self._view.mark_listed(kind)

    def _forget(self, kind: Kind, name: str, version: int) -> None:
        self._versions[kind].pop(name, None)
        self._problems.update(f"{kind} {name}", ())
        self._view.remove(ObjectKey(kind, "", name), version)

    def _put(self, kind: Kind, name: str, version: int, body: Mapping[str, Any]) -> None:
        notes = Notes(_SOURCE)
        obj = _read(kind, name, body, notes)
        self._problems.update(f"{kind} {name}", notes.problems)
        if obj is not None:
            self._view.put(obj, version, str((body.get("metadata") or {}).get("uid", "")))


class Deafness:
    """Finds out that Kopf does not follow a kind any more: something is there for long, and no event comes."""

    def __init__(self) -> None:
        self._since: dict[Kind, tuple[int, float]] = {}

    def look(self, untold: Mapping[Kind, int], now: float) -> tuple[Kind, ...]:
        """Return the kinds that are not followed; the next look begins anew with them.

        Args:
            untold: as `Census.untold` has them after a census that succeeded; nothing after one that did not.
            now: seconds, of a clock that does not jump.
        """
        before = self._since
        self._since = {
            kind: before[kind] if before.get(kind, (-1, now))[0] == heard else (heard, now)
            for kind, heard in untold.items()
        }
        deaf = tuple(kind for kind, (_, since) in self._since.items() if now - since >= _DEAF_AFTER)
        if deaf:
            self._since = {}
        return deaf


def read_names(body: bytes) -> Listed:
    """Read a list of objects, of which only the metadata matter.

    Raises:
        msgspec.DecodeError: it is none.
    """
    found = msgspec.json.decode(body, type=_Objects)
    names = frozenset(item.metadata.name for item in found.items or ())
    return Listed(names, _number(found.metadata.resource_version))


async def follow_census(client: ApiClient, census: Census, clock: Clock, start_kopf: Callable[[], None]) -> None:
    """Ask for the names: until the view is complete again and again, then every half minute; until cancelled.

    Args:
        client: speaks to the API server.
        census: takes the names.
        clock: tells the time.
        start_kopf: called when Kopf can follow everything, and whenever it has to look anew for what there is.
    """
    never, told, pause, deafness = asyncio.Event(), "", _SOON, Deafness()
    followed: frozenset[str] = frozenset()
    while True:
        offered, trouble = await _take_all(client, census)
        if trouble and trouble != told:
            _LOG.warning("%s", trouble)
        told = trouble
        if offered is not None and offered != followed:
            followed = frozenset()
        deaf = deafness.look(census.untold if followed and not trouble else {}, clock.monotonic())
        if deaf:
            _LOG.warning("Kopf does not tell of %s that are there; it is started again", ", ".join(deaf))
        if offered and not trouble and (deaf or not followed):
            start_kopf()
            followed = offered
        if pause == _PERIOD:
            pause = _SOON
        pause = min(pause * 2, _LATER) if census.missing or census.untold or not followed else _PERIOD
        await clock.wait(never, pause)


async def _take_all(client: ApiClient, census: Census) -> tuple[frozenset[str] | None, str]:
    """Take the names of every kind.

    Returns:
        The definitions of the custom resources, empty when one is not offered, None when that is not known; and what
        is wrong.
    """
    try:
        offer = await find_offer(client)
    except _TROUBLES as error:
        return None, f"cannot ask which resources there are: {error}"
    absent = offer.absent
    wrong = [f"the API server does not have the resource {kind} ({GROUP}): {_REMEDY}" for kind in absent]
    wrong += [why for kind in RESOURCES if kind not in absent and (why := await _take(client, census, kind))]
    return offer.definitions if not absent else frozenset(), next(iter(wrong), "")


async def _take(client: ApiClient, census: Census, kind: Kind) -> str:
    """Take the names of a kind; return what is wrong."""
    try:
        census.take(kind, read_names(await client.get(PATHS[kind], accept=METADATA)))
    except _TROUBLES as error:
        return f"cannot list {kind} objects: {error}"
    return ""


def _read(kind: Kind, name: str, body: Mapping[str, Any], notes: Notes) -> Object | None:
    reader = BY_KIND[kind]
    notes.begin(kind, "", name)
    custom = kind in ("ProxyConfig", "NodeProxy")
    try:
        return reader.convert(body if custom else msgspec.convert(body, reader.raw_type), "", name, notes)
    except msgspec.ValidationError as error:
        notes.note("", str(error), "correct the object; what was known of it stays in force")
        return None


def _number(version: object) -> int:
    text = str(version or "")
    return int(text) if text.isdecimal() else 0


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata


class _Objects(msgspec.Struct):
    metadata: _Metadata
    items: list[_Object] | None = None
