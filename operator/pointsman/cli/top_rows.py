"""Two answers of an agent, compared: what each Service and each backend got in between. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pointsman.agent.connections import Backend, Connections, CountedFrontend

SortKey = Literal["rate", "connections", "active", "name"]
N = TypeVar("N", int, float)


class FrontendTraffic(msgspec.Struct, frozen=True, gc=False):
    """One address of a Service's port; ``*`` stands for the node's addresses at a node port."""

    family: int
    address: str
    port: int
    connections: int


class BackendTraffic(msgspec.Struct, frozen=True, gc=False):
    """What one backend got, through all addresses of the Service's port.

    Attributes:
        address, port: where it is.
        weight: its share as it is asked for; 0 while it drains.
        connections: new connections since the kernel has counted them.
        rate: new connections a second between the two answers; None when there is one answer alone.
        active, inactive: connections that are open; None where the kernel does not count them.
        share: its part, 0 to 1, of what all backends got between the two answers; of everything when that is nothing.
    """

    address: str
    port: int
    weight: int
    connections: int
    rate: float | None
    active: int | None
    inactive: int | None
    share: float


class ServiceTraffic(msgspec.Struct, frozen=True):
    """What one port of a Service got; the numbers are as those of its backends.

    `connections` and `rate` are the frontends', which count what was refused, too.
    """

    namespace: str
    name: str
    port: str
    protocol: str
    scheduler: str
    connections: int
    rate: float | None
    active: int | None
    inactive: int | None
    frontends: tuple[FrontendTraffic, ...]
    backends: tuple[BackendTraffic, ...]

    @property
    def title(self) -> str:
        """The Service's port for people: ``namespace/name:port``."""
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


class Frame(msgspec.Struct, frozen=True):
    """What is shown at one time.

    Attributes:
        node, mode: as the agent says.
        time: when the counters were read, RFC 3339.
        seconds: from the answer before to this one; None when there is none.
        services: sorted.
    """

    node: str
    mode: str
    time: str
    seconds: float | None
    services: tuple[ServiceTraffic, ...]

    @property
    def rate(self) -> float:
        """New connections a second to all Services that are shown."""
        return sum(service.rate or 0.0 for service in self.services)


class Wanted(msgspec.Struct, frozen=True):
    """Which Services are wanted, and in which order.

    Attributes:
        sort: by what; the most first, or by name.
        namespace: of the Services; "" for all.
        service: ``name`` or ``namespace/name``; "" for all.
    """

    sort: SortKey = "rate"
    namespace: str = ""
    service: str = ""

    def has(self, service: ServiceTraffic) -> bool:
        """Tell whether a Service is wanted."""
        return self.namespace in {"", service.namespace} and self.service in {
            "", service.name, f"{service.namespace}/{service.name}",
        }  # fmt: skip


def compare(now: Connections, before: Connections | None, wanted: Wanted) -> Frame:
    """Say what happened between two answers.

    Args:
        now: the newer one.
        before: the older one, or None when there is none.
        wanted: what to show.
    """
    seconds = None if before is None else _time(now) - _time(before)
    if seconds is not None and seconds <= 0:
        before = seconds = None  # the node's clock was set back
    growth = _Growth(before, seconds)
    found = (_service(ports, growth) for ports in _by_port(now.frontends).values())
    services = sorted((service for service in found if wanted.has(service)), key=_order(wanted.sort))
    return Frame(now.node, now.mode, now.time, seconds, tuple(services))


def _time(answer: Connections) -> float:
    return datetime.fromisoformat(answer.time).timestamp()


def _by_port(frontends: Iterable[CountedFrontend]) -> dict[tuple[str, str], list[CountedFrontend]]:
    found: dict[tuple[str, str], list[CountedFrontend]] = {}
    for frontend in frontends:
        found.setdefault((frontend.service_port, frontend.protocol), []).append(frontend)
    return found


class _Growth:
    """Tells how many connections a second came to a frontend, or to one of its backends."""

    def __init__(self, before: Connections | None, seconds: float | None) -> None:
        frontends = () if before is None else before.frontends
        self._frontends = {_key(frontend): frontend for frontend in frontends}
        self._seconds = seconds

    def of_frontend(self, frontend: CountedFrontend) -> float | None:
        before = self._frontends.get(_key(frontend))
        return self._rate(frontend.connections, None if before is None else before.connections)

    def of_backends(self, frontend: CountedFrontend) -> Iterator[tuple[Backend, float | None]]:
        before = self._frontends.get(_key(frontend))
        known = {} if before is None else {(each.address, each.port): each.connections for each in before.backends}
        for backend in frontend.backends:
            yield backend, self._rate(backend.connections, known.get((backend.address, backend.port)))

    def _rate(self, now: int, before: int | None) -> float | None:
        if self._seconds is None:
            return None
        # What is new has got all of it since; and so has a counter that fell, since it began anew.
        return (now if before is None or now < before else now - before) / self._seconds


def _key(frontend: CountedFrontend) -> tuple[int, str, str, int]:
    return frontend.family, frontend.address, frontend.protocol, frontend.port


def _service(frontends: list[CountedFrontend], growth: _Growth) -> ServiceTraffic:
    first = frontends[0]
    key, _, port = first.service_port.partition(":")
    namespace, _, name = key.partition("/")
    backends = _with_shares(_backends(frontends, growth))
    return ServiceTraffic(
        namespace,
        name,
        port,
        first.protocol,
        first.scheduler,
        sum(frontend.connections for frontend in frontends),
        _sum(growth.of_frontend(frontend) for frontend in frontends),
        _sum(backend.active for backend in backends),
        _sum(backend.inactive for backend in backends),
        # A cluster IP comes before the node port, which people know by it.
        tuple(
            FrontendTraffic(each.family, each.address, each.port, each.connections)
            for each in sorted(frontends, key=lambda each: each.address == "*")
        ),
        tuple(sorted(backends, key=lambda each: (each.address, each.port))),
    )


def _backends(frontends: list[CountedFrontend], growth: _Growth) -> list[BackendTraffic]:
    """Add up what each backend got through all frontends; shares are 0 yet."""
    found: dict[tuple[str, int], BackendTraffic] = {}
    for frontend in frontends:
        for backend, rate in growth.of_backends(frontend):
            where = (backend.address, backend.port)
            known = found.get(where)
            one = BackendTraffic(
                *where, backend.weight, backend.connections, rate, backend.active, backend.inactive, 0.0
            )
            found[where] = one if known is None else _together(known, one)
    return list(found.values())


def _together(one: BackendTraffic, other: BackendTraffic) -> BackendTraffic:
    return BackendTraffic(
        one.address,
        one.port,
        max(one.weight, other.weight),
        one.connections + other.connections,
        _sum((one.rate, other.rate)),
        _sum((one.active, other.active)),
        _sum((one.inactive, other.inactive)),
        0.0,
    )


def _with_shares(backends: list[BackendTraffic]) -> list[BackendTraffic]:
    rates = sum(backend.rate or 0.0 for backend in backends)
    connections = sum(backend.connections for backend in backends)

    def share(backend: BackendTraffic) -> float:
        if rates:
            return (backend.rate or 0.0) / rates
        return backend.connections / connections if connections else 0.0

    return [msgspec.structs.replace(backend, share=share(backend)) for backend in backends]


def _sum(values: Iterable[N | None]) -> N | None:
    """Add what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None


def _order(sort: SortKey) -> Callable[[ServiceTraffic], tuple[float, float, str, str]]:
    """Return what Services are sorted by; the name decides where they are equal."""

    def order(service: ServiceTraffic) -> tuple[float, float, str, str]:
        # As long as no rate is known, the one with the most connections is likely to have the highest.
        known = {
            "rate": (service.rate or 0.0, service.connections if service.rate is None else 0),
            "connections": (service.connections, 0),
            "active": (service.active or 0, 0),
            "name": (0, 0),
        }
        first, second = known[sort]
        return -first, -second, service.title, service.protocol

    return order
