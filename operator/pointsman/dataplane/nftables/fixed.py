"""One family's table in the kernel: its fixed part is loaded, checked and mended here, whatever elements it has."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.netlink import Message, string, u32
from pointsman.dataplane.nftables import skeleton, structure
from pointsman.dataplane.nftables.readback import read_held
from pointsman.dataplane.nftables.wire import DELRULE, DELSET, DELTABLE, NEWTABLE, Elements, WireDraft, af
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.dataplane.nftables.port import NftPort
    from pointsman.model.plan import Family

_LOG: Final = logging.getLogger(__name__)
_READ_ATTEMPTS: Final = 5


class Found(msgspec.Struct, frozen=True):
    """What a table held when it was looked at.

    Attributes:
        held: its elements, by set.
        chains: the chains that are not fixed ones.
        trusted: all chains are as Pointsman loaded them.
    """

    held: dict[str, Elements]
    chains: frozenset[str] = frozenset()
    trusted: bool = True


class FixedTable:
    """The table of one address family.

    Args:
        schema: what it consists of.
        family: address family.
        port: the way to the kernel.
    """

    def __init__(self, schema: Schema, family: Family, port: NftPort) -> None:
        self._schema = schema
        self._family: Family = family
        self._port = port
        self._sums: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The table as nft calls it."""
        return f"{skeleton.ip_of(self._family)} {self._schema.table}"

    def look(self, *, drop_invalid: bool) -> Found:
        """Look at what the kernel holds, and bring the fixed part in order.

        Raises:
            DataplaneError: it can't be read, or not be mended.
        """
        for _ in range(_READ_ATTEMPTS):
            self._port.wire.interrupted = False
            found = self._look_once(drop_invalid=drop_invalid)
            # A dump is also marked when others change their own tables; what was read of ours is then good.
            if not self._port.wire.interrupted or not self._port.heard():
                return found
        raise DataplaneError("another program changes our tables all the time; they can't be read")

    def make_anew(self, why: str, *, drop_invalid: bool) -> None:
        """Put an empty table in place of one that can't be mended."""
        _LOG.warning("table %s is beyond repair and made anew: %s", self.name, why)
        self._load(drop_invalid=drop_invalid)

    def replace_rules(self, *, drop_invalid: bool) -> None:
        """Put the fixed rules in place again; elements stay."""
        sums = structure.chain_checksums(self._port.wire, self._schema, self._family)
        fixed = frozenset(name for name in sums if not self._schema.is_own_chain(name))
        self._port.run(skeleton.replacement_text(self._schema, self._family, fixed, drop_invalid=drop_invalid))
        self._sums = structure.chain_checksums(self._port.wire, self._schema, self._family)

    def seal(self, *, drop_invalid: bool, new: Iterable[str] = (), old: Iterable[str] = ()) -> None:
        """Write down in the table what its chains are now, for the next agent; if they are as we wrote them.

        Args:
            drop_invalid: as in `NodeSettings`.
            new: chains that came and are no fixed ones.
            old: chains that went.
        """
        wire, schema, family = self._port.wire, self._schema, self._family
        for chain in old:
            self._sums.pop(chain, None)
        for chain in new:
            self._sums[chain] = structure.class_chain_checksum(wire, schema, family, chain)
        if self._port.will_be_disturbed():
            # The sums may be of what others left of our rules: the repair that comes next must not trust them.
            return
        held = structure.read_structure(wire, schema, family) or {}
        draft = WireDraft(schema, family)
        for key, value in structure.seal(schema, family, self._sums, drop_invalid=drop_invalid).items():
            if held.get(key) != value:
                if key in held:
                    draft.remove("structure", key)
                draft.add("structure", key, value)
        messages = draft.messages()
        if messages:
            self._port.transact(messages)

    def delete(self) -> None:
        """Delete the table, if it is there.

        Its rules go first, in a transaction of their own. A packet may be half-way through them: when a table goes as a
        whole its maps are empty at once and its sets are not, and the packet finds an address of Services, but none of
        their ports.

        Raises:
            DataplaneError: the kernel refused.
        """
        for command in (DELRULE, DELTABLE):
            for refusal in self._port.transact([Message(command, af(self._family), string(1, self._schema.table))]):
                if refusal.error not in {errno.ENOENT, errno.EAFNOSUPPORT}:
                    raise DataplaneError(f"can't delete table {self.name}: {refusal}")
        self._sums = {}

    def _look_once(self, *, drop_invalid: bool) -> Found:
        wire, schema, family = self._port.wire, self._schema, self._family
        known = structure.read_structure(wire, schema, family)
        if known is None or known.get(structure.SETS_KEY) != structure.sets_checksum(schema, family):
            self._load(drop_invalid=drop_invalid)
            return Found(schema.empty(family))
        sums = self._sums = structure.chain_checksums(wire, schema, family)
        trusted = structure.is_sealed(known, schema, family, sums, drop_invalid=drop_invalid)
        try:
            self._wake()
            if not trusted:
                self.replace_rules(drop_invalid=drop_invalid)
            self._remove_strangers()
            chains = frozenset(filter(schema.is_own_chain, self._sums))
            return Found(read_held(wire, schema, family), chains, trusted)
        except (DataplaneError, FileNotFoundError) as error:
            # A set is missing, or is not what it was: the rules can't be mended without it.
            self.make_anew(str(error), drop_invalid=drop_invalid)
            return Found(schema.empty(family))

    def _load(self, *, drop_invalid: bool) -> None:
        text = skeleton.table_text(self._schema, self._family, drop_invalid=drop_invalid)
        self._port.run(f"table {self.name}\ndelete table {self.name}\n{text}")
        self._sums = structure.chain_checksums(self._port.wire, self._schema, self._family)

    def _wake(self) -> None:
        """Take the flag ``dormant`` from the table, with which none of its rules is in force."""
        wire, schema, family = self._port.wire, self._schema, self._family
        if structure.table_flags(wire, schema, family):
            refusals = self._port.transact([Message(NEWTABLE, af(family), string(1, schema.table) + u32(2, 0))])
            if refusals:
                raise DataplaneError(f"can't wake table {self.name}: {refusals[0]}")

    def _remove_strangers(self) -> None:
        """Remove sets that others made in our table: they could hold on to chains of ours."""
        schema, family = self._schema, self._family
        strangers = structure.sets(self._port.wire, schema, family) - schema.layouts[family].keys()
        messages = [
            Message(DELSET, af(family), string(1, schema.table) + string(2, name))
            for name in sorted(strangers)
            if not name.startswith("__")  # of a rule, and gone with it
        ]
        if messages:
            refusals = self._port.transact(messages)
            if refusals:
                raise DataplaneError(f"sets of others are in the way ({', '.join(sorted(strangers))}): {refusals[0]}")
