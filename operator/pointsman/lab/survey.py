"""Every frontend of a cluster tried with real connections, and compared with the plan of the node that answers."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.network import Host, families, family_of
from pointsman.lab.steps import Found, Table, count
from pointsman.lab.traffic import Answered, Refused, TimedOut, connect
from pointsman.model.plan import NODE_PORT, Answer, Frontend, NodeSettings, Pool
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.cluster import Cluster

_TRIES_PER_BACKEND: Final = 6
_MOST_TRIES: Final = 60
_SILENCE: Final = 0.4
"""Seconds to wait for an answer where none is planned."""

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
        place = (trial.answer.service_port, _where(trial), trial.origin.name)
        rows.append((*place, _wanted(trial), got, "ok" if good else "WRONG"))
    notes = tuple(f"left out: {problem}" for problem in cluster.problems)
    if len(trials) > _MOST_TRIALS:
        notes += (f"{count(len(trials) - _MOST_TRIALS, 'trial')} more were left out",)
    headings = ("Service", "frontend", "from", "planned", "found", "")
    return Found(bad == 0, _summary(len(rows), bad), table=Table(headings, tuple(rows)), notes=notes)


def _summary(tried: int, bad: int) -> str:
    if not tried:
        return "there is no Service with a frontend in the manifests"
    if bad:
        return f"{bad} of {count(tried, 'trial')} did not come out as planned"
    return f"{count(tried, 'trial')}, every one as planned"


def _trials(cluster: Cluster) -> Iterator[Trial]:
    for position, (name, node) in enumerate(cluster.nodes.items()):
        planner = Planner(name, addresses=node.addresses)
        for obj in cluster.objects:
            planner.put(obj)
        plan = planner.full()
        for frontend, answer in sorted(plan.answers.items(), key=_order):
            if frontend.address == NODE_PORT:
                yield from _node_port(cluster.outside, node, frontend, answer, plan.settings)
                continue
            pod = cluster.client_pods[name]
            if frontend.family in families(pod):
                yield _trial(frontend, answer, pod, frontend.address, plan.settings)
            if not answer.exclusive and position == 0:
                yield _trial(frontend, answer, cluster.outside, frontend.address, plan.settings)


def _order(item: tuple[Frontend, Answer]) -> tuple[str, Frontend]:
    return item[1].service_port, item[0]


def _node_port(client: Host, node: Host, frontend: Frontend, answer: Answer, settings: NodeSettings) -> Iterator[Trial]:
    """Try a node port at the first address of the node that has it."""
    for address in node.addresses:
        if family_of(address) == frontend.family and _within(address, settings.node_port_cidrs):
            yield _trial(frontend, answer, client, address, settings)
            return


def _trial(frontend: Frontend, answer: Answer, origin: Host, address: str, settings: NodeSettings) -> Trial:
    source = origin.address(frontend.family)
    pool = answer.pool if answer.outside is None or _within(source, settings.pod_cidrs) else answer.outside
    barred = answer.source_ranges is not None and not _within(source, answer.source_ranges)
    return Trial(frontend, answer, origin, address, pool, barred)


def _within(address: str, networks: tuple[str, ...]) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(network) for network in networks)


def _where(trial: Trial) -> str:
    address = f"[{trial.address}]" if ":" in trial.address else trial.address
    return f"{address}:{trial.frontend.port}/{trial.frontend.protocol}"


def _open(pool: Pool) -> set[tuple[str, int]]:
    return {(backend.address, backend.port) for backend in pool.backends if backend.weight}


def _wanted(trial: Trial) -> str:
    if trial.barred:
        return "drop"
    return count(len(_open(trial.pool)), "endpoint") if _open(trial.pool) else trial.pool.when_empty


def _try(trial: Trial) -> tuple[str, bool]:
    """Connect as often as it takes to see the backends, and compare."""
    backends = set() if trial.barred else _open(trial.pool)
    silence = "drop" if trial.barred else trial.pool.when_empty
    patience = _SILENCE if silence == "drop" and not backends else None
    seen: Counter[str] = Counter()
    good = True
    for _ in range(min(_TRIES_PER_BACKEND * len(backends), _MOST_TRIES) or 1):
        outcome = connect(trial.origin, trial.address, trial.frontend.port, trial.frontend.protocol, timeout=patience)
        if isinstance(outcome, Answered):
            seen[outcome.server] += 1
            good &= outcome.at in backends
            continue
        word = {Refused: "reject", TimedOut: "drop"}.get(type(outcome), "broken")
        seen[word] += 1
        good &= not backends and word == silence
        break
    return ", ".join(f"{number} {name}" for name, number in sorted(seen.items())), good
