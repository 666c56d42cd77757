"""What is wanted against what is there, frontend by frontend; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from pointsman.model.plan import NODE_PORT, Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterable

State = Literal["missing", "extra", "changed"]


class Wanted(msgspec.Struct, frozen=True):
    """What a dataplane would tell that it holds if a plan were in force (`Dataplane.read`).

    Attributes:
        backends: by frontend, those that get new connections.
        services: by frontend, ``namespace/name`` or ``namespace/name:port``.
        optional: frontends that may be absent, as somebody else's may be in their place.
        whole: what is held tells of backends, too; False where only the frontends can be compared.
    """

    backends: Mapping[Frontend, tuple[Backend, ...]]
    services: Mapping[Frontend, str]
    optional: frozenset[Frontend] = frozenset()
    whole: bool = True


class Difference(msgspec.Struct, frozen=True):
    """One frontend that is not as it should be.

    Attributes:
        frontend: which one.
        service: the Service and port that it is for; "" where nobody wants it.
        state: it is not there at all, nobody wants it, or its backends differ.
        missing: backends that should get new connections and don't; with the weight that they should have.
        extra: backends that get new connections and should not; with the weight that they have. One with another
            weight than it should have is in both.
    """

    frontend: Frontend
    service: str
    state: State
    missing: tuple[Backend, ...] = ()
    extra: tuple[Backend, ...] = ()


def compare(wanted: Wanted, held: Mapping[Frontend, tuple[Backend, ...]]) -> tuple[Difference, ...]:
    """Compare.

    Args:
        wanted: what there should be.
        held: what there is, as `Dataplane.read` says.

    Returns:
        The differences, by Service, then by frontend, node ports behind; those that nobody wants come last.
    """
    found = [difference for frontend in wanted.backends if (difference := _of_wanted(frontend, wanted, held))]
    unwanted = held.keys() - wanted.backends.keys()
    found += [Difference(frontend, "", "extra", extra=_plain(held[frontend])) for frontend in unwanted]
    return tuple(sorted(found, key=_order))


def _order(each: Difference) -> tuple[bool, str, bool, Frontend]:
    return not each.service, each.service, each.frontend.address == NODE_PORT, each.frontend


def _of_wanted(
    frontend: Frontend, wanted: Wanted, held: Mapping[Frontend, tuple[Backend, ...]]
) -> Difference | None:  # fmt: skip
    service, backends = wanted.services[frontend], _plain(wanted.backends[frontend])
    if frontend not in held:
        return None if frontend in wanted.optional else Difference(frontend, service, "missing", backends)
    if not wanted.whole:
        return None
    there = _plain(held[frontend])
    missing = tuple(backend for backend in backends if backend not in there)
    extra = tuple(backend for backend in there if backend not in backends)
    return Difference(frontend, service, "changed", missing, extra) if missing or extra else None


def _plain(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Leave out what no dataplane tells."""
    return tuple(sorted(Backend(each.address, each.port, each.weight) for each in backends))
