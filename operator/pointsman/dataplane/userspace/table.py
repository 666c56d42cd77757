"""One address family's sets of the mode `userspace`: the ports that frontends lead to, and who is refused; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.nftables.entries import address_ranges
from pointsman.dataplane.nftables.frontend_sets import Filling, FrontendSets
from pointsman.dataplane.nftables.layout import address_octets, endpoint_value, frontend_key, place_of
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES, networks_of
from pointsman.model.plan import NODE_PORT, Answer, Backend, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.nftables.frontend_sets import Place
    from pointsman.model.plan import Family, Frontend


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is wanted for one frontend.

    Attributes:
        answer: what it is made from.
        port: where the proxy listens for it; 0 where it does not: nobody answers, or it can't listen.
        inside: the same for clients inside the cluster, when these have a pool of their own.
    """

    answer: Answer
    port: int = 0
    inside: int = 0


class Table(FrontendSets[Entry]):
    """What one family's sets hold."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, _FILLING)


def everybody(answer: Answer) -> Pool:
    """Return the pool of all clients but those that have one of their own."""
    return answer.pool if answer.outside is None else answer.outside


def is_served(pool: Pool) -> bool:
    """Tell whether anybody in a pool gets new connections."""
    return any(backend.weight for backend in pool.backends)


def elements(frontend: Frontend, entry: Entry) -> Iterator[tuple[str, bytes, bytes]]:
    """Return set, key and value of a frontend's elements but those that it shares with others."""
    answer, key, place = entry.answer, frontend_key(frontend), place_of(frontend)
    yield from _view(frontend, place, everybody(answer), entry.port, "")
    if answer.outside is not None:
        yield f"{place}split", key, b""
        yield from _view(frontend, place, answer.pool, entry.inside, "-inside")
    if answer.source_ranges is not None and not place:
        yield "guarded", key, b""
        for first, last in address_ranges(frontend.family, answer.source_ranges):
            yield "source-ranges", key + first, key + last


def _view(frontend: Frontend, place: str, pool: Pool, port: int, view: str) -> Iterator[tuple[str, bytes, bytes]]:
    key = frontend_key(frontend)
    if port:
        proxy = Backend(PROXY_ADDRESSES[frontend.family], port)
        yield f"{place}ports{view}", key, endpoint_value(frontend.family, proxy)
    elif pool.when_empty == "drop" and not is_served(pool):
        yield f"{place}dropped{view}", key, b""
    else:
        yield f"{place}refused{view}", key, b""


def _shared(frontend: Frontend, entry: Entry) -> Iterator[Place]:
    if entry.answer.exclusive and frontend.address != NODE_PORT:
        yield "cluster-ips", address_octets(frontend.family, frontend.address)


_FILLING: Final = Filling(elements, _shared, networks_of)
