"""The IPVS dataplane: virtual servers, the rules around them, and the routes that make their addresses local."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.counting import Counting
from pointsman.dataplane.ipvs.entries import key_of, servers
from pointsman.dataplane.ipvs.kernel import IpvsKernel
from pointsman.dataplane.ipvs.reading import read_former_records, read_records
from pointsman.dataplane.ipvs.records import Marks, made_local, marks_of, records_of
from pointsman.dataplane.ipvs.rules import SCHEMA
from pointsman.dataplane.ipvs.servers import DELETE, Held, Servers
from pointsman.dataplane.ipvs.spots import Places
from pointsman.dataplane.ipvs.table import Table
from pointsman.dataplane.ipvs.telling import Count, told
from pointsman.dataplane.ipvs.wishes import Wishes
from pointsman.dataplane.nftables.fixed import FixedTable
from pointsman.dataplane.nftables.port import NftPort
from pointsman.dataplane.nftables.wire import WireDraft, first_told
from pointsman.dataplane.protocol import DataplaneError, PlainDataplane, Support
from pointsman.dataplane.sysctl import SYSCTL_ROOT
from pointsman.model.plan import FAMILIES, Backend, IpvsSettings, NodeSettings, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from pointsman.dataplane.ipvs.entries import Entry
    from pointsman.dataplane.ipvs.objects import ServerKey
    from pointsman.dataplane.ipvs.servers import Command
    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.dataplane.protocol import Traffic, Written
    from pointsman.model.plan import Delta, Family, Frontend

_DRAIN_PAUSE: Final = 1.0
"""Seconds from one look at draining real servers to the next one."""
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})


class IpvsDataplane(PlainDataplane):
    """The mode `ipvs` (see `pointsman.dataplane.protocol.Dataplane`).

    Everything happens in the network namespace of the thread that made it, which has to be the one that calls.

    Args:
        sysctl_root: where the kernel's parameters are.
        clock: monotonic seconds.
    """

    mode = "ipvs"

    def __init__(self, sysctl_root: Path = SYSCTL_ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the way to the kernel.

        Raises:
            DataplaneError: the kernel has no nf_tables, or the process may not use them; with the remedy.
            OSError: it has no rtnetlink.
        """
        self._clock = clock
        self._kernel = IpvsKernel(sysctl_root)
        self._port = NftPort(SCHEMA.table)
        self._fixed = {family: FixedTable(SCHEMA, family, self._port) for family in FAMILIES}
        self._counting = Counting()
        self._reset()

    def _reset(self) -> None:
        """Know nothing of what the kernel holds."""
        self._tables = {family: Table(family) for family in FAMILIES}
        self._servers = Servers(self._clock)
        self._wishes = Wishes(self._tables, self._servers)
        self._settings: NodeSettings | None = None
        self._lost: set[ServerKey] = set()
        self._next_look = self._next_check = 0.0
        self._disturbed = False
        self._carried = 0

    def support(self) -> Support:
        """See `Dataplane.support`."""
        reason = self._port.reason_against() or self._kernel.reason_against()
        if reason:
            return Support(available=False, reason=reason)
        return Support(available=True, schedulers=self._kernel.schedulers())

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`; one that had retired is in force again, and what drains goes on to drain."""
        self._wishes.retired = False
        try:
            return self._adopt(plan)
        except OSError as error:
            raise DataplaneError(f"IPVS: {error}") from error

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        if self._settings is None:
            raise DataplaneError("adopt a plan before a delta is applied")
        for frontend in delta.removed:
            self._wishes.answers.pop(frontend, None)
        self._wishes.answers.update(delta.changed)
        if delta.settings is not None:
            return self.adopt(Plan(self._wishes.answers, delta.settings))
        try:
            return self._apply({*delta.changed, *delta.removed})
        except OSError as error:
            raise DataplaneError(f"IPVS: {error}") from error

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`; a node port is a frontend at each of the node's addresses."""
        try:
            held = self._kernel.servers()
        except OSError as error:
            raise DataplaneError(f"IPVS can't be read: {error}") from error
        found: dict[Frontend, tuple[Backend, ...]] = {}
        for key, frontend in self._recorded().items():
            reals = held[key][1] if key in held else {}
            used = [Backend(real.address, real.port, weight) for real, weight in reals.items() if weight]
            found[frontend] = tuple(sorted({*used, *found.get(frontend, ())}))
        return found

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`; IPVS tells of no change, so that `tend` looks from time to time."""
        found = self._port.disturbed() or self._disturbed
        self._disturbed = False
        try:
            # Every pod that starts brings an address along; few of them are served.
            return found or (self._kernel.watch.heard() and not self._has_same_addresses())
        except OSError:
            return True

    def tend(self) -> None:
        """Delete the real servers whose connections have ended; compare what IPVS holds, each `sync_period`."""
        now = self._clock()
        if self._settings is None:
            return
        try:
            if now >= self._next_look and (self._servers.draining or self._servers.closing):
                self._next_look = now + _DRAIN_PAUSE
                self._finish()
            if now >= self._next_check and not self._wishes.retired:
                self._next_check = now + self._settings.sync_period
                self._disturbed = self._disturbed or not self._is_intact()
        except OSError as error:
            # Some of it may have been done.
            self._disturbed = True
            raise DataplaneError(f"IPVS: {error}") from error

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`."""
        spots = [spot for table in self._tables.values() for spot in table.entries]
        sources = {key: self._wishes.source(spot) for spot in spots for key in self._wishes.keys(spot)}
        try:
            return self._counting.count(self._kernel, sources)
        except OSError as error:
            raise DataplaneError(f"IPVS can't be read: {error}") from error

    def retire(self, limit: float) -> None:
        """See `Dataplane.retire`: virtual servers stay for the connections that they carry, UDP flows included.

        New connections are translated before they could come here. What an agent before this one left is found in the
        sets.
        """
        self._wishes.retired = True
        try:
            if self._kernel.has_ipvs():
                self._retire(limit)
            else:
                self.cleanup()
        except OSError as error:
            raise DataplaneError(f"IPVS: {error}") from error

    def carried(self) -> int:
        """See `Dataplane.carried`; as `retire` or `tend` saw it last."""
        return self._carried

    def cleanup(self) -> None:
        """Delete our virtual servers, routes and tables."""
        try:
            for family in FAMILIES:
                self._kernel.routes.change(family, (), self._kernel.routes.read(family))
            if self._kernel.has_ipvs():
                self._remove_servers()
        except OSError as error:
            raise DataplaneError(f"IPVS can't be cleaned up: {error}") from error
        for fixed in self._fixed.values():
            fixed.delete()
        self._reset()

    def _remove_servers(self) -> None:
        held = self._kernel.servers()
        records = self._wishes.written() | self._recorded()
        self._servers.adopt({key: Held(*held[key], spot.protocol) for key, spot in records.items() if key in held})
        self._drop(list(self._servers.held))

    def _drop(self, keys: Iterable[ServerKey]) -> None:
        """Delete virtual servers with all that they carry.

        Raises:
            DataplaneError: the kernel refused.
        """
        refused: dict[str, str] = {}
        self._run(self._servers.drop(keys), refused)
        if refused:
            raise DataplaneError("; ".join(refused.values()))

    def _retire(self, limit: float) -> None:
        """Let go at once what no connection needs, and the rest when its connections have ended."""
        wishes = self._wishes
        settings = NodeSettings(drop_invalid=False, ipvs=IpvsSettings(graceful_termination=limit))
        known = {family: read_records(self._port.wire, family) for family in FAMILIES}
        wishes.made_local = {family: made_local(known[family]) for family in FAMILIES}
        held, records = self._kernel.servers(), wishes.written() | self._recorded()
        self._servers.adopt({key: Held(*held[key], spot.protocol) for key, spot in records.items() if key in held})
        connections = self._kernel.connections(self._servers.held.keys())
        self._drop([key for key, counts in connections.items() if not any(counts.values())])
        self._servers.patient = True
        spots = {records[key] for key in self._servers.held}
        places = Places(settings, self._kernel.watch.read())
        for family in FAMILIES:
            # Before the route of their whole network goes.
            strange = (spot for spot in spots if spot.family == family and not wishes.was_own(spot))
            alone = {places.lone_route(family, spot.address) for spot in strange}
            self._kernel.routes.change(family, alone, ())
        self._adopt(Plan({}, settings))
        self._carried = sum(sum(connections[key].values()) for key in self._servers.held)

    def close(self) -> None:
        """Close the sockets."""
        self._port.close()
        self._kernel.close()

    def _adopt(self, plan: Plan) -> Written:
        # From here on everything is looked at, so only what happens meanwhile or later is a disturbance.
        self._port.listen()
        self._kernel.watch.heard()
        wishes = self._wishes
        settings = plan.settings
        self._kernel.prepare(settings.ipvs)
        self._disturbed, self._settings, wishes.answers = False, settings, dict(plan.answers)
        wishes.places = Places(settings, self._kernel.watch.read())
        self._servers.limit, self._servers.patient = settings.ipvs.graceful_termination, wishes.retired
        self._next_check = self._clock() + settings.sync_period
        known = {family: read_former_records(self._port.wire, family) for family in FAMILIES}
        found = {family: self._fixed[family].look(drop_invalid=settings.drop_invalid).held for family in FAMILIES}
        known = {family: known[family] or found[family] for family in FAMILIES}
        held = self._kernel.servers()
        records = wishes.written() | {
            key: f for family in FAMILIES for key, f in records_of(family, known[family]).items()
        }
        strangers = frozenset(held.keys() - records.keys())
        taken = frozenset(key.mark for key in strangers)
        wishes.marks = {
            family: Marks(family, self._tables[family].marks() | marks_of(family, known[family]), taken)
            for family in FAMILIES
        }
        self._servers.adopt({key: Held(*held[key], f.protocol) for key, f in records.items() if key in held})
        count, refused = Count(self._servers), dict[str, str]()
        self._lost.clear()
        wishes.made_local = {family: made_local(known[family]) for family in FAMILIES}
        spots = wishes.spots(wishes.answers) | {records[key] for key in self._servers.held}
        entries = wishes.entries(spots, strangers, refused)
        for family in FAMILIES:
            self._adopt_sets(family, entries, found[family], settings, count)
        self._change_servers(entries, list(self._servers.held), refused)
        for family in FAMILIES:
            self._kernel.routes.adopt(family, wishes.routes_of(self._tables[family]))
        self._sweep(count, refused)
        return count.written(refused)

    def _apply(self, frontends: Iterable[Frontend]) -> Written:
        """Bring frontends to what is answered there now."""
        wishes = self._wishes
        count, refused = Count(self._servers), dict[str, str]()
        spots = wishes.spots(frontends)
        known = {spot for spot in spots if spot in self._tables[spot.family].entries}
        strangers = self._kernel.there({key_of(spot) for spot in spots - known})
        entries = wishes.entries(spots, strangers, refused)
        before = [key for spot in known for key in wishes.keys(spot)]
        came = {family: self._write_sets(family, entries, count) for family in FAMILIES}
        self._change_servers(entries, before, refused)
        for family in FAMILIES:
            self._kernel.routes.change(family, wishes.lone_routes(family, came[family]), ())
        self._sweep(count, refused)
        return count.written(refused)

    def _adopt_sets(
        self,
        family: Family,
        entries: Mapping[Frontend, Entry | None],
        found: Mapping[str, Elements],
        settings: NodeSettings,
        count: Count,
    ) -> None:
        table, draft = Table(family), WireDraft(SCHEMA, family)
        wanted = {spot: entry for spot, entry in entries.items() if spot.family == family and entry is not None}
        change = table.adoption(wanted, self._wishes.places.settings, found, draft)
        table.accept(change)
        # Routes go before the rules that guard their addresses, but for those in place of which a wider one comes.
        gone = self._kernel.routes.read(family) - self._wishes.routes_of(table)
        self._kernel.routes.change(family, (), {each for each in gone if not self._wishes.places.covers(family, each)})
        self._commit(family, draft, count)
        self._tables[family] = table
        self._fixed[family].seal(drop_invalid=settings.drop_invalid)

    def _write_sets(
        self, family: Family, entries: Mapping[Frontend, Entry | None], count: Count
    ) -> set[bytes]:  # fmt: skip
        """Write a delta of the sets; return the addresses that have to be made local."""
        table, draft = self._tables[family], WireDraft(SCHEMA, family)
        change = table.change({spot: e for spot, e in entries.items() if spot.family == family}, draft)
        # Routes go before the rules that guard their addresses.
        self._kernel.routes.change(family, (), self._wishes.lone_routes(family, change.gone))
        self._commit(family, draft, count)
        table.accept(change)
        return change.came

    def _commit(self, family: Family, draft: WireDraft, count: Count) -> None:
        messages = draft.messages()
        if not messages:
            return
        refusals = self._port.transact(messages)
        if refusals:
            raise DataplaneError(f"nftables refused to {first_told(SCHEMA, family, messages, refusals).text}")
        count.add(draft)

    def _change_servers(
        self, entries: Mapping[Frontend, Entry | None], before: Iterable[ServerKey], refused: dict[str, str]
    ) -> None:
        wanted = dict(pair for spot, entry in entries.items() if entry for pair in servers(spot, entry))
        if self._lost:
            # Nobody knows what the kernel holds of these; the full comparison that follows finds out.
            self._disturbed = True
            wanted = {key: each for key, each in wanted.items() if key not in self._lost}
        self._run(self._servers.change(wanted.items(), [key for key in before if key not in wanted]), refused)

    def _run(self, commands: list[Command], refused: dict[str, str]) -> None:
        """Send commands; what is refused is not known any more, so that the next full comparison finds out.

        Raises:
            DataplaneError: IPVS is not there any more.
        """
        refusals = self._kernel.ipvs.run([command.message for command in commands])
        if any(refusal.error == errno.ENOENT for refusal in refusals) and not self._kernel.has_ipvs():
            raise DataplaneError(self._kernel.reason_against())
        for refusal in refusals:
            command = commands[refusal.index]
            if command.verb == DELETE and refusal.error in _GONE:
                continue
            self._servers.forget(command.key)
            self._lost.add(command.key)
            refused.setdefault(str(command.key), told(command, refusal))

    def _finish(self) -> None:
        """Delete what has ended."""
        counts = self._kernel.connections({key for key, _ in self._servers.draining})
        refused: dict[str, str] = {}
        self._run(self._servers.finish(counts), refused)
        self._carried = sum(counts.get(key, {}).get(real, 0) for key, real in self._servers.draining)
        self._disturbed = self._disturbed or bool(refused)
        self._sweep(Count(self._servers), refused)

    def _sweep(self, count: Count, refused: Mapping[str, str]) -> None:
        """Take spots out of the sets whose last virtual server is gone, and marks that nobody needs any more.

        After a refusal nothing is certain, and what is ours has to stay on record until the next full comparison.
        """
        if refused:
            return
        entries = self._wishes.take_ended()
        if not entries:
            return
        for family in FAMILIES:
            self._write_sets(family, entries, count)

    def _recorded(self) -> dict[ServerKey, Frontend]:
        """Read which virtual servers are ours."""
        return {key: spot for f in FAMILIES for key, spot in records_of(f, read_records(self._port.wire, f)).items()}

    def _is_intact(self) -> bool:
        """Tell whether IPVS and the routes hold what we wrote there, and the node has the addresses that it had."""
        held, ours = self._kernel.servers(), self._servers.held
        return (
            all(held.get(key) == (each.server, each.reals) for key, each in ours.items())
            and not any(key in held and key not in ours for key in self._wishes.written())
            and all(self._kernel.routes.has(f, self._wishes.routes_of(self._tables[f])) for f in FAMILIES)
            and self._has_same_addresses()
        )

    def _has_same_addresses(self) -> bool:
        return self._settings is None or Places(self._settings, self._kernel.watch.read()) == self._wishes.places
