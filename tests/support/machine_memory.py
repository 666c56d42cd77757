"""A node's kernel in memory, with a dataplane for each mode: what each one holds outlives the objects that wrote it.

It is stricter than the kernel: a dataplane that is closed is of no use, `apply` wants `adopt` first, and a module that
was unloaded and loaded again is another one to those who had opened it before.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pointsman.api.schedulers import SCHEDULERS
from pointsman.dataplane.protocol import DataplaneError, ServerTraffic, Support, Traffic, Written
from pointsman.model.plan import Plan, apply, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.api.names import Mode
    from pointsman.model.plan import Answer, Backend, Delta, Frontend


class Machine:
    """What the kernel has, and what is done with it.

    Attributes:
        supports: what each mode's `support` says, as long as its module is there.
        plans: what is held, by mode.
        calls: (mode, verb) of everything that reached the kernel, in order.
        faults: raised by the next call of a verb in a mode, as often as they are there: ``("ipvs", "adopt")``.
        count: how many dataplanes of a mode are open.
        is_disturbed: what `disturbed` says.
        carried: how many connections need a mode's dataplane, by mode.
        endpoints: what answers in place of backends, by mode.
        followed: (mode, frontends with their answer) of what modes that are not in force were told of.
        limits: for how long dataplanes may drain that are retired, by mode.
    """

    def __init__(self, *modes: Mode) -> None:
        self.supports = {mode: Support(available=True, schedulers=SCHEDULERS[mode]) for mode in modes or ("nftables",)}
        self.plans: dict[Mode, Plan] = {}
        self.calls: list[tuple[Mode, str]] = []
        self.faults: dict[tuple[Mode, str], list[Exception]] = {}
        self.count: Counter[Mode] = Counter()
        self.is_disturbed = False
        self.carried: Counter[Mode] = Counter()
        self.endpoints: dict[Mode, Mapping[Frontend, frozenset[tuple[str, int]]]] = {}
        self.followed: list[tuple[Mode, dict[Frontend, Answer | None]]] = []
        self.limits: dict[Mode, float] = {}
        self._loaded: Counter[Mode] = Counter()

    @property
    def opened(self) -> dict[Mode, int]:
        """How many dataplanes are open, by mode."""
        return dict(+self.count)

    def dataplanes(self) -> Mapping[Mode, Callable[[], Dataplane]]:
        """Return what opens them."""
        return {mode: lambda mode=mode: self.open(mode) for mode in self.supports}  # type: ignore[misc]  # a default binds

    def open(self, mode: Mode) -> Dataplane:
        self.meet(mode, "open")
        self.count[mode] += 1
        return Dataplane(self, mode)

    def unload(self, mode: Mode, reason: str = "no such module; load it") -> None:
        """Take a mode's module away, and all that it holds."""
        self.supports[mode] = Support(available=False, reason=reason)
        self.plans.pop(mode, None)
        self._loaded[mode] += 1

    def load(self, mode: Mode, *schedulers: str) -> None:
        """Bring a mode's module."""
        self.supports[mode] = Support(available=True, schedulers=schedulers or SCHEDULERS[mode])

    def loaded(self, mode: Mode) -> int:
        """Return a number that is another one after each `unload`."""
        return self._loaded[mode]

    def meet(self, mode: Mode, verb: str) -> None:
        """Raise what is due."""
        faults = self.faults.get((mode, verb))
        if faults:
            raise faults.pop(0)

    def did(self, *verbs: str) -> list[tuple[Mode, str]]:
        """Return the calls of some verbs since the last time, and forget them all."""
        calls, self.calls = self.calls, []
        return [call for call in calls if call[1] in (verbs or ("adopt", "apply", "retire", "cleanup"))]


class Dataplane:
    """One that is open (`pointsman.dataplane.protocol.Dataplane`)."""

    def __init__(self, machine: Machine, mode: Mode) -> None:
        self.mode = mode
        self._machine = machine
        self._module = machine.loaded(mode)
        self._plan: Plan | None = None
        self._closed = False

    def support(self) -> Support:
        self._reach("support")
        support = self._machine.supports[self.mode]
        if support.available and self._module != self._machine.loaded(self.mode):
            return Support(available=False, reason="the module is another one")
        return support

    def adopt(self, plan: Plan) -> Written:
        self._write("adopt")
        self._machine.limits.pop(self.mode, None)
        held = self._machine.plans.get(self.mode, Plan({}))
        return self._hold(Plan(dict(plan.answers), plan.settings), held)

    def apply(self, delta: Delta) -> Written:
        assert self._plan is not None, "adopt comes first"
        self._write("apply")
        return self._hold(apply(self._plan, delta), self._plan)

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        plan = self._machine.plans.get(self.mode, Plan({}))
        return {frontend: answer.pool.backends for frontend, answer in plan.answers.items()}

    def disturbed(self) -> bool:
        self._reach("disturbed")
        return self._machine.is_disturbed

    def tend(self) -> None:
        self._reach("tend")

    def traffic(self) -> Mapping[Frontend, Traffic]:
        self._reach("traffic")
        each = ServerTraffic(3, 1)
        return {
            frontend: Traffic(3, {(backend.address, backend.port): each for backend in backends})
            for frontend, backends in self.read().items()
        }

    def retire(self, limit: float) -> None:
        self._write("retire")
        self._machine.limits[self.mode] = limit

    def carried(self) -> int:
        self._reach("carried")
        assert self.mode in self._machine.limits, "retire comes first"
        return self._machine.carried[self.mode]

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> None:
        self._reach("follow")
        self._machine.followed.append((self.mode, dict(changes)))

    def own_endpoints(self) -> Mapping[Frontend, frozenset[tuple[str, int]]]:
        return self._machine.endpoints.get(self.mode, {})

    def cleanup(self) -> None:
        self._write("cleanup")
        self._machine.limits.pop(self.mode, None)
        self._machine.plans.pop(self.mode, None)
        self._plan = None

    def close(self) -> None:
        self._reach("close")
        self._closed = True
        self._machine.count[self.mode] -= 1

    def _write(self, verb: str) -> None:
        self._reach(verb)
        if self._module != self._machine.loaded(self.mode) or not self._machine.supports[self.mode].available:
            raise DataplaneError(f"{self.mode}: the module is gone")

    def _reach(self, verb: str) -> None:
        assert not self._closed, f"{verb} of a closed dataplane of mode {self.mode}"
        self._machine.calls.append((self.mode, verb))
        self._machine.meet(self.mode, verb)

    def _hold(self, plan: Plan, before: Plan) -> Written:
        self._plan = self._machine.plans[self.mode] = plan
        delta = difference(before, plan)
        return Written(added=len(delta.changed), removed=len(delta.removed))
