"""One frontend's share: the virtual servers that it needs, and its elements in the sets; pure.

A node port is a frontend at each of the node's addresses here. A frontend whose clients inside the cluster have another
pool than those outside has two virtual servers: one at its address, and one for a firewall mark that the rules put on
the first packet of clients inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.ipvs.objects import RIGID, WIDEST, Real, Server, ServerKey, flags_of
from pointsman.dataplane.nftables.entries import address_ranges
from pointsman.dataplane.nftables.layout import address_octets, frontend_key, number
from pointsman.model.plan import Answer, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Frontend, Pool

_MASQUERADE: Final[Mapping[str, str]] = {
    "always": "masquerade-all",
    "off-cluster": "masquerade-off-cluster",
    "node": "masquerade-node",
}

Element = tuple[str, bytes, bytes]
"""An element's set, key and value."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is wanted for one frontend at one address.

    Attributes:
        answer: what it is made from.
        own: the address is one that the node has anyway, so that other ports there are not ours to refuse.
        mark: the firewall mark of clients inside, or 0.
        closing: the frontend is gone; its virtual servers stay for the connections that they carry.
        silent: another mode decides about new connections there.
    """

    answer: Answer
    own: bool = False
    mark: int = 0
    closing: bool = False
    silent: bool = False


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A virtual server as it shall be: itself, its real servers' weights, and its clients' protocol."""

    server: Server
    reals: Mapping[Real, int]
    protocol: Transport


def servers(frontend: Frontend, entry: Entry) -> Iterator[tuple[ServerKey, Wanted]]:
    """Return the virtual servers of a frontend; one without real servers is not needed."""
    if entry.closing:
        return
    answer = entry.answer
    family = frontend.family
    server = Server(
        scheduler=answer.scheduler,
        # Without the fallback, clients whose hash leads to a real server of weight 0 are refused: a drain would hurt.
        flags=flags_of(answer.scheduler, (*answer.scheduler_flags, "sh-fallback", "mh-fallback")),
        timeout=answer.affinity or 0,
        netmask=WIDEST[family],
    )
    everybody = answer.pool if answer.outside is None else answer.outside
    if everybody.backends:
        yield key_of(frontend), Wanted(server, _reals(everybody, answer), frontend.protocol)
    if entry.mark and answer.pool.backends:
        yield (
            ServerKey(family, "", "tcp", 0, entry.mark),
            Wanted(server, _reals(answer.pool, answer), frontend.protocol),
        )


def key_of(frontend: Frontend) -> ServerKey:
    """Return what IPVS knows a frontend by."""
    return ServerKey(frontend.family, frontend.address, frontend.protocol, frontend.port)


def elements(frontend: Frontend, entry: Entry) -> Iterator[Element]:
    """Return a frontend's elements but those that it shares with others."""
    answer, key = entry.answer, frontend_key(frontend)
    split = answer.outside is not None
    everybody = answer.outside or answer.pool
    yield "frontends", key, b""
    if entry.mark:
        yield "marks", key, number(entry.mark)
    if entry.closing:
        if not entry.silent:
            yield "refused", key, b""
        return
    if closed := _closed(everybody):
        yield closed, key, b""
    if split:
        yield "split", key, b""
        if closed := _closed(answer.pool):
            yield f"{closed}-inside", key, b""
    if answer.masquerade in _MASQUERADE:
        yield _MASQUERADE[answer.masquerade], key, b""
    if answer.source_ranges is not None:
        yield "guarded", key, b""
        for first, last in address_ranges(frontend.family, answer.source_ranges):
            yield "source-ranges", key + first, key + last


def shared(frontend: Frontend, entry: Entry) -> Iterator[tuple[str, bytes]]:
    """Return set and key of the elements that a frontend shares with others."""
    address = address_octets(frontend.family, frontend.address)
    if not entry.own:
        yield ("cluster-ips" if entry.answer.exclusive else "external-ips"), address
    if not entry.closing:
        pools = (entry.answer.pool, entry.answer.outside or entry.answer.pool)
        local = {backend.address for pool in pools for backend in pool.backends if backend.local and backend.weight}
        for text in local:
            octets = address_octets(frontend.family, text)
            yield "hairpin", octets + octets


def _closed(pool: Pool) -> str:
    """Return the set in which a frontend is when nobody in this pool gets new connections; "" when somebody does."""
    if any(backend.weight for backend in pool.backends):
        return ""
    return "dropped" if pool.when_empty == "drop" else "refused"


def _reals(pool: Pool, answer: Answer) -> Mapping[Real, int]:
    rigid = answer.scheduler in RIGID
    return {Real(b.address, b.port): b.weight for b in pool.backends if b.weight or not rigid}
