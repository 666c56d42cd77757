"""What every dataplane offers to the agent: verbs that change the kernel, and views of what it holds.

A dataplane is used by one thread at a time and blocks while the kernel works. It never flushes: whatever it finds
is compared with what shall be, and the difference is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from pointsman.model.plan import Family

if TYPE_CHECKING:
    from pointsman.model.plan import Answer, Backend, Delta, Frontend, Plan


class Written(msgspec.Struct, frozen=True):
    """What one sync wrote to the kernel.

    Attributes:
        added: elements (or rules, servers) that were added.
        removed: elements (or rules, servers) that were removed.
        refused: what the kernel did not take, and why; empty when everything is in force. Each key is the frontend
            as text, or the part of the rule set.
        rules: how many rules each table has now, by IP version and table; empty where rules do not grow with Services.
    """

    added: int = 0
    removed: int = 0
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    rules: Mapping[tuple[Family, str], int] = msgspec.field(default_factory=dict)


class Support(msgspec.Struct, frozen=True):
    """What the node's kernel supports.

    Attributes:
        available: the mode can run here.
        schedulers: names that an `Answer.scheduler` may have.
        reason: why it cannot run here, with the remedy; "" when it can.
    """

    available: bool
    schedulers: tuple[str, ...] = ()
    reason: str = ""


class ServerTraffic(msgspec.Struct, frozen=True, gc=False):
    """What one backend of a frontend has got.

    Attributes:
        connections: new connections since the kernel has counted them.
        weight: its share of new connections; 0 while it drains.
        active: connections that are established now; None where the kernel does not count them.
        inactive: connections in any other state; None likewise.
    """

    connections: int
    weight: int
    active: int | None = None
    inactive: int | None = None


class Traffic(msgspec.Struct, frozen=True, gc=False):
    """What one frontend has got.

    Attributes:
        connections: new connections since the kernel has counted them.
        backends: by address and port.
    """

    connections: int
    backends: Mapping[tuple[str, int], ServerTraffic]


class Dataplane(Protocol):
    """One way to bring a plan into the kernel."""

    mode: str

    def support(self) -> Support:
        """Ask the kernel what it can do; changes nothing."""
        ...

    def adopt(self, plan: Plan) -> Written:
        """Make the kernel hold exactly `plan`, from whatever it holds now: read, compare, write the difference.

        Raises:
            DataplaneError: nothing was written; what the kernel held is still in force.
        """
        ...

    def apply(self, delta: Delta) -> Written:
        """Bring one delta into the kernel, all or nothing for each address family. `adopt` has to come first.

        Raises:
            DataplaneError: as for `adopt`; the delta must be applied again (or `adopt` called).
        """
        ...

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """Read what the kernel holds: every frontend with the backends that get its new connections."""
        ...

    def disturbed(self) -> bool:
        """Tell whether another program changed what is ours since the last call; cheap, never blocks."""
        ...

    def tend(self) -> None:
        """Do what is due by time alone, as ending what drained; cheap when nothing is, called several times a second.

        Raises:
            DataplaneError: the kernel refused; it is tried again with the next call.
        """
        ...

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """Read what the kernel has counted, for every frontend that it holds.

        Raises:
            DataplaneError: it can't be read.
        """
        ...

    def retire(self, limit: float) -> None:
        """Decide about no new connection any more, as another dataplane does; go on to serve those that it carries.

        What the kernel carries by itself needs nobody. `tend` is still called, until `carried` says 0 or `limit` is
        over; then `cleanup` is.

        Args:
            limit: seconds until then, for one that has to tell the kernel.

        Raises:
            DataplaneError: the kernel refused; it is tried again.
        """
        ...

    def carried(self) -> int:
        """Return how many connections end when this dataplane, which is retired, is cleaned up; cheap."""
        ...

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> None:
        """Have connections that this dataplane, which is not in force any more, carries heed what changed since.

        It decides about no new connection. But a UDP client never connects anew by itself: it has to leave a backend
        that left.

        Args:
            changes: frontends with their new answer; None for one that is gone.

        Raises:
            DataplaneError: it can't be.
        """
        ...

    def own_endpoints(self) -> Mapping[Frontend, frozenset[tuple[str, int]]]:
        """Return who answers in place of backends, as a proxy's sockets do: addresses and ports by frontend.

        Those that serve what a retired dataplane carries are among them. A frontend with none is one that is gone,
        and may have clients whose entries of connection tracking lead to who answered there. Cheap.
        """
        ...

    def cleanup(self) -> None:
        """Remove every trace of this dataplane from the kernel.

        Raises:
            DataplaneError: something stays.
        """
        ...

    def close(self) -> None:
        """Release sockets; the kernel keeps what it holds."""
        ...


class PlainDataplane(ABC):
    """A dataplane whose rules are all there is to it: nothing happens by time, and the kernel carries the connections.

    It is what a dataplane of one's own begins with: five methods say what there is to say.
    """

    mode: str

    @abstractmethod
    def support(self) -> Support:
        """See `Dataplane.support`."""

    @abstractmethod
    def adopt(self, plan: Plan) -> Written:
        """See `Dataplane.adopt`."""

    @abstractmethod
    def apply(self, delta: Delta) -> Written:
        """See `Dataplane.apply`."""

    @abstractmethod
    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """See `Dataplane.read`."""

    @abstractmethod
    def cleanup(self) -> None:
        """See `Dataplane.cleanup`."""

    def disturbed(self) -> bool:
        """See `Dataplane.disturbed`; nobody is listened to."""
        return False

    def tend(self) -> None:  # noqa: B027 - nothing is due by time
        """See `Dataplane.tend`."""

    def traffic(self) -> Mapping[Frontend, Traffic]:
        """See `Dataplane.traffic`; nothing is counted."""
        return {}

    def retire(self, limit: float) -> None:
        """See `Dataplane.retire`; connections do not need the rules."""
        del limit
        self.cleanup()

    def carried(self) -> int:
        """See `Dataplane.carried`."""
        return 0

    def follow(self, changes: Mapping[Frontend, Answer | None]) -> None:  # noqa: B027 - the kernel carries them
        """See `Dataplane.follow`."""

    def own_endpoints(self) -> Mapping[Frontend, frozenset[tuple[str, int]]]:
        """See `Dataplane.own_endpoints`; backends answer by themselves."""
        return {}

    def close(self) -> None:  # noqa: B027 - nothing is open
        """See `Dataplane.close`."""


class DataplaneError(Exception):
    """The kernel refused a transaction; the message names the element or rule as far as it can be found."""
