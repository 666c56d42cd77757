"""What is wanted where frontends are: what the plan answers there, and what connections still need; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.ipvs.entries import Entry, key_of
from pointsman.dataplane.ipvs.objects import ServerKey
from pointsman.dataplane.ipvs.records import Marks
from pointsman.dataplane.ipvs.spots import Places
from pointsman.dataplane.ipvs.telling import NO_MARK, TAKEN
from pointsman.dataplane.nftables.layout import address_octets, address_text
from pointsman.model.plan import FAMILIES, NODE_PORT, Answer, NodeSettings, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.dataplane.ipvs.servers import Servers
    from pointsman.dataplane.ipvs.table import Table
    from pointsman.model.plan import Family, Frontend

_NOBODY: Final = Answer("", "rr", Pool())


class Wishes:
    """What is wanted at each spot, with nothing known of the plan at first.

    Args:
        tables: what each family's sets hold, kept up to date by the caller.
        servers: what the kernel holds of ours, likewise.

    Attributes:
        answers: the plan's.
        places: where frontends are.
        marks: each family's firewall marks.
        made_local: the addresses that our routes make local, as far as the sets tell.
        retired: another mode decides about new connections.
    """

    def __init__(self, tables: Mapping[Family, Table], servers: Servers) -> None:
        self._tables = tables
        self._servers = servers
        self._leaving: set[Frontend] = set()
        self.answers: dict[Frontend, Answer] = {}
        self.places = Places(NodeSettings(), ())
        self.marks = {family: Marks(family, {}) for family in FAMILIES}
        self.made_local: Mapping[Family, frozenset[bytes]] = {family: frozenset() for family in FAMILIES}
        self.retired = False

    def spots(self, frontends: Iterable[Frontend]) -> set[Frontend]:
        """Return where frontends are."""
        return {spot for frontend in frontends for spot in self.places.of(frontend)}

    def source(self, spot: Frontend) -> Frontend:
        """Return the frontend that is served at a spot: the one at that very address, or else the node port."""
        if spot in self.answers or not self.places.is_node_port(spot):
            return spot
        return msgspec.structs.replace(spot, address=NODE_PORT)

    def keys(self, spot: Frontend) -> list[ServerKey]:
        """Return the virtual servers of a spot that the kernel may hold."""
        mark = self.marks[spot.family].of(spot)
        return [key_of(spot), ServerKey(spot.family, "", "tcp", 0, mark)] if mark else [key_of(spot)]

    def entries(
        self, spots: Iterable[Frontend], strangers: frozenset[ServerKey], refused: dict[str, str]
    ) -> dict[Frontend, Entry | None]:
        """Return what is wanted at each spot; None where nothing is left.

        Args:
            spots: where.
            strangers: virtual servers of others.
            refused: gets a text for each spot that belongs to another.
        """
        found: dict[Frontend, Entry | None] = {}
        for spot in spots:
            if key_of(spot) not in strangers:
                entry = found[spot] = self._entry(spot)
                if entry and entry.answer.outside and not entry.mark:
                    refused[str(key_of(spot))] = NO_MARK.format(key_of(spot))
            elif not self.places.is_excluded(spot.address):
                refused[str(key_of(spot))] = TAKEN.format(key_of(spot))
        return found

    def take_ended(self) -> dict[Frontend, Entry | None]:
        """Return what is wanted at spots of which a virtual server was left, and has ended; their marks are free."""
        ended = [spot for spot in self._leaving if self._has_ended(spot)]
        self._leaving.difference_update(ended)
        for spot in ended:
            self.marks[spot.family].release(spot)
        return {spot: self._entry(spot) for spot in ended}

    def was_own(self, spot: Frontend) -> bool:
        """Tell whether the node had a spot's address by itself: that stays so even when it has left the node."""
        known = self._tables[spot.family].entries.get(spot)
        if known is not None:
            return known.own
        return address_octets(spot.family, spot.address) not in self.made_local[spot.family]

    def written(self) -> dict[ServerKey, Frontend]:
        """Return which virtual servers are ours as we wrote it: the table may have been flushed since."""
        return {key: spot for table in self._tables.values() for spot in table.entries for key in self.keys(spot)}

    def routes_of(self, table: Table) -> set[str]:
        """Return the networks that have to be local for a table's frontends."""
        family = table.family
        return self.places.routes(family, (address_text(family, octets) for octets in table.addresses()))

    def lone_routes(self, family: Family, addresses: Iterable[bytes]) -> set[str]:
        """Return the routes of addresses that have one of their own."""
        found = (self.places.lone_route(family, address_text(family, octets)) for octets in addresses)
        return set(filter(None, found))

    def _entry(self, spot: Frontend) -> Entry | None:
        answer = self.answers.get(self.source(spot))
        marks = self.marks[spot.family]
        own = spot.address in self.places.own
        if answer is None:
            if not any(key in self._servers.held for key in self.keys(spot)):
                marks.release(spot)
                return None
            self._leaving.add(spot)
            known = self._tables[spot.family].entries.get(spot)
            was = _NOBODY if known is None else known.answer
            return Entry(was, self.was_own(spot), marks.of(spot), closing=True, silent=self.retired)
        if answer.outside is not None:
            return Entry(answer, own, marks.take(spot))
        if marks.of(spot):
            # The clients inside had another pool until now; their virtual server stays for their connections.
            self._leaving.add(spot)
        return Entry(answer, own, marks.of(spot))

    def _has_ended(self, spot: Frontend) -> bool:
        main, *inside = self.keys(spot)
        if any(key in self._servers.held for key in inside):
            return False
        return main not in self._servers.held or self.source(spot) in self.answers
