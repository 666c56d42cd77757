"""Reading what the kernel holds for one connection, beside what the plan says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.cli.live import read_held
from pointsman.cli.output import frontend_text
from pointsman.cli.trace_text import HeldBackend, HeldFrontend, Trace, told
from pointsman.dataplane.node_addresses import device_addresses
from pointsman.dataplane.protocol import ServerTraffic, Traffic
from pointsman.dataplane.tracing.ipvs_connections import read_connections
from pointsman.dataplane.tracing.raw import raw
from pointsman.dataplane.tracing.shared import counted_elsewhere
from pointsman.dataplane.tracing.tracked import read_tracked
from pointsman.dataplane.tracing.wanted import wanted
from pointsman.model.address import family_of
from pointsman.model.comparison import Wanted, compare
from pointsman.model.plan import NODE_PORT, Backend, Frontend
from pointsman.policy.explain import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pointsman.agent.connections import Connections
    from pointsman.cli.explain import Question
    from pointsman.cli.live import Live
    from pointsman.policy.explain import Explanation

    Held = Mapping[Frontend, tuple[Backend, ...]]

_ASKED_FOR: Final = "mode {} is asked for (spec.mode), mode {} is looked at"
_ELSEWHERE: Final = "the connections of backends of {} are counted at {}, all addresses of a Service's port together"
_UNTOLD: Final = "mode {} has its backends in the agent's process: of them only the agent's counters tell"


def trace_kernel(live: Live, question: Question, counted: Connections | None, notes: list[str]) -> Trace:
    """Look at one connection.

    Args:
        live: what is known of this node.
        question: who connects, and where to.
        counted: what the node's agent has counted; None when there is none, so that the kernel is asked.
        notes: what is worth knowing already.

    Raises:
        DataplaneError, OSError: the kernel can't be read.
    """
    explanation = explain(live.planner, *question)
    addresses = device_addresses()
    want = wanted(live.mode, live.planner.plan, addresses)
    held, traffic = _read(live, counted)
    is_own = question.destination in map(str, addresses)
    frontends = [each for each in _frontends(explanation, is_own=is_own) if each in want.backends or each in held]
    found, shared = _look(live, [each for each in frontends if each in held], held, traffic, want)
    return Trace(
        explanation=explanation,
        mode=live.mode,
        kernel=found,
        raw=raw(live.mode, family_of(question.source), frontends),
        connections=tuple(read_tracked(*question)),
        ipvs_connections=tuple(read_connections(*question)),
        differences=tuple(_differences(frontends, want, held)),
        notes=(*notes, *_notes(live, want), *shared),
    )


def _read(live: Live, counted: Connections | None) -> tuple[Held, Mapping[Frontend, Traffic]]:
    """Read what the mode in force holds, and what is counted: by its agent if there is one, or else by the kernel."""
    dataplane = live.kernel.dataplanes[live.mode]()
    try:
        held = read_held(dataplane)
        if counted is not None and counted.mode == live.mode:
            return held, _counters(counted)
        return held, dataplane.traffic()
    finally:
        dataplane.close()


def _counters(counted: Connections) -> dict[Frontend, Traffic]:
    """Turn an agent's answer back into what its dataplane said."""
    return {
        Frontend(each.family, each.address, each.protocol, each.port): Traffic(  # type: ignore[arg-type]
            each.connections,
            {
                (to.address, to.port): ServerTraffic(to.connections, to.weight, to.active, to.inactive)
                for to in each.backends
            },
        )
        for each in counted.frontends
    }


def _frontends(explanation: Explanation, *, is_own: bool) -> Iterator[Frontend]:
    """Return the frontends that a packet may hit; `is_own`: its destination is an address of this node."""
    at = explanation.connection
    family = family_of(at.destination)
    yield Frontend(family, at.destination, at.protocol, at.port)
    node_port = Frontend(family, NODE_PORT, at.protocol, at.port)
    if is_own or explanation.frontend == node_port:
        yield node_port


def _look(
    live: Live, frontends: Iterable[Frontend], held: Held, traffic: Mapping[Frontend, Traffic], want: Wanted
) -> tuple[tuple[HeldFrontend, ...], tuple[str, ...]]:
    """Return frontends as the kernel has them, and a note of each whose backends are counted at another one."""
    elsewhere = {each: counted_elsewhere(live.mode, live.planner.plan, each) for each in frontends}
    return (
        tuple(_held_frontend(each, held[each], traffic.get(each), want, at) for each, at in elsewhere.items()),
        tuple(_shared(each, at) for each, at in elsewhere.items() if at and each in traffic),
    )


def _held_frontend(
    frontend: Frontend,
    held: tuple[Backend, ...],
    got: Traffic | None,
    want: Wanted,
    elsewhere: Mapping[tuple[str, int], Frontend],
) -> HeldFrontend:
    all_counted = dict(got.backends) if got is not None else {}
    counted = {where: numbers for where, numbers in all_counted.items() if where not in elsewhere}
    backends = []
    for each in held:
        numbers = counted.pop((each.address, each.port), None)
        backends.append(_held_backend((each.address, each.port), each.weight, numbers))
    # What only the counters have gets nothing new; unless they alone know the backends.
    for where, numbers in sorted(counted.items()):
        backends.append(_held_backend(where, 0 if want.whole else numbers.weight, numbers))
    return HeldFrontend(frontend, got.connections if got is not None else None, tuple(backends))


def _shared(frontend: Frontend, elsewhere: Mapping[tuple[str, int], Frontend]) -> str:
    places = " and ".join(frontend_text(each) for each in sorted(set(elsewhere.values())))
    return _ELSEWHERE.format(frontend_text(frontend), places)


def _held_backend(where: tuple[str, int], weight: int, got: ServerTraffic | None) -> HeldBackend:
    if got is None:
        return HeldBackend(*where, weight)
    return HeldBackend(*where, weight, got.connections, got.active, got.inactive)


def _differences(frontends: list[Frontend], want: Wanted, held: Held) -> Iterator[str]:
    part = Wanted(
        {frontend: want.backends[frontend] for frontend in frontends if frontend in want.backends},
        want.services,
        want.optional,
        want.whole,
    )
    there = {frontend: held[frontend] for frontend in frontends if frontend in held}
    for difference in compare(part, there):
        yield told(difference, part, there)


def _notes(live: Live, want: Wanted) -> Iterator[str]:
    if live.planner.config.mode != live.mode:
        yield _ASKED_FOR.format(live.planner.config.mode, live.mode)
    if not want.whole:
        yield _UNTOLD.format(live.mode)
