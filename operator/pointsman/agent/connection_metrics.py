"""Connections of Services and of their backends, as metrics: opt-in, and no more series than a limit.

A Service port has one series, and one for each backend (three where the kernel counts what is open). Services and
backends with the most connections come first; what does not fit is left out, and counted.

The counters are the agent's own: they begin at 0 when it does, and grow by what the kernel's have grown between two
readings. So they do not fall when the kernel forgets what it has counted for something that is still there, and
what it remembers from before is not told twice.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.address import joined
from pointsman.model.plan import NODE_PORT
from pointsman.process.exposition import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from pointsman.agent.connections import Reading
    from pointsman.dataplane.protocol import ServerTraffic, Traffic
    from pointsman.model.plan import Frontend
    from pointsman.process.exposition import Values

_SERVICE: Final = "pointsman_service_connections"
_BACKEND: Final = "pointsman_backend_connections"
_ACTIVE: Final = "pointsman_backend_active_connections"
_INACTIVE: Final = "pointsman_backend_inactive_connections"
_DROPPED: Final = "pointsman_connection_metrics_dropped"
_LABELS: Final = ("namespace", "service", "port", "protocol")

_Port = tuple[str, str]
"""``namespace/name:port`` and protocol."""
_Labels = tuple[str, ...]
_Sample = tuple[str, _Labels, int]
"""A series' metric, labels and value."""


class _Backend(msgspec.Struct, gc=False):
    """One backend's sums over all frontends of a Service port."""

    connections: int = 0
    active: int | None = None
    inactive: int | None = None


class _Total(msgspec.Struct):
    """One Service port's sums over all its frontends."""

    labels: _Labels
    connections: int
    backends: dict[tuple[str, int], _Backend]


class ConnectionMetrics:
    """Sums up readings; any thread may call it.

    Args:
        limit: how many series there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._totals: dict[_Port, _Total] = {}

    def count(self, reading: Reading) -> None:
        """Add what the kernel has counted since the reading before; the first one is where counting begins."""
        with self._lock:
            before, self._reading = self._reading, reading
            if before is reading:
                return
            ports: dict[_Port, dict[Frontend, Traffic]] = {}
            for frontend, answer, traffic in reading.services():
                ports.setdefault((answer.service_port, frontend.protocol), {})[frontend] = traffic
            # What is new since the start has got all its connections since then; the rest got them before.
            known = reading.traffic if before is None else before.traffic
            self._totals = {
                port: _grown(self._totals.get(port) or _begun(port, found), found, known)
                for port, found in ports.items()
            }

    def collect(self) -> Iterator[Metric]:
        """Yield everything as prometheus_client's metrics."""
        with self._lock:
            samples = list(self._samples())
        values: dict[str, Values] = {name: {} for name in (_SERVICE, _BACKEND, _ACTIVE, _INACTIVE)}
        for name, labels, value in islice(samples, self._limit):
            values[name][labels] = value
        labels = (*_LABELS, "backend")
        yield counter(_SERVICE, "New connections to a Service's port on this node", _LABELS, values[_SERVICE])
        yield counter(_BACKEND, "New connections that a backend has got from this node", labels, values[_BACKEND])
        if values[_ACTIVE]:
            yield gauge(_ACTIVE, "Established connections of a backend on this node", labels, values[_ACTIVE])
            yield gauge(_INACTIVE, "Connections of a backend in any other state", labels, values[_INACTIVE])
        dropped: Values = {(): max(len(samples) - self._limit, 0)}
        yield gauge(_DROPPED, "Series of connections that are left out because of the limit", (), dropped)

    def _samples(self) -> Iterator[_Sample]:
        for total in sorted(self._totals.values(), key=lambda total: (-total.connections, total.labels)):
            yield _SERVICE, total.labels, total.connections
            busiest = sorted(total.backends.items(), key=lambda each: (-each[1].connections, each[0]))
            for (address, port), backend in busiest:
                labels = (*total.labels, joined(address, port))
                yield _BACKEND, labels, backend.connections
                if backend.active is not None and backend.inactive is not None:
                    yield _ACTIVE, labels, backend.active
                    yield _INACTIVE, labels, backend.inactive


def _begun(port: _Port, found: Mapping[Frontend, Traffic]) -> _Total:
    service_port, protocol = port
    key, _, name = service_port.partition(":")
    namespace, _, service = key.partition("/")
    return _Total((namespace, service, name or str(_number(found)), protocol), 0, {})


def _number(found: Mapping[Frontend, Traffic]) -> int:
    """Return the number of a port that has no name; its node port's only where there is nothing else."""
    return min(found, key=lambda frontend: (frontend.address == NODE_PORT, frontend)).port


def _grown(total: _Total, found: Mapping[Frontend, Traffic], known: Mapping[Frontend, Traffic]) -> _Total:
    connections, backends = total.connections, dict[tuple[str, int], _Backend]()
    for frontend, traffic in found.items():
        before = known.get(frontend)
        connections += _more(traffic.connections, None if before is None else before.connections)
        for where, got in traffic.backends.items():
            if where not in backends:
                carried = total.backends.get(where)
                backends[where] = _Backend(0 if carried is None else carried.connections)
            _add(backends[where], got, None if before is None else before.backends.get(where))
    return _Total(total.labels, connections, backends)


def _add(backend: _Backend, got: ServerTraffic, before: ServerTraffic | None) -> None:
    backend.connections += _more(got.connections, None if before is None else before.connections)
    if got.active is not None:
        backend.active = (backend.active or 0) + got.active
    if got.inactive is not None:
        backend.inactive = (backend.inactive or 0) + got.inactive


def _more(now: int, before: int | None) -> int:
    """Return what has come since; a counter that fell was begun anew."""
    return now if before is None or now < before else now - before
