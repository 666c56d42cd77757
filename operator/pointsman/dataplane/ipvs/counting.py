"""What IPVS has counted, by frontend, with as few requests as it takes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pointsman.dataplane.protocol import ServerTraffic, Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.ipvs.kernel import IpvsKernel
    from pointsman.dataplane.ipvs.objects import Real, ServerKey
    from pointsman.model.plan import Frontend

_Totals = dict["Real", int]


class Counting:
    """Reads all counters: two requests, and one more for each virtual server with new connections since the last time.

    IPVS tells the connections of real servers so far only for one virtual server at a time. It adds up each counter by
    itself, every two seconds; so real servers are read once more after their virtual server's stood still.
    """

    def __init__(self) -> None:
        self._known: dict[ServerKey, tuple[int, bool, _Totals]] = {}

    def count(self, kernel: IpvsKernel, sources: Mapping[ServerKey, Frontend]) -> dict[Frontend, Traffic]:
        """Count.

        Args:
            kernel: where to ask.
            sources: our virtual servers, and the frontend that each serves; several may serve one.

        Raises:
            OSError: the counters can't be read.
        """
        listed, stats = kernel.listed(), kernel.ipvs.stats()
        connections: defaultdict[Frontend, int] = defaultdict(int)
        backends: defaultdict[Frontend, dict[tuple[str, int], ServerTraffic]] = defaultdict(dict)
        known, self._known = self._known, {}
        for key, frontend in sources.items():
            total = stats[key].connections if key in stats else 0
            connections[frontend] += total
            before, settled, totals = known.get(key, (0, True, {}))
            if total != before or not settled:
                totals = {real: counters.connections for real, counters in kernel.ipvs.dests(key).items()}
            self._known[key] = total, total == before, totals
            reals = kernel.reals(key, listed) if key in stats else {}
            for real, counts in reals.items():
                at = (real.address, real.port)
                one = ServerTraffic(totals.get(real, 0), counts.weight, counts.active, counts.inactive)
                other = backends[frontend].get(at)
                backends[frontend][at] = _sum(one, other) if other else one
        return {frontend: Traffic(total, backends[frontend]) for frontend, total in connections.items()}


def _sum(one: ServerTraffic, other: ServerTraffic) -> ServerTraffic:
    """Add up what a backend has got by two virtual servers of one frontend."""
    return ServerTraffic(
        one.connections + other.connections,
        max(one.weight, other.weight),
        (one.active or 0) + (other.active or 0),
        (one.inactive or 0) + (other.inactive or 0),
    )
