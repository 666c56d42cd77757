"""A change of one family's rules as the input of ``iptables-restore --noflush``."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from pointsman.dataplane.iptables.names import FILTER, NAT, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pointsman.dataplane.iptables.names import Place, Table
    from pointsman.dataplane.iptables.services import PortRules
    from pointsman.model.plan import Answer, Frontend, NodeSettings, Transport

PortKey = tuple[str, "Transport"]
"""A Service's port: ``namespace/name:port`` and the protocol."""


class Change:
    """What goes to the kernel, and what `Ruleset.accept` remembers of it.

    The table ``filter`` gets what refuses connections before, and loses what refuses them after the table ``nat`` is
    written, as each table is a transaction of its own: at no time does a packet to a Service pass both.

    Attributes:
        added, removed: how many rules are written, and how many that were there are not any more.
        whole: the ports are all that there are, not only those that change.
        ports: the ports that change, with their frontends and rules; None for one that goes.
        settings: the new settings; None when they stay.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.added = 0
        self.removed = 0
        self.whole = whole
        self.ports: dict[PortKey, tuple[dict[Frontend, Answer], PortRules] | None] = {}
        self.settings: NodeSettings | None = None
        self.shared: set[str] = set()
        self._parts: dict[Table, _Part] = {table: _Part() for table in TABLES}
        self._late = _Part()
        self._owners: list[tuple[int, Frontend | None]] | None = None
        self._text: str | None = None

    def rewrite(self, place: Place, rules: Sequence[str], before: int, owner: Frontend | None = None) -> None:
        """Make a chain that does not exist, or put rules in place of whatever it holds.

        Args:
            place: the chain.
            rules: its rules.
            before: how many rules it holds now.
            owner: the frontend that the chain is for.
        """
        part = self._parts[place[0]]
        part.heads.append(f":{place[1]} - [0:0]")
        part.note(owner)
        part.rules += rules
        self.added += len(rules)
        self.removed += before

    def make(self, place: Place) -> None:
        """Make an empty chain; one that exists is emptied."""
        self._parts[place[0]].heads.append(f":{place[1]} - [0:0]")

    def delete(self, place: Place, before: int) -> None:
        """Delete a chain that no rule leads to any more."""
        part = self._parts[place[0]]
        part.heads.append(f":{place[1]} - [0:0]")
        part.tails.append(f"-X {place[1]}")
        self.removed += before

    def add(self, table: Table, rules: Iterable[str], owner: Frontend | None = None, *, first: bool = False) -> None:
        """Write rules behind those that a chain has, or in front of them."""
        part = self._parts[table]
        part.note(owner)
        found = list(rules)
        part.rules += [f"-I{rule[2:]}" for rule in reversed(found)] if first else found
        self.added += len(found)

    def remove(self, table: Table, rules: Iterable[str], owner: Frontend | None = None, *, late: bool = False) -> None:
        """Remove rules of a chain that has them; `late`: after the table ``nat`` is written."""
        part = self._late if late and table == FILTER else self._parts[table]
        part.note(owner)
        found = [f"-D{rule[2:]}" for rule in rules]
        part.rules += found
        self.removed += len(found)

    @property
    def text(self) -> str:
        """The input of ``iptables-restore --noflush``; "" when there is nothing to do."""
        if self._text is None:
            self._owners = []
            self._text = "".join(f"{line}\n" for line in self._lines(self._owners))
        return self._text

    def culprit(self, line: int) -> Frontend | None:
        """Return the frontend that a line of the text, counted from 1, is for; None when it is nobody's."""
        if not self.text or self._owners is None:
            return None
        place = bisect_right(self._owners, line, key=lambda owner: owner[0]) - 1
        return self._owners[place][1] if place >= 0 else None

    def _lines(self, owners: list[tuple[int, Frontend | None]]) -> Iterator[str]:
        line = 1
        parts = ((FILTER, self._parts[FILTER]), (NAT, self._parts[NAT]), (FILTER, self._late))
        for table, part in parts:
            if not part:
                continue
            yield from (f"*{table}", *part.heads)
            line += 1 + len(part.heads)
            owners += [(line + at, owner) for at, owner in part.owners]
            yield from part.rules
            line += len(part.rules)
            owners.append((line, None))
            yield from (*part.tails, "COMMIT")
            line += len(part.tails) + 1


class _Part:
    """The lines of one transaction."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.rules: list[str] = []
        self.tails: list[str] = []
        self.owners: list[tuple[int, Frontend | None]] = []

    def __bool__(self) -> bool:
        return bool(self.heads or self.rules or self.tails)

    def note(self, owner: Frontend | None) -> None:
        """Remember whose the rules from here on are."""
        if self.owners or owner is not None:
            self.owners.append((len(self.rules), owner))
