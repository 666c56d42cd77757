"""The Services of the cluster with what belongs to them, as small as the operator can do with; pure.

EndpointSlices are not kept: of each one, its Service, a hash of its form, and how many ready endpoints each node has.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from sys import intern
from typing import TYPE_CHECKING

import msgspec

from pointsman.model.objects import EndpointSlice, Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.model.objects import Endpoints, Kind
    from pointsman.model.plan import Transport


class ServiceEntry(msgspec.Struct, gc=False):
    """One Service.

    Attributes:
        service: the Service, or None while only slices of it are known.
        uid: its `metadata.uid`.
        version: its resourceVersion.
        form_version: its resourceVersion when its form (all that a proxy reads of it) changed last.
        slices_version: the newest resourceVersion at which the form of one of its EndpointSlices changed, or one went.
        slices: how many EndpointSlices it has.
        condition: the status of its condition `pointsman.dev/Programmed`, or "".
        judged: `forms` when that condition was last found to be true to the nodes; -1 before.
    """

    service: Service | None = None
    uid: str = ""
    version: int = 0
    form_version: int = 0
    slices_version: int = 0
    slices: int = 0
    condition: str = ""
    judged: int = -1

    @property
    def forms(self) -> int:
        """A number that grows with each change of form."""
        return self.form_version + self.slices_version


class _Slice(msgspec.Struct, frozen=True, gc=False):
    owner: str
    form: int
    nodes: tuple[tuple[str, int], ...]


class Catalog:
    """Services by ``namespace/name``.

    Attributes:
        entries: the Services; also those of which only EndpointSlices are known.
        dirty: Services of which something changed since somebody emptied this.
        node_port_keys: Services that have node ports.
        scheduler_keys: Services that ask for a scheduler.
    """

    def __init__(self) -> None:
        self.entries: dict[str, ServiceEntry] = {}
        self.dirty: set[str] = set()
        self.node_port_keys: set[str] = set()
        self.scheduler_keys: set[str] = set()
        self._users: dict[tuple[int, Transport], tuple[str, ...]] = {}
        self._slices: dict[str, _Slice] = {}
        self._ready: Counter[str] = Counter()
        self._endpoints: dict[str, tuple[tuple[str, int], ...]] = {}

    def put_service(self, key: str, service: Service, version: int, uid: str) -> bool:
        """Take a Service; tell whether its form is news. What is older than what is known is left out."""
        entry = self._entry(key)
        if version < entry.version and uid in ("", entry.uid):
            return False
        entry.version = version
        if entry.service == service and uid in ("", entry.uid):
            return False
        self._index(key, entry.service, service)
        entry.service, entry.form_version = service, version
        entry.uid = uid or entry.uid
        self.dirty.add(key)
        return True

    def remove_service(self, key: str, version: int) -> bool:
        """Forget a Service; tell whether it was known."""
        entry = self.entries.get(key)
        if entry is None or entry.service is None or 0 < version < entry.version:
            return False
        self._index(key, entry.service, None)
        self.entries[key] = ServiceEntry(slices_version=entry.slices_version, slices=entry.slices)
        self._drop_unused(key)
        return True

    def put_condition(self, key: str, status: str, version: int) -> None:
        """Take the status of a Service's condition as it is in the cluster; "" for none."""
        entry = self.entries.get(key)
        if entry is None or 0 < version < entry.version:
            return
        entry.version = max(version, entry.version)
        if entry.condition != status:
            entry.condition = intern(status)
            self.dirty.add(key)

    def put_slice(self, key: str, new: EndpointSlice | None, version: int) -> bool:
        """Take an EndpointSlice (None: it went); tell whether that changes anything."""
        old = self._slices.get(key)
        record = None if new is None or new.ignored or not new.service else _record(new)
        if old == record:
            return False
        for part, sign in ((old, -1), (record, 1)):
            if part is not None:
                self._count(part, sign, version)
        if record is None:
            del self._slices[key]
        else:
            self._slices[key] = record
        if old is not None:
            self._drop_unused(old.owner)
        return True

    def put_endpoints(self, key: str, endpoints: Endpoints | None) -> bool:
        """Take Endpoints (None: they went); tell whether that changes anything."""
        nodes = _ready_nodes(endpoints.slices) if endpoints is not None else ()
        before = self._endpoints.pop(key, ())
        if nodes:
            self._endpoints[key] = nodes
        return nodes != before

    def ready_endpoints(self) -> Mapping[str, int]:
        """Count the ready endpoints on each node, by its name; of Endpoints only those that no slice mirrors."""
        counts = self._ready.copy()
        for key, nodes in self._endpoints.items():
            entry = self.entries.get(key)
            if entry is None or not entry.slices:
                for node, count in nodes:
                    counts[node] += count
        return {node: count for node, count in counts.items() if count}

    def users(self, port: int, protocol: Transport) -> tuple[str, ...]:
        """Return the Services that have a node port."""
        return self._users.get((port, protocol), ())

    def keys(self, kind: Kind) -> tuple[str, ...]:
        """Return ``namespace/name`` of all that is known of a kind."""
        if kind == "Service":
            return tuple(key for key, entry in self.entries.items() if entry.service is not None)
        return tuple(self._slices) if kind == "EndpointSlice" else tuple(self._endpoints)

    def services(self, keys: Iterable[str]) -> Iterator[tuple[ServiceEntry, Service]]:
        """Return those of `keys` that are known, in their order."""
        for key in keys:
            entry = self.entries.get(key)
            if entry is not None and entry.service is not None:
                yield entry, entry.service

    def _count(self, part: _Slice, sign: int, version: int) -> None:
        entry = self._entry(part.owner)
        entry.slices += sign
        entry.slices_version = max(entry.slices_version, version)
        for node, count in part.nodes:
            self._ready[node] += sign * count
        self.dirty.add(part.owner)

    def _index(self, key: str, old: Service | None, new: Service | None) -> None:
        for use in _uses(old):
            left = tuple(user for user in self._users[use] if user != key)
            if left:
                self._users[use] = left
            else:
                del self._users[use]
        uses = _uses(new)
        for use in uses:
            self._users[use] = tuple(sorted((*self._users.get(use, ()), key)))
        _mark(self.node_port_keys, key, present=bool(uses))
        _mark(self.scheduler_keys, key, present=new is not None and new.scheduler is not None)

    def _entry(self, key: str) -> ServiceEntry:
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = ServiceEntry()
        return entry

    def _drop_unused(self, key: str) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.service is None and not entry.slices:
            del self.entries[key]
            self.dirty.discard(key)


def _record(new: EndpointSlice) -> _Slice:
    # The trigger time is for metrics; it is no part of the form. A hash of 64 bits stands for the form.
    form = hash(msgspec.structs.replace(new, trigger_time=None))
    return _Slice(intern(f"{new.namespace}/{new.service}"), form, _ready_nodes((new,)))


def _ready_nodes(slices: Iterable[EndpointSlice]) -> tuple[tuple[str, int], ...]:
    endpoints = chain.from_iterable(part.endpoints for part in slices)
    counts = Counter(intern(each.node) for each in endpoints if each.ready and each.node)
    return tuple(sorted(counts.items()))


def _uses(service: Service | None) -> frozenset[tuple[int, Transport]]:
    """Return the node ports of a Service; the health check's is a TCP port."""
    if service is None:
        return frozenset()
    ports: set[tuple[int, Transport]] = {(port.node_port, port.protocol) for port in service.ports if port.node_port}
    if service.health_check_node_port:
        ports.add((service.health_check_node_port, "tcp"))
    return frozenset(ports)


def _mark(keys: set[str], key: str, *, present: bool) -> None:
    (keys.add if present else keys.discard)(key)
