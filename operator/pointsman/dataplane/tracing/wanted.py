"""What each mode would tell that the kernel holds, if a plan were in force: the other half of `Dataplane.read`; pure.

The modes tell different things. In mode nftables a weight is a number of slots, and a backend that clients inside the
cluster and those outside both may get has the slots of both. In mode ipvs a node port is a frontend at each address of
the node. Mode iptables is asked for its own reading of its own rules. Mode userspace has its backends in the agent's
process, where nobody else can read them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pointsman.dataplane.iptables.ruleset import Ruleset
from pointsman.dataplane.ipvs.spots import Places
from pointsman.dataplane.nftables.entries import make_entry
from pointsman.dataplane.nftables.layout import endpoint_size, endpoint_value
from pointsman.model.comparison import Wanted
from pointsman.model.plan import FAMILIES, NODE_PORT, Backend

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address

    from pointsman.model.plan import Answer, Frontend, Plan


def wanted(mode: str, plan: Plan, addresses: Iterable[IPv4Address | IPv6Address]) -> Wanted:
    """Work out what the kernel of a node has to hold.

    Args:
        mode: the dataplane in force. Of one that is not this package's own it is taken that it tells of backends and
            weights as the plan has them.
        plan: what it was given.
        addresses: the node's own ones, on its devices.
    """
    match mode:
        case "nftables":
            return _whole(plan, {frontend: _slots(frontend, answer) for frontend, answer in plan.answers.items()})
        case "ipvs":
            return _ipvs(plan, Places(plan.settings, addresses))
        case "iptables":
            return _iptables(plan)
        case _:
            found = _whole(plan, {frontend: _used(answer) for frontend, answer in plan.answers.items()})
            return Wanted(found.backends, found.services, whole=mode != "userspace")


def _whole(plan: Plan, backends: dict[Frontend, tuple[Backend, ...]]) -> Wanted:
    return Wanted(backends, {frontend: answer.service_port for frontend, answer in plan.answers.items()})


def _used(answer: Answer) -> tuple[Backend, ...]:
    """Return the backends that get new connections, of either pool."""
    pools = (answer.pool, answer.outside or answer.pool)
    used = {(each.address, each.port): each.weight for pool in pools for each in pool.backends if each.weight}
    return tuple(sorted(Backend(address, port, weight) for (address, port), weight in used.items()))


def _slots(frontend: Frontend, answer: Answer) -> tuple[Backend, ...]:
    """Return the backends with the number of slots that they have."""
    try:
        entry = make_entry(frontend, answer)
    except ValueError:
        return _used(answer)  # more than a pool can have: the agent says so, and the kernel has none of it
    size = endpoint_size(frontend.family)
    slots = entry.slots + entry.outside
    counts = Counter(slots[start : start + size] for start in range(0, len(slots), size))
    pools = (answer.pool, answer.outside or answer.pool)
    known = {endpoint_value(frontend.family, each): each for pool in pools for each in pool.backends}
    return tuple(
        sorted(Backend(known[value].address, known[value].port, count) for value, count in counts.items())
    )  # fmt: skip


def _ipvs(plan: Plan, places: Places) -> Wanted:
    """Expand node ports; a frontend at an address of the node goes before the node port of the same number."""
    backends: dict[Frontend, tuple[Backend, ...]] = {}
    services: dict[Frontend, str] = {}
    by_place = sorted(plan.answers.items(), key=lambda item: item[0].address != NODE_PORT)
    for frontend, answer in by_place:
        for spot in places.of(frontend):
            backends[spot], services[spot] = _used(answer), answer.service_port
    return Wanted(backends, services, frozenset(spot for spot in backends if places.is_excluded(spot.address)))


def _iptables(plan: Plan) -> Wanted:
    """Read the rules that the agent would write as those in the kernel are read."""
    backends: dict[Frontend, tuple[Backend, ...]] = {}
    for family in FAMILIES:
        rules = Ruleset(family)
        answers = {frontend: answer for frontend, answer in plan.answers.items() if frontend.family == family}
        rules.accept(rules.adoption(answers, plan.settings, {}))
        backends |= rules.backends(rules.wanted())
    return Wanted(backends, {frontend: plan.answers[frontend].service_port for frontend in backends})
