"""The nftables dataplane: one table for each address family, kept in step with the plan."""

from __future__ import annotations

import errno
import logging
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.netlink import Message, NftMonitor, NftSocket, attributes, string, u32
from pointsman.dataplane.nftables import structure
from pointsman.dataplane.nftables.change import Held
from pointsman.dataplane.nftables.classes import is_class_chain
from pointsman.dataplane.nftables.layout import TABLE, frontend_of, layouts
from pointsman.dataplane.nftables.readback import backends_held, is_sealed, read_held
from pointsman.dataplane.nftables.skeleton import ip_of, replacement_text, table_text
from pointsman.dataplane.nftables.table import Table, empty_held
from pointsman.dataplane.nftables.wire import (
    DELSET,
    DELTABLE,
    GETGEN,
    NEWTABLE,
    WireDraft,
    af,
    first_told,
)
from pointsman.dataplane.protocol import DataplaneError, Support, Written
from pointsman.model.plan import IPV4, IPV6, Delta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.nftables.change import Change
    from pointsman.dataplane.nftables.wire import Refused
    from pointsman.model.plan import Answer, Backend, Family, Frontend, NodeSettings, Plan

_LOG: Final = logging.getLogger(__name__)
SCHEDULERS: Final = ("random", "rr", "wrr", "sh", "dh", "mh")

_FAMILIES: Final[tuple[Family, ...]] = (IPV4, IPV6)
_MOST_QUARANTINED: Final = 16
"""So many refused frontends are set aside in one sync before it is given up."""
_READ_ATTEMPTS: Final = 5


class Found(msgspec.Struct, frozen=True):
    """What a table held when it was looked at.

    Attributes:
        held: its elements.
        chains: the chains that are not fixed ones.
        trusted: all chains are as Pointsman loaded them.
    """

    held: Held
    chains: frozenset[str] = frozenset()
    trusted: bool = True


class NftablesDataplane:
    """The mode `nftables` (see `pointsman.dataplane.protocol.Dataplane`).

    Everything happens in the network namespace of the thread that made it.
    """

    mode = "nftables"

    def __init__(self) -> None:
        """Open libnftables and netlink sockets.

        Raises:
            DataplaneError: the library or the kernel's part is missing, or the process may not use it.
        """
        try:
            self._library = structure.Libnftables()
        except OSError as error:
            raise DataplaneError(f"libnftables can't be loaded: {error}; install it (Debian: libnftables1)") from error
        try:
            self._wire, self._monitor = NftSocket(), NftMonitor()
        except OSError as error:
            raise DataplaneError(f"no netlink socket for nf_tables: {error}; the kernel needs nfnetlink") from error
        self._tables = {family: Table(family) for family in _FAMILIES}
        self._sums: dict[Family, dict[str, int]] = {family: {} for family in _FAMILIES}
        self._disturbed = False

    def support(self) -> Support:
        """Ask for nf_tables' generation: the kernel answers only when it has nf_tables and we may use it."""
        try:
            self._generation()
        except PermissionError:
            return Support(available=False, reason="nftables needs CAP_NET_ADMIN; run as root or grant the capability")
        except OSError as error:
            return Support(available=False, reason=f"no nf_tables in this kernel ({error}); try: modprobe nf_tables")
        return Support(available=True, schedulers=SCHEDULERS)

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`."""
        # From here on everything is looked at, so only what happens meanwhile or later is a disturbance.
        self._monitor.listen()
        self.disturbed()
        refused: dict[str, str] = {}
        errors: list[str] = []
        added = removed = 0
        for family in _FAMILIES:
            answers = {frontend: answer for frontend, answer in plan.answers.items() if frontend.family == family}
            try:
                written = self._adopt_family(family, answers, plan.settings, refused)
            except DataplaneError as error:
                if answers or family == IPV4:
                    errors.append(str(error))
                else:
                    _LOG.warning("IPv%s is left alone, as nothing needs it and the kernel refuses: %s", family, error)
                continue
            added, removed = added + written.added, removed + written.removed
        if errors:
            raise DataplaneError("; ".join(errors))
        return Written(added, removed, refused)

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        refused: dict[str, str] = {}
        added = removed = 0
        for family in _FAMILIES:
            part = Delta(
                {frontend: answer for frontend, answer in delta.changed.items() if frontend.family == family},
                frozenset(frontend for frontend in delta.removed if frontend.family == family),
                delta.settings,
            )
            table = self._tables[family]
            if table.settings is None:
                if part.changed or all(other.settings is None for other in self._tables.values()):
                    raise DataplaneError(f"adopt a plan before a delta of IPv{family} is applied")
                continue
            if delta.settings is not None and delta.settings.drop_invalid != table.settings.drop_invalid:
                self._replace_rules(family, drop_invalid=delta.settings.drop_invalid)
            # The second, empty change takes away the classes that the first one left without a user (see `Table`).
            for each in (part, Delta({})):
                draft, change = self._apply_family(family, each)
                refused |= {_name(frontend): text for frontend, text in change.refused.items()}
                added, removed = added + draft.added, removed + draft.removed
                if not change.retired:
                    break
        return Written(added, removed, refused)

    def _apply_family(self, family: Family, delta: Delta) -> tuple[WireDraft, Change]:
        draft = WireDraft(family)
        change = self._tables[family].change(delta.changed, delta.removed, delta.settings, draft)
        failure = self._commit(family, draft, change)
        if failure:
            raise DataplaneError(f"nftables refused to {failure.text}")
        return draft, change

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`; a backend's weight is the number of its slots."""
        found: dict[Frontend, tuple[Backend, ...]] = {}
        for family in _FAMILIES:
            if structure.read_structure(self._wire, family) is not None:
                found |= backends_held(family, read_held(self._wire, family))
        return found

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`."""
        heard = self._monitor.heard(TABLE) or self._disturbed
        self._disturbed = False
        return heard

    def cleanup(self) -> None:
        """Delete both tables."""
        for family in _FAMILIES:
            message = Message(DELTABLE, af(family), string(1, TABLE))
            with self._unheard():
                refusals = self._wire.transact([message])
            for refusal in refusals:
                if refusal.error not in {errno.ENOENT, errno.EAFNOSUPPORT}:
                    raise DataplaneError(f"can't delete table {ip_of(family)} {TABLE}: {refusal}")
            self._tables[family], self._sums[family] = Table(family), {}

    def close(self) -> None:
        """Close the sockets."""
        self._wire.close()
        self._monitor.close()

    def _adopt_family(
        self,
        family: Family,
        answers: dict[Frontend, Answer],
        settings: NodeSettings,
        refused: dict[str, str],
    ) -> Written:
        anew = False
        for _ in range(_MOST_QUARANTINED):
            found = self._look(family, drop_invalid=settings.drop_invalid)
            table, draft = Table(family), WireDraft(family)
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
                refused |= {_name(frontend): text for frontend, text in change.refused.items()}
                return Written(draft.added, draft.removed)
            frontend = frontend_of(family, failure.set_name, failure.key)
            if frontend in answers and frontend is not None:
                refused[_name(frontend)] = failure.text
                self._set_aside(frontend, answers)
            elif failure.foreign and not anew:
                # What others put into the table is in the way, and we do not know what.
                anew = True
                self._make_anew(family, failure.text, drop_invalid=settings.drop_invalid)
            else:
                raise DataplaneError(f"nftables refused to {failure.text}")
        raise DataplaneError(f"nftables refused {len(refused)} frontends: {'; '.join(refused.values())}")

    def _set_aside(self, frontend: Frontend, answers: dict[Frontend, Answer]) -> None:
        """Go on without a frontend's new answer: with the one that is in force, if there is one."""
        entry = self._tables[frontend.family].entries.get(frontend)
        if entry is None or entry.answer == answers[frontend]:
            del answers[frontend]
        else:
            answers[frontend] = entry.answer

    def _commit(self, family: Family, draft: WireDraft, change: Change, table: Table | None = None) -> Refused | None:
        """Bring a change into the kernel and remember it.

        Returns:
            What the kernel refused, when nothing is in force; else None.
        """
        messages = draft.messages()
        if messages:
            try:
                with self._unheard():
                    refusals = self._wire.transact(messages)
            except OSError as error:
                raise DataplaneError(f"the kernel did not take the transaction: {error}") from error
            if refusals:
                return first_told(family, messages, refusals)
        if table is not None:
            self._tables[family] = table
        self._tables[family].accept(change)
        if change.new_chains or change.old_chains or change.settings is not None or table is not None:
            self._seal(family, change)
        return None

    def _look(self, family: Family, *, drop_invalid: bool) -> Found:
        """Look at what the kernel holds, and bring the fixed part in order."""
        for _ in range(_READ_ATTEMPTS):
            self._wire.interrupted = False
            found = self._look_once(family, drop_invalid=drop_invalid)
            # A dump is also marked when others change their own tables; what was read of ours is then good.
            if not self._wire.interrupted or not self._monitor.heard(TABLE):
                return found
        raise DataplaneError("another program changes our tables all the time; they can't be read")

    def _look_once(self, family: Family, *, drop_invalid: bool) -> Found:
        known = structure.read_structure(self._wire, family)
        if known is None or known.get(structure.SETS_KEY) != structure.sets_checksum(family):
            self._load_table(family, drop_invalid=drop_invalid)
            return Found(empty_held(family))
        sums = self._sums[family] = structure.chain_checksums(self._wire, family)
        trusted = is_sealed(known, family, sums, drop_invalid=drop_invalid)
        try:
            self._wake(family)
            if not trusted:
                self._replace_rules(family, drop_invalid=drop_invalid)
            self._remove_strangers(family)
            chains = frozenset(filter(is_class_chain, self._sums[family]))
            return Found(read_held(self._wire, family), chains, trusted)
        except (DataplaneError, FileNotFoundError) as error:
            # A set is missing, or is not what it was: the rules can't be mended without it.
            self._make_anew(family, str(error), drop_invalid=drop_invalid)
            return Found(empty_held(family))

    def _make_anew(self, family: Family, why: str, *, drop_invalid: bool) -> None:
        _LOG.warning("table %s %s is beyond repair and made anew: %s", ip_of(family), TABLE, why)
        self._load_table(family, drop_invalid=drop_invalid)

    def _wake(self, family: Family) -> None:
        """Take the flag ``dormant`` from the table, with which none of its rules is in force."""
        if structure.table_flags(self._wire, family):
            with self._unheard():
                refusals = self._wire.transact([Message(NEWTABLE, af(family), string(1, TABLE) + u32(2, 0))])
            if refusals:
                raise DataplaneError(f"can't wake table {ip_of(family)} {TABLE}: {refusals[0]}")

    def _remove_strangers(self, family: Family) -> None:
        """Remove sets that others made in our table: they could hold on to chains of ours."""
        strangers = structure.sets(self._wire, family) - layouts(family).keys()
        messages = [
            Message(DELSET, af(family), string(1, TABLE) + string(2, name))
            for name in sorted(strangers)
            if not name.startswith("__")  # of a rule, and gone with it
        ]
        if messages:
            with self._unheard():
                refusals = self._wire.transact(messages)
            if refusals:
                raise DataplaneError(f"sets of others are in the way ({', '.join(sorted(strangers))}): {refusals[0]}")

    def _load_table(self, family: Family, *, drop_invalid: bool) -> None:
        where = f"{ip_of(family)} {TABLE}"
        text = f"table {where}\ndelete table {where}\n" + table_text(family, drop_invalid=drop_invalid)
        with self._unheard():
            self._library.run(text)
        self._sums[family] = structure.chain_checksums(self._wire, family)

    def _replace_rules(self, family: Family, *, drop_invalid: bool) -> None:
        sums = structure.chain_checksums(self._wire, family)
        fixed = frozenset(name for name in sums if not is_class_chain(name))
        text = replacement_text(family, fixed, drop_invalid=drop_invalid)
        with self._unheard():
            self._library.run(text)
        self._sums[family] = structure.chain_checksums(self._wire, family)

    def _seal(self, family: Family, change: Change) -> None:
        """Write down in the table what its chains are now, for the next agent."""
        sums, table = self._sums[family], self._tables[family]
        for chain in change.old_chains:
            sums.pop(chain, None)
        for chain in change.new_chains:
            sums[chain] = structure.class_chain_checksum(self._wire, family, chain)
        if table.settings is None:
            return
        wanted = structure.seal(family, sums, drop_invalid=table.settings.drop_invalid)
        held = structure.read_structure(self._wire, family) or {}
        draft = WireDraft(family)
        for key, value in wanted.items():
            if held.get(key) != value:
                if key in held:
                    draft.remove("structure", key)
                draft.add("structure", key, value)
        messages = draft.messages()
        if messages:
            with self._unheard():
                self._wire.transact(messages)

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        """Keep the monitor from hearing our own change, without missing anybody else's."""
        before = self._generation()
        self._monitor.pause()
        try:
            yield
        finally:
            after = self._generation()
            self._monitor.listen()
            # Each commit counts one; anything beyond ours happened while nobody listened.
            if after - before > 1 or self._generation() != after:
                self._disturbed = True

    def _generation(self) -> int:
        fields = dict(attributes(self._wire.get(GETGEN, 0)))
        return int(struct.unpack(">I", fields[1])[0])


def _name(frontend: Frontend) -> str:
    return f"{frontend.address}:{frontend.port}/{frontend.protocol}"
