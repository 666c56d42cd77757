"""One sync: changes into the planner, the plan's delta into the kernel, stale entries out of connection tracking.

Everything here blocks, and belongs to one thread: netlink sockets and the dataplane's memory are not shared. What
others may know of a sync is in its `Outcome`, an immutable value.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pointsman.agent.connections import Reading
from pointsman.agent.outcome import Cleaned, Facts, Outcome
from pointsman.agent.stale import stale_udp
from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pointsman.agent.outcome import Cleaner, Kernel
    from pointsman.dataplane.protocol import Dataplane, Support
    from pointsman.model.objects import ObjectKey
    from pointsman.model.parse import Object
    from pointsman.model.plan import Answer, Delta, Family, Frontend
    from pointsman.policy.planner import Planner

_BOTH: Final[tuple[Family, Family]] = (4, 6)


class Syncer:
    """Owns the planner and the dataplane; used by one thread."""

    def __init__(self, planner: Planner, kernel: Kernel, *, wall: Callable[[], float] = time.time) -> None:
        self._planner = planner
        self._kernel = kernel
        self._wall = wall
        self._started = wall()
        self._dataplane: Dataplane | None = None
        self._conntrack: Cleaner | None = None
        self._set: tuple[object, frozenset[Family]] | None = None
        self._in_use: frozenset[Family] = frozenset()
        self._sysctl_problems: tuple[Problem, ...] = ()
        self._conntrack_problems: tuple[Problem, ...] = ()
        self._udp: dict[Frontend, Answer] = {}
        self._stale: set[Frontend] = set()
        self._triggers: list[float] = []

    @property
    def dataplane(self) -> Dataplane:
        """The dataplane; opened by the first call."""
        if self._dataplane is None:
            self._dataplane = self._kernel.dataplane()
        return self._dataplane

    def support(self) -> Support:
        """Ask the kernel what it can do."""
        return self.dataplane.support()

    def disturbed(self) -> bool:
        """Tell whether another program changed what is ours."""
        return self.dataplane.disturbed()

    def sync(self, changes: Mapping[ObjectKey, Object | None], *, full: bool) -> Outcome:
        """Bring changes into the kernel; with `full`, compare all that the kernel holds.

        A dataplane's refusal is an outcome, as is an error of the system; any other exception is a fault of ours
        and is raised. The changes are kept in any case: after a failure the next sync has to be a full one.
        """
        delta = self._plan(changes)
        before = self._wall()
        clock = time.perf_counter()
        written, error = self._write(delta, full=full)
        seconds = time.perf_counter() - clock
        finished = before + seconds
        triggers: tuple[float, ...] = ()
        cleaned: tuple[Cleaned, ...] = ()
        if written is not None:
            triggers, self._triggers = tuple(self._triggers), []
            self._apply_sysctls(full=full)
            cleaned = self._clean(full=full)
        return Outcome(
            full=full,
            families=frozenset(_BOTH) if full else _families(delta),
            seconds=seconds,
            finished=finished,
            written=written,
            error=error,
            triggers=triggers,
            cleaned=cleaned,
            facts=self._facts(),
        )

    def count(self) -> Reading:
        """Look at what the kernel has counted.

        Raises:
            DataplaneError: it can't be read.
        """
        traffic = {} if self._dataplane is None else self._dataplane.traffic()
        return Reading(self._planner.mode, self._wall(), self._planner.plan.answers, traffic)

    def clean_up(self) -> None:
        """Remove everything that is ours from the kernel; nothing may be synced after that.

        Raises:
            DataplaneError: the kernel refused.
        """
        self.dataplane.cleanup()

    def close(self) -> None:
        """Release what is open; the kernel keeps what it holds."""
        if self._dataplane is not None:
            self._dataplane.close()

    def _plan(self, changes: Mapping[ObjectKey, Object | None]) -> Delta:
        for key, obj in changes.items():
            if obj is None:
                self._planner.remove(key)
            else:
                self._planner.put(obj)
        delta = self._planner.take()
        # Changes from before our start were not ours to bring into the kernel in time.
        self._triggers += [time for time in self._planner.take_triggers() if time >= self._started]
        self._stale |= stale_udp(self._udp, delta).keys()
        self._in_use = self._in_use.union(frontend.family for frontend in delta.changed)
        for frontend in delta.removed:
            self._udp.pop(frontend, None)
        self._udp.update((frontend, answer) for frontend, answer in delta.changed.items() if frontend.protocol == "udp")
        return delta

    def _write(self, delta: Delta, *, full: bool) -> tuple[Written | None, str]:
        try:
            if not full and not delta:
                return Written(), ""
            dataplane = self.dataplane
            return (dataplane.adopt(self._planner.plan) if full else dataplane.apply(delta)), ""
        except (DataplaneError, OSError) as error:
            return None, str(error) or type(error).__name__

    def _clean(self, *, full: bool) -> tuple[Cleaned, ...]:
        stale = self._stale | self._udp.keys() if full else self._stale
        try:
            done = tuple(self._clean_family(family, stale) for family in _BOTH if _of_family(stale, family))
        except (DataplaneError, OSError) as error:
            self._conntrack_problems = (_untracked(error),)
            return ()
        self._stale, self._conntrack_problems = set(), ()
        return done

    def _clean_family(self, family: Family, stale: Collection[Frontend]) -> Cleaned:
        clock = time.perf_counter()
        if self._conntrack is None:
            self._conntrack = self._kernel.conntrack()
        entries = self._conntrack.clean({frontend: self._udp.get(frontend) for frontend in _of_family(stale, family)})
        return Cleaned(family, entries, time.perf_counter() - clock)

    def _apply_sysctls(self, *, full: bool) -> None:
        config = self._planner.config
        wanted = (config.conntrack, self._in_use)
        if full or wanted != self._set:
            self._set = wanted
            self._sysctl_problems = self._kernel.sysctls(config, self._in_use)

    def _facts(self) -> Facts:
        planner = self._planner
        return Facts(
            mode=planner.mode,
            counts=planner.counts,
            health_checks=dict(planner.health_checks),
            problems=(*planner.problems, *self._sysctl_problems, *self._conntrack_problems),
            node_leaving=planner.node is not None and planner.node.leaving,
            min_sync_period=planner.config.min_sync_period,
            sync_period=planner.config.sync_period,
            node_proxy=planner.node_proxy,
        )


def _families(delta: Delta) -> frozenset[Family]:
    if delta.settings is not None:
        return frozenset(_BOTH)
    return frozenset(frontend.family for frontends in (delta.changed, delta.removed) for frontend in frontends)


def _of_family(frontends: Iterable[Frontend], family: Family) -> list[Frontend]:
    return [frontend for frontend in frontends if frontend.family == family]


def _untracked(error: Exception) -> Problem:
    return Problem(
        source="",
        object="connection tracking",
        field="",
        message=f"stale UDP entries cannot be deleted ({error})",
        remedy="the agent needs CAP_NET_ADMIN and the kernel module nf_conntrack_netlink",
        dropped="the clean-up",
    )
