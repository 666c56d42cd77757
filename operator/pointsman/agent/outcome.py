"""What a sync needs of the kernel, and what came of it: plain values that any thread may read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from pointsman.api.names import Mode
    from pointsman.api.nodeproxy import NodeProxy
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.dataplane.protocol import Dataplane, Written
    from pointsman.model.plan import Answer, Family, Frontend
    from pointsman.model.problems import Problem
    from pointsman.policy.planner import Counts, HealthCheck


class Cleaner(Protocol):
    """Deletes stale connection-tracking entries (`pointsman.dataplane.conntrack.Conntrack`)."""

    def clean(
        self,
        frontends: Mapping[Frontend, Answer | None],
        keep: Mapping[Frontend, AbstractSet[tuple[str, int]]],
        *,
        without_ipvs: bool = False,
    ) -> int:
        """Delete the stale UDP entries of frontends, given what answers them now; return how many went."""
        ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """How to get at the kernel; everything is called in the thread that syncs.

    Attributes:
        dataplanes: opens a mode's dataplane; called each time that a mode is looked at.
        conntrack: opens connection tracking; called after the first sync, as nothing waits for it.
        sysctls: sets and checks kernel parameters, given the configuration, the IP versions in use and the mode in
            force; called when these changed, and at each full sync.
        traces: tells whether a mode may have left something in the kernel, as one that was in force before this agent
            started. It is looked for where that may be.
    """

    dataplanes: Mapping[Mode, Callable[[], Dataplane]]
    conntrack: Callable[[], Cleaner]
    sysctls: Callable[[NodeConfiguration, frozenset[Family], Mode], tuple[Problem, ...]]
    traces: Callable[[Mode], bool] = lambda _mode: True


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for the agent as a whole after a sync.

    Attributes:
        mode: the dataplane in force.
        wanted: the one that the configuration asks for; None counts as `mode`.
        why: why it is another one, with the remedy, or "".
        counts: how much there is.
        health_checks: Services with a health check port of their own, by ``namespace/name``.
        problems: what is wrong with objects, as the planner sees it, and with sysctls.
        node_leaving: the node is being deleted; new connections from outside should go elsewhere.
        min_sync_period, sync_period: seconds, from the configuration in force.
        node_proxy: the NodeProxy that the configuration comes from, or None where it comes from elsewhere.
        look_again: seconds after which a sync is due even if nothing changes: a better mode may be there by then;
            None when there is none.
        draining: modes that were in force before and go on to serve their connections, each with the number that it
            had when it gave way.
    """

    mode: Mode
    counts: Counts
    health_checks: Mapping[str, HealthCheck]
    problems: tuple[Problem, ...]
    node_leaving: bool
    min_sync_period: float
    sync_period: float
    node_proxy: NodeProxy | None = None
    wanted: Mode | None = None
    why: str = ""
    look_again: float | None = None
    draining: Mapping[Mode, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One look for stale connection-tracking entries: how many were deleted, and how many seconds it took."""

    family: Family
    entries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one sync.

    Attributes:
        full: everything was compared, not only what changed.
        switched: it was, because another mode came in force.
        families: IP versions that were synced.
        seconds: how long the dataplane took.
        finished: Unix seconds when the kernel had it.
        written: what was written; None when nothing was, because of `error`.
        error: why the kernel holds none of it, or "".
        triggers: Unix seconds of the changes of endpoints that are in the kernel now.
        cleaned: the look for stale connection-tracking entries, for each family that had reason for one.
        facts: what holds now.
    """

    full: bool
    families: frozenset[Family]
    seconds: float
    finished: float
    written: Written | None
    error: str
    triggers: tuple[float, ...]
    cleaned: tuple[Cleaned, ...]
    facts: Facts
    switched: bool = False
