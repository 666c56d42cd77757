"""One address family's sets: what they hold, and the way from there to what they shall hold; pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.nftables.entries import address_ranges
from pointsman.dataplane.nftables.layout import address_octets, endpoint_value, frontend_key, place_of
from pointsman.dataplane.nftables.wire import boundaries
from pointsman.dataplane.userspace.rules import NETWORKS, PROXY_ADDRESSES, networks_of
from pointsman.model.plan import NODE_PORT, Answer, Backend, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.nftables.wire import Draft, Elements
    from pointsman.model.plan import Family, Frontend, NodeSettings

_NETWORKS: Final = (*NETWORKS, "loopback-cidrs")

_Keyed = dict[tuple[str, bytes], bytes]
"""Values by set and key."""


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


class Change:
    """A change in the making: what is remembered once the kernel has taken it."""

    def __init__(self, entries: Mapping[Frontend, Entry | None]) -> None:
        self.entries = entries
        self.uses: Counter[bytes] = Counter()
        """Changes of how many frontends use a cluster IP."""


class Table:
    """What one family's sets hold, as far as the agent wrote it.

    Nothing here talks to the kernel: `change` and `adoption` write a draft, and `accept` remembers it.

    Attributes:
        entries: by frontend.
    """

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.entries: dict[Frontend, Entry] = {}
        self._uses: Counter[bytes] = Counter()

    def change(self, changed: Mapping[Frontend, Entry | None], draft: Draft) -> Change:
        """Write a delta: frontends with their new entries, None for those that are gone."""
        change = Change(changed)
        for frontend, new in changed.items():
            old = self.entries.get(frontend)
            _write_difference(_keyed(frontend, old), _keyed(frontend, new), draft)
            _count(change.uses, frontend, old, -1)
            _count(change.uses, frontend, new, +1)
        for key, by in change.uses.items():
            before, now = self._uses[key], self._uses[key] + by
            if bool(before) != bool(now):
                (draft.add if now else draft.remove)("cluster-ips", key)
        return change

    def adoption(
        self, entries: Mapping[Frontend, Entry], settings: NodeSettings, held: Mapping[str, Elements], draft: Draft
    ) -> Change:  # fmt: skip
        """Write what leads from what the kernel holds to a whole plan."""
        change = Change(entries)
        wanted: _Keyed = {}
        for frontend, entry in entries.items():
            wanted |= _keyed(frontend, entry)
            _count(change.uses, frontend, entry, +1)
        wanted |= {("cluster-ips", key): b"" for key in change.uses}
        found = {
            (name, key): value
            for name, elements_of_set in held.items()
            if name not in _NETWORKS
            for key, value in elements_of_set.items()
        }
        _write_difference(found, wanted, draft)
        for name in _NETWORKS:
            networks = address_ranges(self.family, networks_of(settings, name))
            # nft sets a mark at address 0.
            if dict(boundaries(networks)) != {k: v for k, v in held[name].items() if v == b"\0" or any(k)}:
                draft.replace_networks(name, networks)
        self.entries, self._uses = {}, Counter()
        return change

    def accept(self, change: Change) -> None:
        """Remember a change that the kernel has taken."""
        for frontend, entry in change.entries.items():
            if entry is None:
                self.entries.pop(frontend, None)
            else:
                self.entries[frontend] = entry
        self._uses.update(change.uses)
        for key in change.uses:
            if not self._uses[key]:
                del self._uses[key]


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


def _keyed(frontend: Frontend, entry: Entry | None) -> _Keyed:
    return {(name, key): value for name, key, value in elements(frontend, entry)} if entry else {}


def _write_difference(old: _Keyed, new: _Keyed, draft: Draft) -> None:
    for at, value in old.items():
        if new.get(at) != value:
            draft.remove(*at, value)
    for at, value in new.items():
        if old.get(at) != value:
            draft.add(*at, value)


def _count(uses: Counter[bytes], frontend: Frontend, entry: Entry | None, by: int) -> None:
    if entry is not None and entry.answer.exclusive and frontend.address != NODE_PORT:
        uses[address_octets(frontend.family, frontend.address)] += by
