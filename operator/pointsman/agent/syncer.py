"""One sync: changes into the planner, the plan's delta into the kernel, stale entries out of connection tracking.

Everything here blocks, and belongs to one thread: netlink sockets and the dataplane's memory are not shared. What
others may know of a sync is in its `Outcome`, an immutable value.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pointsman.agent.connections import Reading
from pointsman.agent.mode_keeper import ModeKeeper
from pointsman.agent.modes import NoModeError
from pointsman.agent.outcome import Cleaned, Facts, Outcome
from pointsman.agent.stale import stale_udp
from pointsman.dataplane.protocol import DataplaneError, Written
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pointsman.agent.modes import Choice
    from pointsman.agent.outcome import Cleaner, Kernel
    from pointsman.model.objects import ObjectKey
    from pointsman.model.parse import Object
    from pointsman.model.plan import Answer, Delta, Family, Frontend
    from pointsman.policy.planner import Planner

_BOTH: Final[tuple[Family, Family]] = (4, 6)
_DOUBTFUL: Final = 2
"""So many failures in a row raise the question whether the node still supports the mode in force."""


class Syncer:
    """Owns the planner and the dataplanes; used by one thread.

    Attributes:
        has_news: something is to be told that no sync has told yet.
    """

    def __init__(
        self,
        planner: Planner,
        kernel: Kernel,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._planner = planner
        self._kernel = kernel
        self._wall = wall
        self._started = wall()
        self._modes = ModeKeeper(planner, kernel, monotonic)
        self._failures = 0
        self._conntrack: Cleaner | None = None
        self._set: object = None
        self._in_use: frozenset[Family] = frozenset()
        self._sysctl_problems: tuple[Problem, ...] = ()
        self._conntrack_problems: tuple[Problem, ...] = ()
        self._tend_problems: tuple[Problem, ...] = ()
        self._udp: dict[Frontend, Answer] = {}
        self._stale: set[Frontend] = set()
        self._unheeded: set[Frontend] = set()
        self._follow_problems: tuple[Problem, ...] = ()
        self._triggers: list[float] = []
        self.has_news = False

    def why_useless(self) -> str:
        """Say why no mode at all can be in force on this node, with the remedies; "" when one can."""
        return self._modes.why_useless()

    def disturbed(self) -> bool:
        """Let the dataplane do what is due by time; tell whether another program changed what is ours."""
        dataplane = self._modes.dataplane
        if dataplane is None:
            return False
        problems = self._modes.tend()
        try:
            dataplane.tend()
        except (DataplaneError, OSError) as error:
            problems = (_untended(dataplane.mode, error), *problems)
        self.has_news = self.has_news or problems != self._tend_problems or self._modes.has_ended
        self._tend_problems = problems
        return dataplane.disturbed()

    def sync(self, changes: Mapping[ObjectKey, Object | None], *, full: bool) -> Outcome:
        """Bring changes into the kernel; with `full`, compare all that the kernel holds.

        A dataplane's refusal is an outcome, as is an error of the system; any other exception is a fault of ours
        and is raised. The changes are kept in any case: after a failure the next sync has to be a full one.
        """
        self._put(changes)
        choice, error = self._choose()
        delta = self._plan()
        before = self._wall()
        clock = time.perf_counter()
        written: Written | None = None
        anew = choice is not None and not self._modes.is_in_force(choice)
        mode = self._mode_in_force
        if choice is not None:
            written, error = self._switch(choice) if anew else self._write(delta, full=full)
        seconds = time.perf_counter() - clock
        self._follow()
        finished = before + seconds
        full = full or anew
        self._failures = 0 if written is not None else self._failures + 1
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
            switched=mode is not None and mode != self._mode_in_force,
        )

    def count(self) -> Reading:
        """Look at what the kernel has counted.

        Raises:
            DataplaneError: it can't be read.
        """
        dataplane = self._modes.dataplane
        traffic = {} if dataplane is None else dataplane.traffic()
        return Reading(self._planner.mode, self._wall(), self._planner.plan.answers, traffic)

    def clean_up(self) -> None:
        """Remove everything that is ours from the kernel; nothing may be synced after that.

        Raises:
            DataplaneError: the kernel refused.
        """
        self._modes.clean_up()

    def close(self) -> None:
        """Release what is open; the kernel keeps what it holds."""
        self._modes.close()

    @property
    def _mode_in_force(self) -> str | None:
        dataplane = self._modes.dataplane
        return dataplane.mode if dataplane is not None else None

    def _put(self, changes: Mapping[ObjectKey, Object | None]) -> None:
        for key, obj in changes.items():
            if obj is None:
                self._planner.remove(key)
            else:
                self._planner.put(obj)

    def _choose(self) -> tuple[Choice | None, str]:
        """Choose the mode to plan for; with none that works, and none in force, say why."""
        try:
            return self._modes.decide(doubtful=self._failures >= _DOUBTFUL), ""
        except NoModeError as error:
            return None, str(error)

    def _plan(self) -> Delta:
        delta = self._planner.take()
        # Changes from before our start were not ours to bring into the kernel in time.
        self._triggers += [time for time in self._planner.take_triggers() if time >= self._started]
        self._stale |= stale_udp(self._udp, delta).keys()
        self._unheeded |= delta.changed.keys() | delta.removed
        self._in_use = self._in_use.union(frontend.family for frontend in delta.changed)
        for frontend in delta.removed:
            self._udp.pop(frontend, None)
        self._udp.update((frontend, answer) for frontend, answer in delta.changed.items() if frontend.protocol == "udp")
        return delta

    def _switch(self, choice: Choice) -> tuple[Written | None, str]:
        """Bring another mode in force, or, where that does not work, make sure of the one that is."""
        try:
            return self._modes.switch(choice), ""
        except (DataplaneError, OSError) as error:
            if self._mode_in_force is None:
                return None, _text(error)
            self._modes.stay(choice, error)
            return self._write(self._plan(), full=True)

    def _write(self, delta: Delta, *, full: bool) -> tuple[Written | None, str]:
        dataplane = self._modes.dataplane
        if dataplane is None or (not full and not delta):
            return Written(), ""
        try:
            return (dataplane.adopt(self._planner.plan) if full else dataplane.apply(delta)), ""
        except (DataplaneError, OSError) as error:
            return None, _text(error)

    def _follow(self) -> None:
        """Tell modes that drain what changed, whether the one in force has taken it or not."""
        if not self._unheeded:
            return
        answers = self._planner.answers
        self._follow_problems = self._modes.follow({frontend: answers.get(frontend) for frontend in self._unheeded})
        if not self._follow_problems:
            self._unheeded.clear()

    def _clean(self, *, full: bool) -> tuple[Cleaned, ...]:
        # What led to a proxy that is closed, or to IPVS, leads nowhere when a mode has ended.
        if self._modes.take_ended() or full:
            self._stale |= self._udp.keys()
        if not full and not self._stale:
            return ()
        try:
            own = self._modes.own_endpoints()
            if full:
                # A proxy knows of frontends that were gone before this agent started.
                self._stale |= {frontend for frontend in own if frontend.protocol == "udp"}
            done = tuple(
                self._clean_family(family, self._stale, own) for family in _BOTH if _of_family(self._stale, family)
            )
        except (DataplaneError, OSError) as error:
            self._conntrack_problems = (_untracked(error),)
            return ()
        self._stale, self._conntrack_problems = set(), ()
        return done

    def _clean_family(
        self, family: Family, stale: Collection[Frontend], own: Mapping[Frontend, frozenset[tuple[str, int]]]
    ) -> Cleaned:
        clock = time.perf_counter()
        if self._conntrack is None:
            self._conntrack = self._kernel.conntrack()
        answers = {frontend: self._udp.get(frontend) for frontend in _of_family(stale, family)}
        entries = self._conntrack.clean(answers, own, without_ipvs=not self._modes.serves("ipvs"))
        return Cleaned(family, entries, time.perf_counter() - clock)

    def _apply_sysctls(self, *, full: bool) -> None:
        config = self._planner.config
        wanted = (config, self._in_use, self._planner.mode)
        if full or wanted != self._set:
            self._set = wanted
            self._sysctl_problems = self._kernel.sysctls(config, self._in_use, self._planner.mode)

    def _facts(self) -> Facts:
        planner, choice = self._planner, self._modes.choice
        self.has_news = False
        return Facts(
            mode=planner.mode,
            wanted=choice.wanted if choice is not None else planner.mode,
            why=choice.why if choice is not None else "",
            counts=planner.counts,
            health_checks=dict(planner.health_checks),
            problems=(
                *planner.problems,
                *self._sysctl_problems,
                *self._conntrack_problems,
                *self._tend_problems,
                *self._follow_problems,
                *self._modes.problems,
            ),
            node_leaving=planner.node is not None and planner.node.leaving,
            min_sync_period=planner.config.min_sync_period,
            sync_period=planner.config.sync_period,
            node_proxy=planner.node_proxy,
            look_again=self._modes.look_again,
            draining=self._modes.draining,
        )


def _families(delta: Delta) -> frozenset[Family]:
    if delta.settings is not None:
        return frozenset(_BOTH)
    return frozenset(frontend.family for frontends in (delta.changed, delta.removed) for frontend in frontends)


def _of_family(frontends: Iterable[Frontend], family: Family) -> list[Frontend]:
    return [frontend for frontend in frontends if frontend.family == family]


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _untended(mode: str, error: Exception) -> Problem:
    return Problem(
        source="kernel",
        object="",
        field="",
        message=f"mode {mode} can't do all that is due: {_text(error)}",
        remedy="it is tried again all the time",
        dropped="nothing",
    )


def _untracked(error: Exception) -> Problem:
    return Problem(
        source="",
        object="connection tracking",
        field="",
        message=f"stale UDP entries cannot be deleted ({error})",
        remedy="the agent needs CAP_NET_ADMIN and the kernel module nf_conntrack_netlink",
        dropped="the clean-up",
    )
