"""A change of a table in the making, and the numbers of classes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pointsman.dataplane.nftables import classes
from pointsman.dataplane.nftables.classes import Pick, Recall, Remember
from pointsman.dataplane.nftables.layout import NETWORKS
from pointsman.dataplane.nftables.wire import Elements

if TYPE_CHECKING:
    from pointsman.dataplane.nftables.entries import Entry
    from pointsman.dataplane.nftables.wire import Draft
    from pointsman.model.plan import Frontend, NodeSettings

Chain = Pick | Recall | Remember
Held = dict[str, Elements]
"""Every set that the kernel holds, but for the one that packets fill."""


class Numbers:
    """Gives classes their numbers; those of chains that serve one frontend are given out in turn."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._used: set[int] = set()
        self._next = classes.FIRST_OWN

    def __call__(self, pick: Pick) -> int:
        """Return a class's number."""
        if pick.number is not None:
            return pick.number
        known = self._own.get(pick.chain)
        if known is None:
            while self._next in self._used:
                self._next += 1
            known = self._next
            self.adopt(pick.chain, known)
        return known

    def adopt(self, chain: str, value: int) -> None:
        """Learn a number that is in use in the kernel."""
        if value >= classes.FIRST_OWN and classes.is_class_chain(chain):
            self._own[chain] = value
            self._used.add(value)

    def forget(self, chain: str) -> None:
        """Forget a chain that is gone."""
        self._used.discard(self._own.pop(chain, 0))


class Change:
    """A change of a table in the making: the draft, and what is remembered once the kernel has taken it."""

    def __init__(self, draft: Draft, held: Held | None = None) -> None:
        self.draft = draft
        self.entries: dict[Frontend, Entry] = {}
        self.gone: set[Frontend] = set()
        self.uses: Counter[tuple[str, bytes]] = Counter()
        """Changes of how many frontends use an element or a chain's class."""
        self.chains: dict[str, Chain] = {}
        self.settings: NodeSettings | None = None
        self.refused: dict[Frontend, str] = {}
        self.retired: set[tuple[str, bytes]] = set()
        """Classes and chains that lose their last user with this change, and go with the next one."""
        self.new_chains: list[str] = []
        self.old_chains: list[str] = []
        self._held = held

    @property
    def adopting(self) -> bool:
        """The change starts from what the kernel holds, not from what is remembered."""
        return self._held is not None

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        """Add a chain, or write its rules anew."""
        self.new_chains.append(chain.chain)
        self.draft.add_chain(chain, present=present)

    def remove_chain(self, name: str) -> None:
        """Remove a chain."""
        self.old_chains.append(name)
        self.draft.remove_chain(name)

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Add an element, unless the kernel is known to hold it."""
        if self._held is not None:
            before = self._held[name].pop(key, None)
            if before == value:
                return
            if before is not None:
                self.draft.remove(name, key, before)
        self.draft.add(name, key, value)

    def replace(self, name: str, key: bytes, before: bytes, after: bytes) -> None:
        """Change an element; b"" as `before` or `after` of an endpoint's slot means there is none."""
        if before:
            self.draft.remove(name, key, before)
        if after:
            self.put(name, key, after)

    def sweep(self) -> None:
        """Remove what the kernel holds beyond what was put."""
        for name, left in (self._held or {}).items():
            if name not in NETWORKS:
                for key, value in left.items():
                    self.draft.remove(name, key, value)
