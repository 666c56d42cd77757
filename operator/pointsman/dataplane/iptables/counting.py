"""Which rules count the connections of frontends and of their backends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from pointsman.dataplane.iptables.names import NAT, Table
from pointsman.dataplane.iptables.services import takers

if TYPE_CHECKING:
    from pointsman.dataplane.iptables.services import PortRules
    from pointsman.model.plan import Answer, Frontend


class BackendCounter(msgspec.Struct, frozen=True, gc=False):
    """Whose packets a backend's rules count.

    Attributes:
        weight: the backend's share of new connections.
        rules: the rules of the table ``nat`` whose packets are this backend's connections; summed.
    """

    weight: int
    rules: tuple[str, ...]


class FrontendCounters(msgspec.Struct, frozen=True, gc=False):
    """Where the connections of one frontend are counted.

    Attributes:
        rules: table and rule; their packets are new connections, summed. In ``filter`` each attempt counts.
        backends: by address and port. All addresses of a Service's port share its endpoints' chains, so that a
            backend's connections stand at the first of them, and the others have none.
    """

    rules: tuple[tuple[Table, str], ...]
    backends: Mapping[tuple[str, int], BackendCounter]


def counters_of(port: PortRules, members: Mapping[Frontend, Answer]) -> dict[Frontend, FrontendCounters]:
    """Say which rules count, for the frontends of one Service's port."""
    ways: defaultdict[Frontend, list[tuple[Table, str]]] = defaultdict(list)
    refusals: defaultdict[Frontend, list[tuple[Table, str]]] = defaultdict(list)
    for line in port.lines:
        (ways if line.place[0] == NAT else refusals)[line.frontend].append((line.place[0], line.rule))
    counted: set[tuple[str, int]] = set()
    found: dict[Frontend, FrontendCounters] = {}
    for frontend in port.order:
        answer = members[frontend]
        backends: dict[tuple[str, int], BackendCounter] = {}
        for pool in (answer.pool, answer.outside) if answer.outside else (answer.pool,):
            for backend in takers(pool):
                where = backend.address, backend.port
                if where not in backends:
                    backends[where] = BackendCounter(backend.weight, () if where in counted else port.endpoints[where])
        counted |= backends.keys()
        # Connections that a chain lets go on to be refused have been counted on their way there.
        found[frontend] = FrontendCounters(tuple(ways.get(frontend) or refusals[frontend]), backends)
    return found
