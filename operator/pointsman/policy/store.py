"""The objects that the planner has been given, by Service; pure.

A Service's slices, and Endpoints without slices, are kept with the Service, so that a change of one of them leads to
its Service and to nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.objects import Endpoints, EndpointSlice, Service
from pointsman.model.plan import Frontend
from pointsman.policy.frontends import Tally

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

_NO_TALLY: Final = Tally()


class Entry(msgspec.Struct, gc=False):
    """One Service with what belongs to it, and what the planner made of it.

    Attributes:
        service: the Service, or None while only its endpoints are known.
        slices: its EndpointSlices.
        endpoints: its Endpoints.
        frontends: what it claimed when it was planned last.
        tally: how much it was then.
    """

    service: Service | None = None
    slices: tuple[EndpointSlice, ...] = ()
    endpoints: Endpoints | None = None
    frontends: tuple[Frontend, ...] = ()
    tally: Tally = _NO_TALLY

    @property
    def unused(self) -> bool:
        """Whether nothing is left to keep it for."""
        return self.service is None and not self.slices and self.endpoints is None and not self.frontends

    def effective_slices(self) -> tuple[EndpointSlice, ...]:
        """Return the slices that count: Endpoints only while no EndpointSlice belongs to the Service."""
        if self.slices or self.endpoints is None:
            return self.slices
        return self.endpoints.slices


class Store:
    """Services by ``namespace/name``, with their slices and Endpoints."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._slices: dict[str, EndpointSlice] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def items(self) -> Iterable[tuple[str, Entry]]:
        """Return every Service's key with its entry."""
        return self._entries.items()

    def get(self, key: str) -> Entry | None:
        """Return a Service's entry."""
        return self._entries.get(key)

    def drop_unused(self, key: str) -> None:
        """Forget a Service when nothing of it is left."""
        entry = self._entries.get(key)
        if entry is not None and entry.unused:
            del self._entries[key]

    def put_service(self, key: str, service: Service | None) -> bool:
        """Keep a Service (or forget it); tell whether that changes anything."""
        entry = self._entries.get(key) if service is None else self._entry(key)
        if entry is None or entry.service == service:
            return False
        entry.service = service
        return True

    def put_endpoints(self, key: str, endpoints: Endpoints | None) -> bool:
        """Keep Endpoints (or forget them); tell whether that changes anything."""
        entry = self._entries.get(key) if endpoints is None else self._entry(key)
        if entry is None or entry.endpoints == endpoints:
            return False
        entry.endpoints = endpoints
        return True

    def put_slice(self, key: str, new: EndpointSlice | None) -> tuple[str, ...]:
        """Keep an EndpointSlice (or forget it); return the keys of the Services that it changes, 0 to 2."""
        old = self._slices.get(key)
        if old == new:
            return ()
        touched = []
        if old is not None:
            touched.append(self._detach(old))
        if new is None or not new.service or new.ignored:
            self._slices.pop(key, None)
        else:
            self._slices[key] = new
            owner = f"{new.namespace}/{new.service}"
            entry = self._entry(owner)
            entry.slices = (*entry.slices, new)
            touched.append(owner)
        return tuple(touched)

    def slice(self, key: str) -> EndpointSlice | None:
        """Return an EndpointSlice that belongs to a Service."""
        return self._slices.get(key)

    def of_pods(self, namespace: str, pods: Container[str]) -> list[str]:
        """Find the Services of a namespace with an endpoint on one of `pods`; looks at all of its endpoints."""
        prefix = f"{namespace}/"
        return [
            key
            for key, entry in self._entries.items()
            if key.startswith(prefix)
            and any(e.pod in pods for part in entry.effective_slices() for e in part.endpoints if e.pod)
        ]

    def _entry(self, key: str) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry()
        return entry

    def _detach(self, old: EndpointSlice) -> str:
        owner = f"{old.namespace}/{old.service}"
        entry = self._entries[owner]
        entry.slices = tuple([part for part in entry.slices if part is not old])
        return owner
