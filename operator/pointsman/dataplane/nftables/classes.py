"""Classes: the ways in which a frontend can be answered, each with a chain of its own.

A frontend's element holds the number of its class; the class's chain draws a slot, and goes to the one chain that
translates. (A chain that looked the endpoint up itself would cost the kernel a walk over the whole map when it is
made: 20 ms at 44,000 endpoints.)

Chains never change: a frontend whose number of slots changes gets another class. All frontends that draw in the same
way from the same number of slots share one class; only round robin needs a chain for each frontend, as the kernel
counts turns for each rule.

A number is written ``kind:slots`` by `nft`: ``1:4`` is a random choice of four slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.nftables import expressions as x
from pointsman.dataplane.nftables import jhash
from pointsman.dataplane.nftables.layout import OUTSIDE_SLOTS, Place
from pointsman.dataplane.nftables.skeleton import ip_of, key_text
from pointsman.model.plan import IPV4, NODE_PORT, Family, Frontend

if TYPE_CHECKING:
    from collections.abc import Mapping


REFUSE: Final = 0x00FF_0001
DROP: Final = 0x00FF_0002
SPLIT: Final = 0x00FF_0003
GUARD: Final = 0x00FF_0004
GUARD_AND_SPLIT: Final = 0x00FF_0005

FIRST_OWN: Final = 0x4000_0000
"""Numbers from here on belong to chains that serve one frontend alone."""

_KINDS: Final[Mapping[str, int]] = {"random": 1, "sh": 2, "dh": 3, "mh": 4}
_OWN: Final = frozenset({"rr", "wrr"})
_STICKY: Final = 0x10
_OUTSIDE: Final = 0x20
_M: Final = f"mod {jhash.LARGEST_MODULUS} seed {jhash.SEED:#x}"


_CLASS_CHAINS: Final = ("pick-", "rr-", "recall", "remember-", "node-port-pick-", "node-port-rr-", "node-port-recall")


def is_class_chain(name: str) -> bool:
    """Tell a class's chain from a fixed one."""
    return name.startswith(_CLASS_CHAINS)


def fixed_classes(place: Place) -> Mapping[str, Mapping[int, str]]:
    """Return the classes that every table has: by map, number to verdict as text."""
    ends = {REFUSE: "goto refuse", DROP: "drop"}
    outer = ends | {SPLIT: f"goto {place}split"}
    if not place:
        outer |= {GUARD: "goto guard", GUARD_AND_SPLIT: "goto guard-and-split"}
    return {f"{place}classes": outer, f"{place}inner-classes": ends}


@dataclass(frozen=True)
class Pick:
    """How a slot is drawn.

    Attributes:
        family: address family.
        place: whether frontends are virtual IPs or node ports.
        scheduler: as in `pointsman.api.schedulers` for nftables.
        slots: how many, 1..65535.
        outside: the slots are those of the outside pool.
        sticky: a client that is remembered goes to its backend.
        owner: the one frontend that the chain serves, for round robin; else None.
    """

    family: Family
    place: Place
    scheduler: str
    slots: int
    outside: bool = False
    sticky: bool = False
    owner: Frontend | None = None

    @cached_property
    def chain(self) -> str:
        """Name of the chain."""
        if self.owner is None:
            name = f"{self.place}pick-{self.scheduler}-{self.slots}"
        else:
            address = "" if self.owner.address == NODE_PORT else f"{self.owner.address.replace(':', '_')}-"
            name = f"{self.place}rr-{address}{self.owner.protocol}-{self.owner.port}-{self.slots}"
        return name + "-outside" * self.outside + "-sticky" * self.sticky

    @cached_property
    def number(self) -> int | None:
        """The class's number, or None when one has to be given out (round robin)."""
        if self.owner is not None:
            return None
        kind = _KINDS[self.scheduler] | _STICKY * self.sticky | _OUTSIDE * self.outside
        return kind << 16 | self.slots

    def text(self) -> list[str]:
        """Write the chain's rules in nft's language."""
        ip = ip_of(self.family)
        draw = {
            "sh": f"jhash {ip} saddr mod {self.slots} seed {jhash.SEED:#x}",
            "mh": f"jhash {ip} saddr mod {self.slots} seed {jhash.SEED:#x}",
            "dh": f"jhash {ip} daddr mod {self.slots} seed {jhash.SEED:#x}",
            "random": f"numgen random mod {self.slots}",
        }.get(self.scheduler, f"numgen inc mod {self.slots}")
        offset = f" offset {OUTSIDE_SLOTS}" if self.outside else ""
        recall = [f"jump {self.recall.chain}"] if self.sticky else []
        return [*recall, f"meta priority set {draw}{offset} goto {self._translate}"]

    def rules(self) -> list[bytes]:
        """Encode the chain's rules."""
        recall = [x.rule(x.verdict(x.jump(self.recall.chain)))] if self.sticky else []
        return [*recall, x.rule(*self._draw(), x.set_priority(0), x.verdict(x.goto(self._translate)))]

    @property
    def recall(self) -> Recall:
        """The chain that a sticky one jumps to first."""
        return Recall(self.family, self.place, self.outside)

    @property
    def _translate(self) -> str:
        return f"{self.place}translate{'-outside' * self.outside}"

    def _draw(self) -> list[bytes]:
        offset = OUTSIDE_SLOTS if self.outside else 0
        match self.scheduler:
            case "random":
                return [x.numgen(0, "random", self.slots, offset)]
            case "rr" | "wrr":
                return [x.numgen(0, "inc", self.slots, offset)]
        length, scratch = 4 if self.family == IPV4 else 16, 4
        load = _destination if self.scheduler == "dh" else _source
        hashed = x.jhash(0, scratch, length, modulus=self.slots, seed=jhash.SEED, offset=offset)
        return [load(self.family, scratch), hashed]


@lru_cache(maxsize=4096)
def shared_pick(family: Family, place: Place, scheduler: str, slots: int, *, outside: bool, sticky: bool) -> Pick:
    """Return the pick of all frontends that draw in this way; the same object each time, as it is asked for often."""
    return Pick(family, place, scheduler, slots, outside, sticky)


class Recall(msgspec.Struct, frozen=True, gc=False):
    """The chain that sends a client to the backend that it had; it comes back when its pool has none such.

    The pools are kept apart: a client from outside may not go on to a backend that only inside clients may use.
    """

    family: Family
    place: Place
    outside: bool = False

    @property
    def chain(self) -> str:
        """Name of the chain."""
        return f"{self.place}recall{'-outside' * self.outside}"

    @property
    def _endpoints(self) -> str:
        return f"{self.place}sticky-endpoints{'-outside' * self.outside}"

    def text(self) -> list[str]:
        """Write the chain's rules in nft's language."""
        ip, key = ip_of(self.family), key_text(self.family, self.place)
        client = f"{' . '.join(_client_texts(ip))} . meta l4proto . th dport"
        return [
            f"meta priority set {client} map @affinity dnat to {key} . meta priority map @{self._endpoints}",
            f"delete @affinity {{ {client} : meta priority }}",
        ]

    def rules(self) -> list[bytes]:
        """Encode the chain's rules."""
        words = 1 if self.family == IPV4 else 4
        key = [] if self.place else [_destination(self.family, 0)]
        port = 0 if self.place else words
        key += [x.l4proto(port), x.payload(port + 1, x.TRANSPORT, 2, 2), x.priority(port + 2)]
        client = _client(self.family)
        recalled = [x.lookup("affinity", 0, 0), x.set_priority(0)]
        found = [x.lookup(self._endpoints, 0, 0), x.dnat(_af(self.family), 0, words)]
        return [
            x.rule(*client, *recalled, *key, *found),
            # The client's backend is gone. What is remembered has to go before it gets another one: `update` would
            # refresh the entry and keep its data.
            x.rule(*client, x.priority(4), x.delete("affinity", 0, 4)),
        ]


class Remember(msgspec.Struct, frozen=True, gc=False):
    """The chain that remembers which backend a client got, for so many seconds."""

    family: Family
    seconds: int

    @property
    def chain(self) -> str:
        """Name of the chain."""
        return f"remember-{self.seconds}"

    def text(self) -> list[str]:
        """Write the chain's rules in nft's language."""
        ip = ip_of(self.family)
        client = " . ".join(_client_texts(f"ct original {ip}"))
        backend = f"jhash ct reply {ip} saddr . ct reply proto-src {_M}"
        return [
            f"meta l4proto {protocol} update @affinity "
            f"{{ {client} . meta l4proto . ct original proto-dst timeout {self.seconds}s : {backend} }}"
            for protocol in ("tcp", "udp", "sctp")
        ]

    def rules(self) -> list[bytes]:
        """Encode the chain's rules."""
        length, words = (8, 1) if self.family == IPV4 else (20, 4)
        found = []
        for protocol in (6, 17, 132):
            client = _original_client(self.family)
            backend = [
                x.ct(8, x.CT_SRC[self.family], x.REPLY),
                x.ct(8 + words, x.CT_PROTO_SRC, x.REPLY),
                x.jhash(4, 8, length, modulus=jhash.LARGEST_MODULUS, seed=jhash.SEED),
            ]
            found.append(
                x.rule(
                    x.l4proto(0),
                    x.equal(0, bytes([protocol])),
                    *client,
                    *backend,
                    x.update("affinity", 0, 4, self.seconds),
                ),
            )
        return found


def _client_texts(prefix: str) -> list[str]:
    if prefix.endswith("ip"):
        return [f"{prefix} saddr", f"{prefix} daddr"]
    return [f"jhash {prefix} saddr {_M}", f"jhash {prefix} daddr {_M}"]


def _client(family: Family) -> list[bytes]:
    """Load the affinity map's key from the packet: client, frontend's address, protocol, port."""
    end = [x.l4proto(2), x.payload(3, x.TRANSPORT, 2, 2)]
    if family == IPV4:
        return [_source(4, 0), _destination(4, 1), *end]
    return [*_hashed(_source(6, 8), 0), *_hashed(_destination(6, 8), 1), *end]


def _original_client(family: Family) -> list[bytes]:
    """Load the same key from the connection, after translation."""
    end = [x.l4proto(2), x.ct(3, x.CT_PROTO_DST, x.ORIGINAL)]
    source, destination = x.CT_SRC[family], x.CT_DST[family]
    if family == IPV4:
        return [x.ct(0, source, x.ORIGINAL), x.ct(1, destination, x.ORIGINAL), *end]
    return [
        *_hashed(x.ct(4, source, x.ORIGINAL), 0, 4),
        *_hashed(x.ct(4, destination, x.ORIGINAL), 1, 4),
        *end,
    ]


def _hashed(load: bytes, into: int, scratch: int = 8) -> list[bytes]:
    return [load, x.jhash(into, scratch, 16, modulus=jhash.LARGEST_MODULUS, seed=jhash.SEED)]


def _source(family: Family, into: int) -> bytes:
    return x.payload(into, x.NETWORK, 12, 4) if family == IPV4 else x.payload(into, x.NETWORK, 8, 16)


def _destination(family: Family, into: int) -> bytes:
    return x.payload(into, x.NETWORK, 16, 4) if family == IPV4 else x.payload(into, x.NETWORK, 24, 16)


def _af(family: Family) -> int:
    return x.AF_IPV4 if family == IPV4 else x.AF_IPV6
