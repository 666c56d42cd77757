"""A table of plain dicts: takes drafts as the kernel does, and answers which backends a client gets.

It is stricter than the kernel: adding what is there and removing what is not are errors, whatever the values.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pointsman.dataplane.nftables import classes
from pointsman.dataplane.nftables.expressions import target
from pointsman.dataplane.nftables.layout import NETWORKS, OUTSIDE_SLOTS, endpoint_size, frontend_key, number, place_of
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.skeleton import chains
from pointsman.dataplane.nftables.wire import Chain, boundaries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.dataplane.nftables.change import Held
    from pointsman.model.plan import Family, Frontend

VERDICTS = ("classes", "inner-classes", "affinity-timeouts")


class Memory:
    """What one family's table holds."""

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.sets: Held = SCHEMA.empty(family)
        self.chains: dict[str, Chain] = {}
        self._fixed = frozenset(chains(family, drop_invalid=True))

    def copy_of_sets(self) -> Held:
        return {name: dict(elements) for name, elements in self.sets.items()}

    def take(self, draft: MemoryDraft, *, settled: bool = True) -> None:
        """Do what a draft says, in the order of the wire; unless `settled`, classes may be left that nobody uses."""
        for chain, present in draft.chains:
            assert present == (chain.chain in self.chains), chain
            self.chains[chain.chain] = chain
        for name, networks in draft.networks.items():
            self.sets[name] = dict(boundaries(networks))
        for name, key, value in draft.removals:
            assert key in self.sets[name], (name, key)
            if name == "source-ranges":
                assert self.sets[name][key] == value
            del self.sets[name][key]
        for name, key, value in draft.additions:
            assert key not in self.sets[name], (name, key)
            self.sets[name][key] = value
        for chain_name in draft.chains_gone:
            del self.chains[chain_name]
        self._check_verdicts(settled=settled)

    def class_elements(self) -> set[tuple[str, bytes]]:
        """Return the classes that there are, by map and number."""
        return {
            (name, key)
            for name, elements in self.sets.items()
            if name.removeprefix("node-port-") in {"classes", "inner-classes"}
            for key in elements
        }

    def _check_verdicts(self, *, settled: bool) -> None:
        """No verdict leads nowhere, and no chain is there for nobody."""
        led_to = set()
        for name, elements in self.sets.items():
            if name.removeprefix("node-port-") in VERDICTS:
                led_to |= {target(verdict) for verdict in elements.values()}
        led_to |= {rule[5:] for chain in self.chains.values() for rule in chain.text() if rule.startswith("jump ")}
        assert led_to - {""} <= self.chains.keys() | self._fixed
        assert not settled or self.chains.keys() <= led_to

    def backends(self, frontend: Frontend, *, inside: bool = True) -> list[bytes] | str:
        """Follow a new connection as the rules do: its possible backends slot by slot, or the verdict without any."""
        place, key = place_of(frontend), frontend_key(frontend)
        found = self._verdict(f"{place}classes", self.sets[f"{place}services"][key])
        if found.endswith("guard-and-split"):
            found = f"{place}split"
        if found in {f"{place}split", "guard"}:
            view = "inside" if inside or found == "guard" else "outside"
            found = self._verdict(f"{place}inner-classes", self.sets[f"{place}{view}"][key])
        chain = self.chains.get(found)
        if chain is None:
            return found or "drop"
        assert isinstance(chain, classes.Pick)
        assert chain.owner in {None, frontend}
        first = OUTSIDE_SLOTS if chain.outside else 0
        endpoints = self.sets[f"{place}endpoints"]
        values = [endpoints[key + number(first + slot)] for slot in range(chain.slots)]
        assert all(len(value) == endpoint_size(self.family) for value in values)
        return values

    def _verdict(self, classes_map: str, number_of_class: bytes) -> str:
        return target(self.sets[classes_map][number_of_class])

    def normal(self) -> dict[str, object]:
        """Return what is held, without what may differ: the order of slots, and numbers of chains of one's own."""
        found: dict[str, object] = {"chains": {name: chain.text() for name, chain in self.chains.items()}}
        for name, elements in self.sets.items():
            kind = name.removeprefix("node-port-")
            place = name.removesuffix(kind)
            if kind == "endpoints":
                found[name] = sorted((key[:-4], _pool(key), value) for key, value in elements.items())
            elif kind in {"classes", "inner-classes"}:
                found[name] = sorted(elements.values())
            elif kind in {"services", "inside", "outside"}:
                inner = "" if kind == "services" else "inner-"
                found[name] = {k: self._verdict(f"{place}{inner}classes", v) for k, v in elements.items()}
            else:
                found[name] = dict(elements)
        return found


def _pool(key: bytes) -> bool:
    return int.from_bytes(key[-4:], sys.byteorder) >= OUTSIDE_SLOTS


class MemoryDraft:
    """A transaction for a `Memory` (`pointsman.dataplane.nftables.wire.Draft`)."""

    def __init__(self) -> None:
        self.additions: list[tuple[str, bytes, bytes]] = []
        self.removals: list[tuple[str, bytes, bytes]] = []
        self.networks: dict[str, Sequence[tuple[bytes, bytes]]] = {}
        self.chains: list[tuple[Chain, bool]] = []
        self.chains_gone: list[str] = []

    @property
    def size(self) -> int:
        """How much it writes."""
        return sum(map(len, (self.additions, self.removals, self.networks, self.chains, self.chains_gone)))

    def add(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert name not in NETWORKS
        self.additions.append((name, key, value))

    def remove(self, name: str, key: bytes, value: bytes = b"") -> None:
        assert name not in NETWORKS
        self.removals.append((name, key, value))

    def replace_networks(self, name: str, networks: Sequence[tuple[bytes, bytes]]) -> None:
        assert name in NETWORKS
        self.networks[name] = networks

    def add_chain(self, chain: Chain, *, present: bool = False) -> None:
        self.chains.append((chain, present))

    def remove_chain(self, chain: str) -> None:
        self.chains_gone.append(chain)
