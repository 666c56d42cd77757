"""One address family's table: what the kernel holds, and the way from there to what it shall hold."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables import classes
from pointsman.dataplane.nftables.change import Change, Held, Numbers
from pointsman.dataplane.nftables.classes import Pick, Remember
from pointsman.dataplane.nftables.entries import (
    Entry,
    address_ranges,
    elements,
    hairpins,
    make_entry,
    picks,
    slot_changes,
    staged,
)
from pointsman.dataplane.nftables.expressions import drop, goto, jump, target
from pointsman.dataplane.nftables.layout import (
    NETWORKS,
    OUTSIDE_SLOTS,
    PLACES,
    address_octets,
    endpoint_size,
    frontend_key,
    number,
    place_of,
)
from pointsman.dataplane.nftables.wire import boundaries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.dataplane.nftables.change import Chain
    from pointsman.dataplane.nftables.layout import Place
    from pointsman.dataplane.nftables.wire import Draft, Elements
    from pointsman.model.plan import Answer, Family, Frontend, NodeSettings


_SHARED: Final = ("cluster-ips", "hairpin")


class Table:
    """What one family's table holds, as far as the agent wrote it.

    Nothing here talks to the kernel: `change` and `adoption` make a `Change`, its draft goes to the kernel, and
    `accept` remembers it.
    """

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.entries: dict[Frontend, Entry] = {}
        self.settings: NodeSettings | None = None
        self.numbers = Numbers()
        self.chains: dict[str, Chain] = {}
        self._uses: Counter[tuple[str, bytes]] = Counter()
        self._retired: set[tuple[str, bytes]] = set()

    def change(
        self,
        changed: Mapping[Frontend, Answer],
        removed: Iterable[Frontend],
        settings: NodeSettings | None,
        draft: Draft,
    ) -> Change:
        """Make the change for one delta."""
        change = Change(draft)
        for frontend in removed:
            old = self.entries.get(frontend)
            if old is not None:
                change.gone.add(frontend)
                self._compare(change, frontend, old, None)
        for frontend, answer in changed.items():
            old = self.entries.get(frontend)
            new = _entry(change, frontend, answer, *_slots_of(old, answer))
            if new:
                change.entries[frontend] = new
                self._compare(change, frontend, old, new)
        self._settle_shared(change)
        if settings is not None:
            change.settings = settings
            self._write_networks(change, settings, self.settings)
        return change

    def adoption(
        self,
        answers: Mapping[Frontend, Answer],
        settings: NodeSettings,
        held: Held,
        draft: Draft,
        present: Iterable[str] = (),
        *,
        trusted: bool = True,
    ) -> Change:
        """Make the change that leads from what the kernel holds to a whole plan.

        Args:
            answers: the plan's frontends of this family.
            settings: the plan's settings.
            held: what the kernel holds; it is consumed.
            draft: where the change is written.
            present: chains in the kernel that are not fixed ones.
            trusted: the chains hold what their names say.
        """
        self.entries, self.chains, self._uses, self._retired = {}, {}, Counter(), set()
        self._adopt_numbers(held)
        change = Change(draft, held)
        for frontend, answer in answers.items():
            new = _entry(change, frontend, answer, *_held_slots(held, frontend, answer))
            if new:
                change.entries[frontend] = new
                self._write(change, frontend, new)
        _write_fixed_classes(change)
        self._settle_shared(change)
        self._adopt_networks(change, settings, networks_held(held))
        change.sweep()
        present = set(present)
        for chain, spec in change.chains.items():
            if chain not in present or not trusted:
                change.add_chain(spec, present=chain in present)
        for chain in sorted(present - change.chains.keys()):
            change.remove_chain(chain)
        return change

    def accept(self, change: Change) -> None:
        """Remember a change that the kernel has taken."""
        for frontend in change.gone:
            self.entries.pop(frontend, None)
        self.entries.update(change.entries)
        self.chains.update(change.chains)
        self._uses.update(change.uses)
        for key in change.uses:
            if not self._uses[key]:
                del self._uses[key]
        self._retired = change.retired
        for chain in change.old_chains:
            self.chains.pop(chain, None)
            self.numbers.forget(chain)
        self.settings = change.settings or self.settings

    def _compare(self, change: Change, frontend: Frontend, old: Entry | None, new: Entry | None) -> None:
        """Write what differs between two entries of a frontend."""
        before = {(name, key): value for name, key, value in self._elements(frontend, old)}
        for name, key, value in self._elements(frontend, new):
            known = before.pop((name, key), None)
            if known is None:
                change.draft.add(name, key, value)
            elif known != value:
                change.replace(name, key, known, value or known)
        for (name, key), value in before.items():
            change.draft.remove(name, key, value)
        place, key, width = place_of(frontend), frontend_key(frontend), endpoint_size(self.family)
        for offset, was, now in (
            (0, old.slots if old else b"", new.slots if new else b""),
            (OUTSIDE_SLOTS, old.outside if old else b"", new.outside if new else b""),
        ):
            for slot, value, value_now in slot_changes(was, now, width):
                change.replace(f"{place}endpoints", key + number(offset + slot), value, value_now)
        self._count(change, frontend, old, -1)
        self._count(change, frontend, new, +1)

    def _write(self, change: Change, frontend: Frontend, entry: Entry) -> None:
        """Write a frontend of which nothing is known."""
        put, key = change.put, frontend_key(frontend)
        for name, element, value in elements(frontend, entry, self.numbers):
            put(name, element, value)
        name, width = f"{place_of(frontend)}endpoints", endpoint_size(self.family)
        for offset, slots in ((0, entry.slots), (OUTSIDE_SLOTS, entry.outside)):
            for start in range(0, len(slots), width):
                put(name, key + number(offset + start // width), slots[start : start + width])
        self._count(change, frontend, entry, +1)

    def _elements(self, frontend: Frontend, entry: Entry | None) -> Iterator[tuple[str, bytes, bytes]]:
        return elements(frontend, entry, self.numbers) if entry else iter(())

    def _count(self, change: Change, frontend: Frontend, entry: Entry | None, by: int) -> None:
        """Count what the frontend shares with others: the cluster IP, hairpins, classes and their chains."""
        if entry is None:
            return
        uses = change.uses
        if entry.answer.exclusive:
            uses["cluster-ips", address_octets(self.family, frontend.address)] += by
        for key in hairpins(frontend, entry):
            uses["hairpin", key] += by
        place = place_of(frontend)
        where = f"{place}inner-classes" if staged(entry.answer) else f"{place}classes"
        for pick in picks(frontend, entry):
            if pick:
                uses[where, number(self.numbers(pick))] += by
                self._use_chain(change, pick, by)
                if pick.sticky:
                    self._use_chain(change, pick.recall, by)
        if entry.answer.affinity is not None:
            self._use_chain(change, Remember(self.family, entry.answer.affinity), by)

    def _use_chain(self, change: Change, chain: Chain, by: int) -> None:
        change.uses["", chain.chain.encode()] += by
        if by > 0:
            change.chains[chain.chain] = chain

    def _settle_shared(self, change: Change) -> None:
        """Write the shared elements and chains whose first user came or whose last one went.

        A packet may have read its class just before a change, and look for the class's chain just after it. So
        classes and chains without a user stay until the next change.
        """
        verdicts = {
            (c.place, number(self.numbers(c))): jump(c.chain) for c in self._known(change) if isinstance(c, Pick)
        }
        for (name, key), by in change.uses.items():
            before = self._uses[name, key]
            if before and not before + by:
                if name in _SHARED:
                    change.draft.remove(name, key)
                else:
                    change.retired.add((name, key))
            elif by and not before and (name, key) not in self._retired:
                self._introduce(change, name, key, verdicts)
        for name, key in self._retired:
            if not change.uses[name, key]:
                self._dismiss(change, name, key)

    def _introduce(self, change: Change, name: str, key: bytes, verdicts: Mapping[tuple[Place, bytes], bytes]) -> None:
        if name:
            change.put(name, key, b"" if name in _SHARED else verdicts[_place(name), key])
        elif not change.adopting:
            change.add_chain(change.chains[key.decode()])

    def _dismiss(self, change: Change, name: str, key: bytes) -> None:
        if name:
            change.draft.remove(name, key)
        else:
            change.remove_chain(key.decode())

    def _known(self, change: Change) -> Iterator[Chain]:
        yield from change.chains.values()
        for name, key in change.uses:
            if name == "" and key.decode() in self.chains:
                yield self.chains[key.decode()]

    def _adopt_numbers(self, held: Held) -> None:
        for place in PLACES:
            for name in (f"{place}classes", f"{place}inner-classes"):
                for key, verdict in held[name].items():
                    self.numbers.adopt(target(verdict), int.from_bytes(key, sys.byteorder))

    def _adopt_networks(self, change: Change, settings: NodeSettings, held: Held) -> None:
        change.settings = settings
        for name in NETWORKS:
            wanted = address_ranges(self.family, networks_of(settings, name))
            if dict(boundaries(wanted)) != held[name]:
                change.draft.replace_networks(name, wanted)

    def _write_networks(self, change: Change, new: NodeSettings, old: NodeSettings | None) -> None:
        for name in NETWORKS:
            wanted = address_ranges(self.family, networks_of(new, name))
            if old is None or wanted != address_ranges(self.family, networks_of(old, name)):
                change.draft.replace_networks(name, wanted)


def networks_of(settings: NodeSettings, name: str) -> tuple[str, ...]:
    """Return the networks that belong into a set."""
    return {
        "pod-cidrs": settings.pod_cidrs,
        "service-cidrs": settings.service_cidrs,
        "node-port-cidrs": settings.node_port_cidrs,
    }[name]


def networks_held(held: Held) -> Held:
    """Return the sets of networks as they are, without the mark that nft sets at address 0."""
    return {name: {key: value for key, value in held[name].items() if value == b"\0" or any(key)} for name in NETWORKS}


def _entry(change: Change, frontend: Frontend, answer: Answer, slots: bytes, outside: bytes) -> Entry | None:
    try:
        return make_entry(frontend, answer, slots, outside)
    except ValueError as error:
        change.refused[frontend] = str(error)
        return None


def _held_slots(held: Held, frontend: Frontend, answer: Answer) -> tuple[bytes, bytes]:
    endpoints = held[f"{place_of(frontend)}endpoints"]
    if not endpoints:
        return b"", b""
    key = frontend_key(frontend)
    return (
        _run(endpoints, key, 0),
        _run(endpoints, key, OUTSIDE_SLOTS) if answer.outside else b"",
    )


def _run(endpoints: Elements, key: bytes, offset: int) -> bytes:
    """Join the slots of a frontend from the first on, as far as they are dense."""
    values: list[bytes] = []
    while (value := endpoints.get(key + number(offset + len(values)))) is not None:
        values.append(value)
    return b"".join(values)


def _slots_of(old: Entry | None, answer: Answer) -> tuple[bytes, bytes]:
    # Another scheduler reads the slots in another order; the ones that are there are still a good start.
    if old is None:
        return b"", b""
    return old.slots, old.outside if answer.outside else b""


def _place(name: str) -> Place:
    return "node-port-" if name.startswith("node-port-") else ""


def _write_fixed_classes(change: Change) -> None:
    for place in PLACES:
        for name, fixed in classes.fixed_classes(place).items():
            for value, verdict in fixed.items():
                change.put(name, number(value), _verdict(verdict))


def _verdict(text: str) -> bytes:
    if text == "drop":
        return drop()
    return goto(text.removeprefix("goto "))
