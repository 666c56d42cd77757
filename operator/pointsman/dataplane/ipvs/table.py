"""One address family's sets: what they hold, and the way from there to what they shall hold; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.entries import elements, shared
from pointsman.dataplane.ipvs.rules import NETWORKS, networks_of
from pointsman.dataplane.nftables.entries import address_ranges
from pointsman.dataplane.nftables.wire import boundaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.ipvs.entries import Entry
    from pointsman.dataplane.nftables.wire import Draft, Elements
    from pointsman.model.plan import Family, Frontend, NodeSettings

_Keyed = Mapping[tuple[str, bytes], bytes]
"""Values by set and key."""
_ADDRESSES: Final = ("cluster-ips", "external-ips")


class Change:
    """A change in the making: what is remembered once the kernel has taken it."""

    def __init__(self, entries: Mapping[Frontend, Entry | None]) -> None:
        self.entries = entries
        self.uses: Counter[tuple[str, bytes]] = Counter()
        """Changes of how many frontends use a shared element."""
        self.came: set[bytes] = set()
        """Addresses that have to be local from now on."""
        self.gone: set[bytes] = set()
        """Addresses that need not be local any more."""


class Table:
    """What one family's sets hold, as far as the agent wrote it.

    Nothing here talks to the kernel: `change` and `adoption` write a draft, and `accept` remembers it.

    Attributes:
        entries: by frontend; those that are closing, too.
    """

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.entries: dict[Frontend, Entry] = {}
        self._uses: Counter[tuple[str, bytes]] = Counter()

    def marks(self) -> dict[Frontend, int]:
        """Return the frontends that have a firewall mark, each with its own."""
        return {frontend: entry.mark for frontend, entry in self.entries.items() if entry.mark}

    def addresses(self) -> Iterator[bytes]:
        """Return the addresses that have to be made local: those of frontends that the node does not have anyway."""
        return (key for (name, key), uses in self._uses.items() if uses and name in _ADDRESSES)

    def _note_address(self, change: Change, address: bytes) -> None:
        before = any(self._uses[name, address] for name in _ADDRESSES)
        now = any(self._uses[name, address] + change.uses[name, address] for name in _ADDRESSES)
        if before != now:
            (change.came if now else change.gone).add(address)

    def change(self, changed: Mapping[Frontend, Entry | None], draft: Draft) -> Change:
        """Write a delta: frontends with their new entries, None for those that are gone."""
        change = Change(changed)
        for frontend, new in changed.items():
            old = self.entries.get(frontend)
            _write_difference(_elements(frontend, old), _elements(frontend, new), draft)
            _count(change.uses, frontend, old, -1)
            _count(change.uses, frontend, new, +1)
        for at, by in list(change.uses.items()):
            before, now = self._uses[at], self._uses[at] + by
            if bool(before) == bool(now):
                continue
            (draft.add if now else draft.remove)(*at)
            if at[0] in _ADDRESSES:
                self._note_address(change, at[1])
        return change

    def adoption(
        self, entries: Mapping[Frontend, Entry], settings: NodeSettings, held: Mapping[str, Elements], draft: Draft
    ) -> Change:  # fmt: skip
        """Write what leads from what the kernel holds to a whole plan."""
        change = Change(entries)
        wanted: dict[str, dict[bytes, bytes]] = {name: {} for name in held}
        for frontend, entry in entries.items():
            for name, key, value in elements(frontend, entry):
                wanted[name][key] = value
            _count(change.uses, frontend, entry, +1)
        for name, key in change.uses:
            wanted[name][key] = b""
        for name, now in wanted.items():
            if name in NETWORKS:
                _adopt_networks(self.family, name, settings, held[name], draft)
                continue
            _write_difference(_keyed(name, held[name]), _keyed(name, now), draft)
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
        for at in change.uses:
            if not self._uses[at]:
                del self._uses[at]


def _elements(frontend: Frontend, entry: Entry | None) -> dict[tuple[str, bytes], bytes]:
    return {(name, key): value for name, key, value in elements(frontend, entry)} if entry else {}


def _keyed(name: str, elements_of_set: Elements) -> _Keyed:
    return {(name, key): value for key, value in elements_of_set.items()}


def _write_difference(old: _Keyed, new: _Keyed, draft: Draft) -> None:
    for at, value in old.items():
        if new.get(at) != value:
            draft.remove(*at, value)
    for at, value in new.items():
        if old.get(at) != value:
            draft.add(*at, value)


def _count(uses: Counter[tuple[str, bytes]], frontend: Frontend, entry: Entry | None, by: int) -> None:
    for at in shared(frontend, entry) if entry else ():
        uses[at] += by


def _adopt_networks(family: Family, name: str, settings: NodeSettings, held: Elements, draft: Draft) -> None:
    wanted = address_ranges(family, networks_of(settings, name))
    # nft sets a mark at address 0.
    found = {key: value for key, value in held.items() if value == b"\0" or any(key)}
    if dict(boundaries(wanted)) != found:
        draft.replace_networks(name, wanted)
