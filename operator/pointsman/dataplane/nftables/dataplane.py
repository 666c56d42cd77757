"""The nftables dataplane: one table for each address family, kept in step with the plan."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.adopting import MOST_QUARANTINED, adopt_families, name_of, part_of, set_aside
from pointsman.dataplane.nftables import structure
from pointsman.dataplane.nftables.counters import Counters
from pointsman.dataplane.nftables.fixed import FixedTable
from pointsman.dataplane.nftables.layout import frontend_of
from pointsman.dataplane.nftables.port import NftPort
from pointsman.dataplane.nftables.readback import backends_held, in_one_piece, read_held
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.table import Table
from pointsman.dataplane.nftables.wire import WireDraft, first_told
from pointsman.dataplane.protocol import DataplaneError, PlainDataplane, Support, Written
from pointsman.model.plan import FAMILIES, Delta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.nftables.change import Change
    from pointsman.dataplane.nftables.wire import Refused
    from pointsman.dataplane.protocol import Traffic
    from pointsman.model.plan import Answer, Backend, Family, Frontend, NodeSettings, Plan

_LOG: Final = logging.getLogger(__name__)
SCHEDULERS: Final = ("random", "rr", "wrr", "sh", "dh", "mh")


class NftablesDataplane(PlainDataplane):
    """The mode `nftables` (see `pointsman.dataplane.protocol.Dataplane`).

    Everything happens in the network namespace of the thread that made it.
    """

    mode = "nftables"

    def __init__(self) -> None:
        """Open libnftables and netlink sockets.

        Raises:
            DataplaneError: the library or the kernel's part is missing, or the process may not use it.
        """
        self._port = NftPort(SCHEMA.table)
        self._fixed = {family: FixedTable(SCHEMA, family, self._port) for family in FAMILIES}
        self._tables = {family: Table(family) for family in FAMILIES}
        self._counters = {family: Counters(SCHEMA, family) for family in FAMILIES}

    def support(self) -> Support:
        """See `Dataplane.support`."""
        reason = self._port.reason_against()
        return Support(available=not reason, schedulers=() if reason else SCHEDULERS, reason=reason)

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`."""
        # From here on everything is looked at, so only what happens meanwhile or later is a disturbance.
        self._port.listen()
        return adopt_families(plan, lambda family, answers: self._adopt_family(family, answers, plan.settings))

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        refused: dict[str, str] = {}
        added = removed = 0
        for family in FAMILIES:
            part = part_of(delta, family)
            table = self._tables[family]
            if table.settings is None:
                if part.changed or all(other.settings is None for other in self._tables.values()):
                    raise DataplaneError(f"adopt a plan before a delta of IPv{family} is applied")
                continue
            if delta.settings is not None and delta.settings.drop_invalid != table.settings.drop_invalid:
                self._fixed[family].replace_rules(drop_invalid=delta.settings.drop_invalid)
            # The second, empty change takes away the classes that the first one left without a user (see `Table`).
            for each in (part, Delta({})):
                draft, change = self._apply_family(family, each)
                refused |= {name_of(frontend): text for frontend, text in change.refused.items()}
                added, removed = added + draft.added, removed + draft.removed
                if not change.retired:
                    break
        return Written(added, removed, refused)

    def _apply_family(self, family: Family, delta: Delta) -> tuple[WireDraft, Change]:
        draft = WireDraft(SCHEMA, family)
        change = self._tables[family].change(delta.changed, delta.removed, delta.settings, draft)
        failure = self._commit(family, draft, change)
        if failure:
            raise DataplaneError(f"nftables refused to {failure.text}")
        return draft, change

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`; a backend's weight is the number of its slots.

        Raises:
            InterruptedError: nf_tables changed meanwhile, as by an agent that writes.
        """
        found: dict[Frontend, tuple[Backend, ...]] = {}
        wire = self._port.wire
        for family in FAMILIES:
            with in_one_piece(wire):
                if structure.read_structure(wire, SCHEMA, family) is not None:
                    found |= backends_held(family, read_held(wire, SCHEMA, family))
        return found

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`."""
        return self._port.disturbed()

    def cleanup(self) -> None:
        """Delete both tables."""
        for family in FAMILIES:
            self._fixed[family].delete()
            self._tables[family] = Table(family)

    def close(self) -> None:
        """Close the sockets."""
        self._port.close()

    def _adopt_family(self, family: Family, answers: dict[Frontend, Answer], settings: NodeSettings) -> Written:
        refused: dict[str, str] = {}
        anew = False
        for _ in range(MOST_QUARANTINED):
            found = self._fixed[family].look(drop_invalid=settings.drop_invalid)
            table, draft = Table(family), WireDraft(SCHEMA, family)
            change = table.adoption(
                answers,
                settings,
                found.held,
                draft,
                found.chains,
                trusted=found.trusted,
            )
            failure = self._commit(family, draft, change, table)
            if failure is None:
                refused |= {name_of(frontend): text for frontend, text in change.refused.items()}
                return Written(draft.added, draft.removed, refused)
            frontend = frontend_of(family, failure.set_name, failure.key)
            if frontend in answers and frontend is not None:
                refused[name_of(frontend)] = failure.text
                entry = self._tables[family].entries.get(frontend)
                set_aside(frontend, answers, entry.answer if entry is not None else None)
            elif failure.foreign and not anew:
                # What others put into the table is in the way, and we do not know what.
                anew = True
                self._fixed[family].make_anew(failure.text, drop_invalid=settings.drop_invalid)
            else:
                raise DataplaneError(f"nftables refused to {failure.text}")
        raise DataplaneError(f"nftables refused {len(refused)} frontends: {'; '.join(refused.values())}")

    def _commit(self, family: Family, draft: WireDraft, change: Change, table: Table | None = None) -> Refused | None:
        """Bring a change into the kernel and remember it.

        Returns:
            What the kernel refused, when nothing is in force; else None.
        """
        messages = draft.messages()
        refusals = self._port.transact(messages) if messages else ()
        if refusals:
            return first_told(SCHEMA, family, messages, refusals)
        if table is not None:
            self._tables[family] = table
        self._tables[family].accept(change)
        if change.new_chains or change.old_chains or change.settings is not None or table is not None:
            self._seal(family, change)
        return None

    def _seal(self, family: Family, change: Change) -> None:
        settings = self._tables[family].settings
        if settings is not None:
            self._fixed[family].seal(drop_invalid=settings.drop_invalid, new=change.new_chains, old=change.old_chains)

    def tend(self) -> None:
        """See `Dataplane.tend`; nothing here is due by time alone."""

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`; sums grow as long as a frontend or an endpoint is there, see `counters`."""
        found: dict[Frontend, Traffic] = {}
        for family, counters in self._counters.items():
            try:
                found |= counters.read(self._port.wire)
            except FileNotFoundError:
                continue  # there is no table
            except OSError as error:
                raise DataplaneError(f"the counters of IPv{family} can't be read: {error}") from error
        return found
