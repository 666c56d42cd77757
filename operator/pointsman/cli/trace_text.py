"""A trace as data for programs, and as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.cli.output import frontend_text
from pointsman.dataplane.tracing.ipvs_connections import IpvsConnection
from pointsman.dataplane.tracing.tracked import Tracked
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES
from pointsman.model.address import joined
from pointsman.model.plan import Frontend
from pointsman.policy.explain import Explanation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.model.comparison import Difference, Wanted
    from pointsman.model.plan import Backend

_MOST: Final = 20
"""So many connections are written out; programs get all."""


class HeldBackend(msgspec.Struct, frozen=True, rename="camel"):
    """One backend as the kernel has it.

    Attributes:
        address, port: where it is.
        weight: its share of new connections; in mode nftables its number of slots. 0: it gets none.
        connections: new connections since the kernel has counted them; None where it does not, or not at this frontend.
        active, inactive: connections that are established now, and those in any other state; None likewise.
    """

    address: str
    port: int
    weight: int
    connections: int | None = None
    active: int | None = None
    inactive: int | None = None


class HeldFrontend(msgspec.Struct, frozen=True, rename="camel"):
    """One frontend as the kernel has it; `connections` is None where the kernel does not count them."""

    frontend: Frontend
    connections: int | None
    backends: tuple[HeldBackend, ...]


class Trace(msgspec.Struct, frozen=True, rename="camel"):
    """What was found.

    Attributes:
        explanation: what becomes of the connection, by the plan.
        mode: the one that was looked at.
        kernel: the frontends that the kernel has there; none when it has none.
        raw: the same in the words of the kernel's own tools.
        connections: those of this client that connection tracking has.
        ipvs_connections: those that IPVS has.
        differences: between plan and kernel, as sentences.
        notes: what else is worth knowing.
    """

    explanation: Explanation
    mode: str
    kernel: tuple[HeldFrontend, ...] = ()
    raw: tuple[str, ...] = ()
    connections: tuple[Tracked, ...] = ()
    ipvs_connections: tuple[IpvsConnection, ...] = ()
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def text(trace: Trace) -> str:
    """Write everything but the explanation, one thing a line."""
    return "".join(f"{line}\n" for line in _lines(trace))


def told(difference: Difference, wanted: Wanted, held: Mapping[Frontend, tuple[Backend, ...]]) -> str:
    """Write a difference between plan and kernel as a sentence with its remedy."""
    where = frontend_text(difference.frontend)
    match difference.state:
        case "missing":
            what = f"the plan has {where} for {difference.service}, the kernel has not"
        case "extra":
            what = f"the kernel has {where}, the plan has not"
        case _:
            planned = _count(len(wanted.backends[difference.frontend]), "backends")
            what = f"{where}: the plan has {planned}, the kernel {len(held[difference.frontend])}: it "
            what += " and ".join((*_all("lacks", difference.missing), *_all("has besides", difference.extra)))
    return f"{what}; run `pointsman diff`"


def _all(verb: str, backends: tuple[Backend, ...]) -> tuple[str, ...]:
    if not backends:
        return ()
    names = [f"{joined(each.address, each.port)} (weight {each.weight})" for each in backends[:_MOST]]
    more = f" and {len(backends) - _MOST} more" if len(backends) > _MOST else ""
    return (f"{verb} {', '.join(names)}{more}",)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word.removesuffix('s') if number == 1 else word}"


def _lines(trace: Trace) -> Iterator[str]:
    yield ""
    yield f"in the kernel, mode {trace.mode}"
    if not trace.kernel:
        yield "  no frontend there"
    for held in trace.kernel:
        yield from _frontend(held, trace.mode)
    yield from (f"  {line}" for line in trace.raw)
    yield ""
    yield from _connections(trace)
    if trace.ipvs_connections:
        yield ""
        yield from _ipvs_connections(trace)
    if trace.differences or trace.notes:
        yield ""
    yield from (f"difference  {each}" for each in trace.differences)
    yield from (f"note        {each}" for each in trace.notes)


def _frontend(held: HeldFrontend, mode: str) -> Iterator[str]:
    is_counted = held.connections is not None
    counted = f"  {_count(held.connections, 'connections')} so far" if held.connections is not None else ""
    yield f"  {frontend_text(held.frontend)}{counted}"
    if not held.backends:
        # The kernel knows nothing of the proxy's backends, and nobody else told of them.
        untold = mode == "userspace" and not is_counted
        yield "    its backends are not known here" if untold else "    no backend gets new connections"
    for backend in held.backends:
        parts = [f"weight {backend.weight}" if backend.weight else "gets nothing new"]
        numbers = ((backend.connections, "connections"), (backend.active, "active"), (backend.inactive, "inactive"))
        parts += [_count(number, word) for number, word in numbers if number is not None]
        parts += ["- connections"] if is_counted and backend.connections is None else []
        mark = "->" if backend.weight else "--"
        yield f"    {mark} {joined(backend.address, backend.port)}  {', '.join(parts)}"


def _connections(trace: Trace) -> Iterator[str]:
    at = trace.explanation.connection
    count = len(trace.connections)
    whose = f"of {at.source} to {joined(at.destination, at.port)}/{at.protocol}"
    yield f"connections {whose} that are tracked: {count or 'none'}"
    for each in trace.connections[:_MOST]:
        parts = [each.state] if each.state else []
        parts += [f"{each.seconds} s left"] + ([] if each.answered else ["no answer yet"])
        if each.seen_as[0] != at.source:
            parts.append(f"masqueraded as {joined(*each.seen_as)}")
        yield f"  port {each.client_port} -> {_answering(trace, each)}  {', '.join(parts)}"
    if count > _MOST:
        yield f"  and {count - _MOST} more (-o json has all)"


def _answering(trace: Trace, tracked: Tracked) -> str:
    at = trace.explanation.connection
    if tracked.answering == (at.destination, at.port):
        return "not translated"
    if tracked.answering[0] in PROXY_ADDRESSES.values():
        return f"{joined(*tracked.answering)} (the proxy in the agent)"
    if trace.mode == "userspace":
        return f"{joined(*tracked.answering)} (past the proxy, by the mode before)"
    known = {(each.address, each.port) for held in trace.kernel for each in held.backends if each.weight}
    gone = "" if not known or tracked.answering in known else " (gets no new connections)"
    return f"{joined(*tracked.answering)}{gone}"


def _ipvs_connections(trace: Trace) -> Iterator[str]:
    yield f"the same in IPVS's own table: {len(trace.ipvs_connections)}"
    for each in trace.ipvs_connections[:_MOST]:
        what = f"port {each.client_port}" if each.client_port else "the client itself (affinity)"
        yield f"  {what} -> {joined(*each.answering)}  {each.state}, {each.seconds} s left"
