"""Filling the view with Services and their endpoints, by the reflector that the agents have too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pointsman.controller.conditions import PROGRAMMED
from pointsman.model import raw
from pointsman.sources.apiserver.known import Known
from pointsman.sources.apiserver.reflector import Reflector, Resource
from pointsman.sources.apiserver.source import resources
from pointsman.sources.protocol import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pointsman.controller.view import View
    from pointsman.model.objects import ObjectKey
    from pointsman.model.problems import Problem
    from pointsman.sources.apiserver.decode import Item
    from pointsman.sources.apiserver.link import Link

RESOURCES: Final = (
    # Without a selector: a Service that another proxy takes over keeps the condition until we take it away.
    Resource("Service", "/api/v1/services", required=True),
    *(each for each in resources("") if each.kind in ("EndpointSlice", "Endpoints")),
)
"""What is followed so: of endpoints what the agents follow."""


class Told(Change, frozen=True):
    """A change, with what the operator wants to know of the object beside what a proxy reads.

    Attributes:
        version: resourceVersion.
        uid: `metadata.uid`.
        programmed: status of a Service's condition `pointsman.dev/Programmed`, or "".
    """

    version: int = 0
    uid: str = ""
    programmed: str = ""


class _KnownMore(Known):
    """Tells `Told`."""

    def put(self, item: Item, seen: set[ObjectKey] | None = None) -> tuple[Change, ...]:
        return tuple(_told(change, item) for change in super().put(item, seen))


class ServiceFollower:
    """Follows Services, EndpointSlices and Endpoints into a view.

    Args:
        link: the connection with the API server.
        view: gets everything.
        on_change: called when the view changed.
    """

    def __init__(self, link: Link, view: View, on_change: Callable[[], None]) -> None:
        self._view = view
        self._on_change = on_change
        self._reflectors = tuple(self._reflector(link, resource) for resource in RESOURCES)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong with what is followed."""
        return tuple(problem for reflector in self._reflectors for problem in reflector.problems)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(), name=f"follow {reflector.resource.kind}")

    def _reflector(self, link: Link, resource: Resource) -> Reflector:
        def tell(changes: Iterable[Change]) -> None:
            self._take(made, changes)

        made = Reflector(link, resource, tell, _KnownMore())
        return made

    def _take(self, reflector: Reflector, changes: Iterable[Change]) -> None:
        view, before = self._view, self._view.revision
        for change in changes:
            if isinstance(change, Told) and change.obj is not None:
                view.put(change.obj, change.version, change.uid)
                if change.key.kind == "Service":
                    view.put_condition(change.key, change.programmed, change.version)
            else:
                # The reflector has told everything until this version: the object went then, or before.
                view.remove(change.key, reflector.version or 0)
        if reflector.listed:
            view.mark_listed(reflector.resource.kind)
        if view.revision != before or view.catalog.dirty:
            self._on_change()


def _told(change: Change, item: Item) -> Told:
    version = int(item.version) if item.version.isdecimal() else 0
    uid = programmed = ""
    if isinstance(item.written, raw.Service):
        uid = (item.written.metadata and item.written.metadata.uid) or ""
        programmed = _condition(item.written)
    return Told(change.key, change.obj, version, uid, programmed)


def _condition(service: raw.Service) -> str:
    conditions = (service.status and service.status.conditions) or ()
    return next((each.status or "" for each in conditions if each.type == PROGRAMMED), "")
