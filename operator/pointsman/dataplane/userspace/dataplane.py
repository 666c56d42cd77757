"""The userspace dataplane: a proxy with a port for each frontend, and the rules that lead connections there."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.adopting import adopt_families, name_of, part_of
from pointsman.dataplane.local_routes import LocalRoutes
from pointsman.dataplane.nftables.fixed import FixedTable
from pointsman.dataplane.nftables.port import NftPort
from pointsman.dataplane.nftables.readback import in_one_piece, read_held
from pointsman.dataplane.nftables.structure import read_structure
from pointsman.dataplane.nftables.wire import WireDraft, first_told
from pointsman.dataplane.protocol import DataplaneError, PlainDataplane, ServerTraffic, Support, Traffic, Written
from pointsman.dataplane.userspace.port import OWN_PRIORITY, Wish
from pointsman.dataplane.userspace.proxy import Place, Proxy, Target
from pointsman.dataplane.userspace.reading import frontends_held, ports_held
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES, SCHEMA
from pointsman.dataplane.userspace.table import Entry, Table, everybody, is_served
from pointsman.model.plan import FAMILIES, IPV4, Backend, Delta, Frontend, NodeSettings, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.dataplane.nftables.frontend_sets import Change
    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.dataplane.userspace.proxy import Tally
    from pointsman.model.plan import Answer, Family, Pool

SCHEDULERS: Final = ("rr",)
ROUTE_PROTOCOL: Final = 113
"""Whose the route to the proxy is (``ip route show table local proto 113``); 112 is that of the mode `ipvs`."""

_NO_SCTP: Final = "mode userspace has no SCTP, as the proxy copies streams and datagrams; use another mode for it"


class UserspaceDataplane(PlainDataplane):
    """The mode `userspace` (see `pointsman.dataplane.protocol.Dataplane`).

    Everything happens in the network namespace of the thread that made it, which has to be the one that calls; the
    proxy has a thread of its own.

    Args:
        clock: monotonic seconds.
    """

    mode = "userspace"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the way to the kernel.

        Raises:
            DataplaneError: the kernel has no nf_tables, or the process may not use them; with the remedy.
            OSError: it has no rtnetlink.
        """
        self._clock = clock
        self._port = NftPort(SCHEMA.table)
        self._routes = LocalRoutes(ROUTE_PROTOCOL)
        self._fixed = {family: FixedTable(SCHEMA, family, self._port) for family in FAMILIES}
        self._proxy = Proxy("userspace proxy", priority=OWN_PRIORITY)
        self._reset()

    def _reset(self) -> None:
        """Know nothing of what the kernel holds."""
        self._tables = {family: Table(family) for family in FAMILIES}
        self._settings: NodeSettings | None = None
        self._left_alone: set[Family] = set()
        self._abandoned: set[Frontend] = set()
        self._next_check = 0.0
        self._disturbed = False

    def support(self) -> Support:
        """See `Dataplane.support`."""
        reason = self._port.reason_against()
        return Support(available=not reason, schedulers=() if reason else SCHEDULERS, reason=reason)

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`.

        A port that a former agent had is taken again for the same frontend, if it is free: UDP clients go on.
        """
        # From here on everything is looked at, so only what happens meanwhile or later is a disturbance.
        self._port.listen()
        self._settings, self._disturbed = plan.settings, False
        self._next_check = self._clock() + plan.settings.sync_period
        self._left_alone.clear()
        self._abandoned.clear()
        written = adopt_families(plan, lambda family, answers: self._adopt_family(family, answers, plan.settings))
        self._close_unused()
        self._proxy.set_idle_timeout(plan.settings.userspace.udp_idle_timeout)
        return written

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        if self._settings is None:
            raise DataplaneError("adopt a plan before a delta is applied")
        if delta.settings is not None:
            answers = {f: entry.answer for table in self._tables.values() for f, entry in table.entries.items()}
            answers = {f: answer for f, answer in answers.items() if f not in delta.removed}
            return self.adopt(Plan({**answers, **delta.changed}, delta.settings))
        refused: dict[str, str] = {}
        added = removed = 0
        for family in FAMILIES:
            part = part_of(delta, family)
            if part.changed and family in self._left_alone:
                raise DataplaneError(f"adopt a plan before a delta of IPv{family} is applied")
            entries: dict[Frontend, Entry | None] = dict.fromkeys(part.removed)
            entries |= self._entries(part.changed, {}, self._settings, refused)
            known = self._tables[family].entries
            before = {target for f in entries if f in known for target in _targets(f, known[f])}
            draft = WireDraft(SCHEMA, family)
            change = self._tables[family].change(entries, draft)
            self._commit(family, draft, change, self._tables[family])
            self._proxy.close_ports(before - {t for f, entry in entries.items() if entry for t in _targets(f, entry)})
            added, removed = added + draft.added, removed + draft.removed
        return Written(added, removed, refused)

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`.

        The kernel knows a frontend's port alone. Who answers there, this proxy knows of its own ports, and nobody of
        those of another process.

        Raises:
            InterruptedError: nf_tables changed meanwhile, as by an agent that writes.
        """
        found: defaultdict[Frontend, set[Backend]] = defaultdict(set)
        own = self._proxy.endpoints()
        for family in FAMILIES:
            with in_one_piece(self._port.wire):
                is_there = read_structure(self._port.wire, SCHEMA, family) is not None
                held = read_held(self._port.wire, SCHEMA, family) if is_there else SCHEMA.empty(family)
            for led in frontends_held(family, held):
                is_ours = led.to is not None and own.get(led.target) == led.to
                known = self._backends(led.target.frontend, inside=led.target.inside) if is_ours else ()
                found[led.target.frontend].update(known)
        return {frontend: tuple(sorted(backends)) for frontend, backends in found.items()}

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`."""
        found = self._port.disturbed() or self._disturbed
        self._disturbed = False
        return found

    def tend(self) -> None:
        """Look after the routes each `sync_period`.

        Raises:
            DataplaneError: connections wait since no file is left for them; with the remedy.
        """
        now = self._clock()
        if self._settings is not None and now >= self._next_check:
            self._next_check = now + self._settings.sync_period
            try:
                self._disturbed = self._disturbed or any(not self._has_route(f) for f in FAMILIES)
            except OSError as error:
                raise DataplaneError(f"routes can't be read: {error}") from error
        if self._proxy.problem:
            raise DataplaneError(self._proxy.problem)

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`; the proxy counts, from its start on."""
        tallies = self._proxy.tallies()
        return {
            frontend: _traffic(frontend, entry.answer, tallies)
            for table in self._tables.values()
            for frontend, entry in table.entries.items()
        }

    def retire(self, limit: float) -> None:
        """See `Dataplane.retire`: nothing leads to the proxy any more; what came before goes on until `cleanup`."""
        del limit
        self._settings = None
        for family in FAMILIES:
            if family not in self._left_alone:
                self._write_family(family, {}, NodeSettings())
        # Also connections that are under way now are let in, as the ports stay open.
        self._proxy.accept_all()

    def carried(self) -> int:
        """See `Dataplane.carried`."""
        return self._proxy.carried()

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> None:
        """See `Dataplane.follow`: clients of UDP leave a backend that left, and a port that is not wanted any more."""
        there = [target for target in self._proxy.targets() if target.frontend in changes]
        wanted = {t: wish for f, answer in changes.items() if answer for t, wish in wishes_of(f, answer)}
        wishes = {target: wanted[target] for target in there if target in wanted}
        self._proxy.change(wishes, {}, 0.0)
        self._proxy.close_ports([target for target in there if target not in wanted])

    def own_endpoints(self) -> dict[Frontend, frozenset[tuple[str, int]]]:
        """See `Dataplane.own_endpoints`; a former agent's frontends of which nothing is left are among them."""
        found = dict.fromkeys(self._abandoned, frozenset[tuple[str, int]]())
        for target, endpoint in self._proxy.endpoints().items():
            found[target.frontend] = found.get(target.frontend, frozenset()) | {endpoint}
        return found

    def cleanup(self) -> None:
        """Delete the tables and the routes, and end all connections."""
        for fixed in self._fixed.values():
            fixed.delete()
        self._proxy.stop()
        try:
            for family in FAMILIES:
                self._routes.change(family, (), self._routes.read(family))
        except OSError as error:
            raise DataplaneError(f"the proxy's route can't be removed: {error}") from error
        self._reset()

    def close(self) -> None:
        """End all connections and close the sockets; the rules stay, and lead nowhere: connections are refused."""
        self._proxy.stop()
        self._port.close()
        self._routes.close()

    def _adopt_family(self, family: Family, answers: Mapping[Frontend, Answer], settings: NodeSettings) -> Written:
        refused: dict[str, str] = {}
        try:
            if not self._has_route(family):
                self._routes.change(family, [_route(family)], ())
            found = self._fixed[family].look(drop_invalid=True)
            former = ports_held(family, found.held)
            self._abandoned |= {target.frontend for target in former} - answers.keys()
            entries = self._entries(answers, former, settings, refused)
            draft = self._write_family(family, entries, settings, found.held)
        except (DataplaneError, OSError) as error:
            self._left_alone.add(family)
            raise DataplaneError(str(error)) from error
        return Written(draft.added, draft.removed, refused)

    def _write_family(
        self,
        family: Family,
        entries: Mapping[Frontend, Entry],
        settings: NodeSettings,
        held: Mapping[str, Elements] | None = None,
    ) -> WireDraft:
        """Write a family's table whole; `held` is what it holds, if that is known."""
        if held is None:
            held = self._fixed[family].look(drop_invalid=True).held
        table, draft = Table(family), WireDraft(SCHEMA, family)
        self._commit(family, draft, table.adoption(entries, settings, held, draft), table)
        self._tables[family] = table
        self._fixed[family].seal(drop_invalid=True)
        return draft

    def _commit(self, family: Family, draft: WireDraft, change: Change[Entry], table: Table) -> None:
        messages = draft.messages()
        refusals = self._port.transact(messages) if messages else ()
        if refusals:
            raise DataplaneError(f"nftables refused to {first_told(SCHEMA, family, messages, refusals).text}")
        table.accept(change)

    def _entries(
        self,
        answers: Mapping[Frontend, Answer],
        former: Mapping[Target, int],
        settings: NodeSettings,
        refused: dict[str, str],
    ) -> dict[Frontend, Entry]:
        """Open the ports that answers need, and say where they are.

        Args:
            answers: by frontend.
            former: ports that the kernel's elements lead to.
            settings: of the node.
            refused: gets a text for each frontend that cannot be served.
        """
        wishes = {target: wish for f, answer in answers.items() for target, wish in wishes_of(f, answer)}
        places = {
            target: Place(
                PROXY_ADDRESSES[target.frontend.family], (former[target], 0) if target in former else (0,)
            )
            for target in wishes
        }  # fmt: skip
        opened = self._proxy.change(wishes, places, settings.userspace.udp_idle_timeout)
        refused |= {name_of(target.frontend): text for target, text in opened.refused.items()}
        refused |= {name_of(frontend): _NO_SCTP for frontend in answers if frontend.protocol == "sctp"}
        return {
            frontend: Entry(
                answer, opened.ports.get(Target(frontend), 0), opened.ports.get(Target(frontend, inside=True), 0)
            )
            for frontend, answer in answers.items()
        }

    def _close_unused(self) -> None:
        """Close the ports that no element leads to any more."""
        used = {
            target
            for table in self._tables.values()
            for frontend, entry in table.entries.items()
            for target in _targets(frontend, entry)
        }
        self._proxy.close_ports(self._proxy.targets() - used)

    def _backends(self, frontend: Frontend, *, inside: bool) -> tuple[Backend, ...]:
        entry = self._tables[frontend.family].entries.get(frontend)
        if entry is None:
            return ()
        pool = entry.answer.pool if inside else everybody(entry.answer)
        return tuple(
            Backend(backend.address, backend.port, backend.weight) for backend in pool.backends if backend.weight
        )

    def _has_route(self, family: Family) -> bool:
        return family in self._left_alone or _route(family) in self._routes.read(family)


def wishes_of(frontend: Frontend, answer: Answer) -> Iterator[tuple[Target, Wish]]:
    """Return the ports that a frontend needs: none for a pool in which nobody gets new connections."""
    if frontend.protocol == "sctp":
        return
    if is_served(everybody(answer)):
        yield Target(frontend), _wish(everybody(answer), answer)
    if answer.outside is not None and is_served(answer.pool):
        yield Target(frontend, inside=True), _wish(answer.pool, answer)


def _targets(frontend: Frontend, entry: Entry) -> Iterator[Target]:
    return (target for target, _ in wishes_of(frontend, entry.answer))


def _wish(pool: Pool, answer: Answer) -> Wish:
    return Wish(pool.backends, answer.affinity)


def _route(family: Family) -> str:
    return f"{PROXY_ADDRESSES[family]}/{32 if family == IPV4 else 128}"


def _traffic(frontend: Frontend, answer: Answer, tallies: Mapping[Target, Tally]) -> Traffic:
    counted = [tallies[target] for target in (Target(frontend), Target(frontend, inside=True)) if target in tallies]
    backends = {
        (backend.address, backend.port): backend.weight
        for pool in (answer.pool, everybody(answer))
        for backend in pool.backends
    }
    return Traffic(
        sum(tally.total for tally in counted),
        {
            key: ServerTraffic(
                sum(tally.backends.get(key, (0, 0))[0] for tally in counted),
                weight,
                sum(tally.backends.get(key, (0, 0))[1] for tally in counted),
                0,
            )
            for key, weight in backends.items()
        },
    )
