"""One address family's sets of the mode `ipvs`, and which addresses have to be local for them; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.entries import Entry, elements, shared
from pointsman.dataplane.ipvs.rules import networks_of
from pointsman.dataplane.nftables import frontend_sets
from pointsman.dataplane.nftables.frontend_sets import Filling, FrontendSets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.nftables.wire import Draft
    from pointsman.model.plan import Family, Frontend

_ADDRESSES: Final = ("cluster-ips", "external-ips")
_FILLING: Final = Filling(elements, shared, networks_of)


class Change(frontend_sets.Change[Entry]):
    """A change in the making, and what it does to addresses."""

    def __init__(self, entries: Mapping[Frontend, Entry | None]) -> None:
        super().__init__(entries)
        self.came: set[bytes] = set()
        """Addresses that have to be local from now on."""
        self.gone: set[bytes] = set()
        """Addresses that need not be local any more."""


class Table(FrontendSets[Entry]):
    """What one family's sets hold; among its entries are frontends that are closing."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, _FILLING)

    def marks(self) -> dict[Frontend, int]:
        """Return the frontends that have a firewall mark, each with its own."""
        return {frontend: entry.mark for frontend, entry in self.entries.items() if entry.mark}

    def addresses(self) -> Iterator[bytes]:
        """Return the addresses that have to be made local: those of frontends that the node does not have anyway."""
        return (key for (name, key), uses in self.uses.items() if uses and name in _ADDRESSES)

    def change(self, changed: Mapping[Frontend, Entry | None], draft: Draft) -> Change:
        """See `FrontendSets.change`."""
        change = Change(changed)
        self.write(change, draft)
        for (name, key), _ in self.turns(change):
            if name in _ADDRESSES:
                self._note_address(change, key)
        return change

    def _note_address(self, change: Change, address: bytes) -> None:
        before = any(self.uses[name, address] for name in _ADDRESSES)
        now = any(self.uses[name, address] + change.uses[name, address] for name in _ADDRESSES)
        if before != now:
            (change.came if now else change.gone).add(address)
