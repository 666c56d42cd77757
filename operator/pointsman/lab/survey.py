"""Every frontend of a cluster tried with real connections, and compared with the plan of the node that answers."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.network import Host
from pointsman.lab.steps import Found, Table, count
from pointsman.lab.traffic import Answered, Refused, TimedOut, connect
from pointsman.model.plan import NODE_PORT, Answer, Frontend, Pool
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.cluster import Cluster

_TRIES_PER_BACKEND: Final = 6
_MOST_TRIES: Final = 60
_MOST_TRIALS: Final = 300
"""A bound, so that the survey of a large directory ends within a minute."""


class Trial(msgspec.Struct, frozen=True):
    """One frontend to try from one place.

    Attributes:
        origin: who connects.
        address: where to; a real address, also for node ports.
        pool: who may answer.
        barred: the client is not in the Service's source ranges, and is dropped.
    """

    frontend: Frontend
    answer: Answer
    origin: Host
    address: str
    pool: Pool
    barred: bool = False


def survey(cluster: Cluster) -> Found:
    """Try every frontend from a pod of each node and, where clients outside can reach it, from there."""
    trials = list(_trials(cluster))
    rows, bad = [], 0
    for trial in trials[:_MOST_TRIALS]:
        got, good = _try(trial)
        bad += not good
        where = f"{trial.address}:{trial.frontend.port}" if trial.frontend.family == 4 else _bracketed(trial)  # noqa: PLR2004 - IP version 4
        to = f"{where}/{trial.frontend.protocol}"
        rows.append((trial.answer.service_port, to, trial.origin.name, _wanted(trial), got, "ok" if good else "WRONG"))
    said = f"{count(len(rows) - bad, 'frontend')} as planned, {bad} not" if bad else f"all {len(rows)} as planned"
    notes = tuple(f"left out: {problem}" for problem in cluster.problems)
    if len(trials) > _MOST_TRIALS:
        notes += (f"{len(trials) - _MOST_TRIALS} more were not tried",)
    headings = ("Service", "frontend", "from", "planned", "found", "")
    return Found(bad == 0, said if rows else "there is no frontend", table=Table(headings, tuple(rows)), notes=notes)


def _trials(cluster: Cluster) -> Iterator[Trial]:
    for position, (name, node) in enumerate(cluster.nodes.items()):
        planner = Planner(name, addresses=node.addresses)
        for obj in cluster.objects:
            planner.put(obj)
        for frontend, answer in sorted(planner.full().answers.items()):
            if frontend.address == NODE_PORT:
                yield from _node_port(cluster, node, frontend, answer)
                continue
            pod = cluster.client_pods[name]
            if any((":" in address) == (frontend.family == 6) for address in pod.addresses):  # noqa: PLR2004 - IP version 6
                yield _trial(frontend, answer, pod, frontend.address, answer.pool)
            if not answer.exclusive and position == 0:
                yield _trial(frontend, answer, cluster.outside, frontend.address, answer.outside or answer.pool)


def _node_port(cluster: Cluster, node: Host, frontend: Frontend, answer: Answer) -> Iterator[Trial]:
    for address in node.addresses:
        if (":" in address) == (frontend.family == 6):  # noqa: PLR2004 - IP version 6
            yield _trial(frontend, answer, cluster.outside, address, answer.outside or answer.pool)
            return


def _trial(frontend: Frontend, answer: Answer, origin: Host, address: str, pool: Pool) -> Trial:
    ranges = answer.source_ranges
    source = ipaddress.ip_address(origin.address(frontend.family))
    barred = ranges is not None and not any(source in ipaddress.ip_network(each) for each in ranges)
    return Trial(frontend, answer, origin, address, pool, barred)


def _open(pool: Pool) -> set[tuple[str, int]]:
    return {(backend.address, backend.port) for backend in pool.backends if backend.weight}


def _wanted(trial: Trial) -> str:
    if trial.barred:
        return "drop"
    return count(len(_open(trial.pool)), "endpoint") if _open(trial.pool) else trial.pool.when_empty


def _try(trial: Trial) -> tuple[str, bool]:
    """Connect as often as it takes to see the backends, and compare."""
    backends = set() if trial.barred else _open(trial.pool)
    tries = min(_TRIES_PER_BACKEND * len(backends), _MOST_TRIES) or 1
    seen: Counter[str] = Counter()
    good = True
    for _ in range(tries):
        outcome = connect(trial.origin, trial.address, trial.frontend.port, trial.frontend.protocol)
        match outcome:
            case Answered():
                seen[outcome.server] += 1
                good &= outcome.at in backends
            case Refused():
                seen["refused"] += 1
                good &= not trial.barred and not backends and trial.pool.when_empty == "reject"
            case TimedOut():
                seen["dropped"] += 1
                good &= trial.barred or (not backends and trial.pool.when_empty == "drop")
            case _:
                seen["broken"] += 1
                good = False
        if not isinstance(outcome, Answered):
            break
    return ", ".join(f"{number} {name}" for name, number in sorted(seen.items())), good


def _bracketed(trial: Trial) -> str:
    return f"[{trial.address}]:{trial.frontend.port}"
