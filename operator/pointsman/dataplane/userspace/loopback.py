"""Node ports on loopback for a mode whose rules do not reach there: the proxy listens on 127.0.0.1 and ::1 itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.userspace.port import Wish
from pointsman.dataplane.userspace.proxy import Place, Proxy, Target
from pointsman.dataplane.userspace.table import is_served
from pointsman.model.plan import NODE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from pointsman.dataplane.protocol import Dataplane, Support, Traffic, Written
    from pointsman.model.plan import Answer, Backend, Delta, Family, Frontend, NodeSettings, Plan

_LOOPBACK: Final[Mapping[Family, str]] = {4: "127.0.0.1", 6: "::1"}


class WithLoopback:
    """A dataplane, and the proxy on loopback beside it, when `NodeSettings.localhost_node_ports` says so.

    A port that cannot be had is refused by name, and no harm to anything else.

    Args:
        inner: the dataplane.
    """

    def __init__(self, inner: Dataplane) -> None:
        self.mode = inner.mode
        self._inner = inner
        self._proxy = Proxy("loopback proxy")
        self._settings: NodeSettings | None = None
        self._answers: dict[Frontend, Answer] = {}
        self._refused: dict[Target, str] = {}

    def support(self) -> Support:
        """See `Dataplane.support`."""
        return self._inner.support()

    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`."""
        written = self._inner.adopt(plan)
        self._settings = plan.settings
        self._answers = {f: answer for f, answer in plan.answers.items() if f.address == NODE_PORT}
        return self._serve_all(written)

    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""
        written = self._inner.apply(delta)
        for frontend in delta.removed:
            self._answers.pop(frontend, None)
        self._answers |= {f: answer for f, answer in delta.changed.items() if f.address == NODE_PORT}
        if delta.settings is not None:
            self._settings = delta.settings
            return self._serve_all(written)
        return self._serve(written, {f for f in (*delta.changed, *delta.removed) if f.address == NODE_PORT})

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`."""
        return self._inner.read()

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`."""
        return self._inner.disturbed()

    def tend(self) -> None:
        """See `Dataplane.tend`."""
        self._inner.tend()

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`; connections over loopback are not among it."""
        return self._inner.traffic()

    def retire(self, limit: float) -> None:
        """See `Dataplane.retire`; connections over loopback go on until `cleanup`."""
        self._inner.retire(limit)
        self._proxy.close_ports(self._proxy.targets())

    def carried(self) -> int:
        """See `Dataplane.carried`."""
        return self._inner.carried() + self._proxy.carried()

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> None:
        """See `Dataplane.follow`; retired, there is no port on loopback that could."""
        self._inner.follow(changes)

    def own_endpoints(self) -> Mapping[Frontend, frozenset[tuple[str, int]]]:
        """See `Dataplane.own_endpoints`; nothing is translated to the ports on loopback."""
        return self._inner.own_endpoints()

    def cleanup(self) -> None:
        """See `Dataplane.cleanup`."""
        self._proxy.stop()
        self._inner.cleanup()

    def close(self) -> None:
        """See `Dataplane.close`; connections over loopback end."""
        self._proxy.stop()
        self._inner.close()

    def _serve_all(self, written: Written) -> Written:
        """Listen where it is wanted, and nowhere else."""
        if self._settings is not None:
            self._proxy.set_idle_timeout(self._settings.userspace.udp_idle_timeout)
        known = {target.frontend for target in self._proxy.targets() | self._refused.keys()}
        return self._serve(written, self._answers.keys() | known)

    def _serve(self, written: Written, frontends: AbstractSet[Frontend]) -> Written:
        """Listen at some node ports where it is wanted, and no more where it is not; all others are as they were."""
        wanted = self._targets(frontends & self._answers.keys())
        unwanted = {Target(frontend) for frontend in frontends} - wanted
        self._proxy.close_ports(unwanted)
        # A port that was taken may be free by now.
        todo = wanted | (self._refused.keys() - unwanted)
        if not todo or self._settings is None:
            self._refused = {}
            return written
        idle = self._settings.userspace.udp_idle_timeout
        wishes = {t: Wish(self._answers[t.frontend].pool.backends, self._answers[t.frontend].affinity) for t in todo}
        places = {t: Place(_LOOPBACK[t.frontend.family], (t.frontend.port,)) for t in todo}
        self._refused = dict(self._proxy.change(wishes, places, idle).refused)
        told = {f"{_LOOPBACK[t.frontend.family]}:{t.frontend.port}/{t.frontend.protocol}": text
                for t, text in self._refused.items()}  # fmt: skip
        return msgspec.structs.replace(written, refused={**written.refused, **told})

    def _targets(self, frontends: Iterable[Frontend]) -> frozenset[Target]:
        """Return what shall be listened for: node ports of protocols that the proxy knows, where somebody answers."""
        if self._settings is None or not self._settings.localhost_node_ports:
            return frozenset()
        return frozenset(
            Target(frontend)
            for frontend in frontends
            if frontend.protocol != "sctp" and is_served(self._answers[frontend].pool)
        )
