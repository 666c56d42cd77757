"""One address family's sets, filled by frontends: what they hold, and the way to what they shall hold; pure.

It serves the modes that have a few elements for each frontend beside what does the work (virtual servers, a proxy). An
element that several frontends need is there as long as one of them does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pointsman.dataplane.nftables.entries import address_ranges
from pointsman.dataplane.nftables.wire import boundaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pointsman.dataplane.nftables.wire import Draft, Elements
    from pointsman.model.plan import Family, Frontend, NodeSettings

Place = tuple[str, bytes]
"""Where an element is: its set and its key."""
_Values = Mapping[Place, bytes]

Entry = TypeVar("Entry")
"""What is wanted for one frontend."""


class Filling(NamedTuple, Generic[Entry]):
    """What belongs into the sets of a mode.

    Attributes:
        own: returns set, key and value of a frontend's elements but those that it shares with others.
        shared: returns the elements that a frontend shares with others.
        networks: returns the sets of networks, each with those that belong into it, of both families.
    """

    own: Callable[[Frontend, Entry], Iterable[tuple[str, bytes, bytes]]]
    shared: Callable[[Frontend, Entry], Iterable[Place]]
    networks: Callable[[NodeSettings], Mapping[str, tuple[str, ...]]]


class Change(Generic[Entry]):
    """A change in the making: what is remembered once the kernel has taken it."""

    def __init__(self, entries: Mapping[Frontend, Entry | None]) -> None:
        self.entries = entries
        self.uses: Counter[Place] = Counter()
        """Changes of how many frontends use a shared element."""


class FrontendSets(Generic[Entry]):
    """What one family's sets hold, as far as the agent wrote it.

    Nothing here talks to the kernel: `change` and `adoption` write a draft, and `accept` remembers it.

    Args:
        family: address family.
        filling: what belongs into the sets.

    Attributes:
        entries: by frontend.
        uses: how many frontends use a shared element; those that nobody uses are not there.
    """

    def __init__(self, family: Family, filling: Filling[Entry]) -> None:
        self.family: Family = family
        self.entries: dict[Frontend, Entry] = {}
        self.uses: Counter[Place] = Counter()
        self._filling = filling

    def change(self, changed: Mapping[Frontend, Entry | None], draft: Draft) -> Change[Entry]:
        """Write a delta: frontends with their new entries, None for those that are gone."""
        change = Change(changed)
        self.write(change, draft)
        return change

    def write(self, change: Change[Entry], draft: Draft) -> None:
        """Write what a change that was made from a delta does."""
        for frontend, new in change.entries.items():
            old = self.entries.get(frontend)
            _write_difference(self._own(frontend, old), self._own(frontend, new), draft)
            self._count(change, frontend, old, -1)
            self._count(change, frontend, new, +1)
        for place, is_used in self.turns(change):
            (draft.add if is_used else draft.remove)(*place)

    def turns(self, change: Change[Entry]) -> Iterator[tuple[Place, bool]]:
        """Return the shared elements that come (true) or go (false) with a change that is not accepted yet."""
        for place, by in change.uses.items():
            before, now = self.uses[place], self.uses[place] + by
            if bool(before) != bool(now):
                yield place, bool(now)

    def adoption(
        self, entries: Mapping[Frontend, Entry], settings: NodeSettings, held: Mapping[str, Elements], draft: Draft
    ) -> Change[Entry]:  # fmt: skip
        """Write what leads from what the kernel holds to a whole plan."""
        change = Change(entries)
        wanted: dict[str, dict[bytes, bytes]] = {name: {} for name in held}
        for frontend, entry in entries.items():
            for name, key, value in self._filling.own(frontend, entry):
                wanted[name][key] = value
            self._count(change, frontend, entry, +1)
        for name, key in change.uses:
            wanted[name][key] = b""
        networks = self._filling.networks(settings)
        for name, elements in wanted.items():
            if name in networks:
                self._adopt_networks(name, networks[name], held[name], draft)
            else:
                _write_difference(_of_set(name, held[name]), _of_set(name, elements), draft)
        self.entries, self.uses = {}, Counter()
        return change

    def accept(self, change: Change[Entry]) -> None:
        """Remember a change that the kernel has taken."""
        for frontend, entry in change.entries.items():
            if entry is None:
                self.entries.pop(frontend, None)
            else:
                self.entries[frontend] = entry
        self.uses.update(change.uses)
        for place in change.uses:
            if not self.uses[place]:
                del self.uses[place]

    def _own(self, frontend: Frontend, entry: Entry | None) -> _Values:
        if entry is None:
            return {}
        return {(name, key): value for name, key, value in self._filling.own(frontend, entry)}

    def _count(self, change: Change[Entry], frontend: Frontend, entry: Entry | None, by: int) -> None:
        for place in self._filling.shared(frontend, entry) if entry is not None else ():
            change.uses[place] += by

    def _adopt_networks(self, name: str, networks: tuple[str, ...], held: Elements, draft: Draft) -> None:
        wanted = address_ranges(self.family, networks)
        # nft sets a mark at address 0.
        found = {key: value for key, value in held.items() if value == b"\0" or any(key)}
        if dict(boundaries(wanted)) != found:
            draft.replace_networks(name, wanted)


def _of_set(name: str, elements: Elements) -> _Values:
    return {(name, key): value for key, value in elements.items()}


def _write_difference(old: _Values, new: _Values, draft: Draft) -> None:
    for at, value in old.items():
        if new.get(at) != value:
            draft.remove(*at, value)
    for at, value in new.items():
        if old.get(at) != value:
            draft.add(*at, value)
