"""The virtual servers that are ours: what the kernel holds of them, and the way to what it shall hold; pure.

The rules of a graceful end, for real servers that are not wanted any more:

* TCP: the weight becomes 0, so that nobody new comes; the real server is deleted when its connections have ended, or
  after a limit. One that is wanted again gets its weight back.
* UDP and SCTP: deleted at once (kube-proxy does the same), as there is no end to wait for.
* With a scheduler that refuses clients for the sake of a weight of 0 (`RIGID`): deleted at once, too.
* A virtual server that is not wanted any more goes with the last of its real servers. New connections are refused
  by the rules meanwhile.
* Once another mode decides, every real server waits for its connections, whatever its protocol and scheduler: nobody
  comes who could be refused, and no UDP client has to be sent elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.dataplane.ipvs import wire
from pointsman.dataplane.ipvs.objects import RIGID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pointsman.dataplane.ipvs.entries import Wanted
    from pointsman.dataplane.ipvs.objects import Real, Server, ServerKey
    from pointsman.model.plan import Transport

_GRACEFUL: Final[Transport] = "tcp"

ADD: Final = "add"
CHANGE: Final = "change"
WEIGH: Final = "set the weight of"
DELETE: Final = "delete"


class Command(NamedTuple):
    """One message for the kernel.

    Attributes:
        message: as `wire` encodes it.
        key: the virtual server that it is about.
        verb: what it does, for people.
        real: the real server that it is about, or None.
    """

    message: bytes
    key: ServerKey
    verb: str
    real: Real | None = None

    def __str__(self) -> str:
        """Say it as the end of a sentence."""
        what = f"{self.real.address} port {self.real.port} of " if self.real else ""
        return f"{self.verb} {what}virtual server {self.key}"


class Held:
    """A virtual server that the kernel holds: itself, its real servers' weights, its clients' protocol."""

    __slots__ = ("protocol", "reals", "server")

    def __init__(self, server: Server, reals: dict[Real, int], protocol: Transport) -> None:
        self.server = server
        self.reals = reals
        self.protocol = protocol


class Servers:
    """All virtual servers of ours.

    Args:
        clock: monotonic seconds.

    Attributes:
        held: what the kernel holds.
        draining: real servers that wait for their connections' end, and when the wait is over.
        limit: seconds for which such a real server may keep its connections.
        patient: it may keep those of any protocol.
        added, removed: virtual and real servers that came and went with all `change`s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.held: dict[ServerKey, Held] = {}
        self.draining: dict[tuple[ServerKey, Real], float] = {}
        self.limit = 900.0
        self.patient = False
        self.added = 0
        self.removed = 0
        self._closing: set[ServerKey] = set()

    @property
    def closing(self) -> frozenset[ServerKey]:
        """Virtual servers that are not wanted any more, and still there for the connections that they carry."""
        return frozenset(self._closing)

    def adopt(self, found: Mapping[ServerKey, Held]) -> None:
        """Begin with what the kernel holds of ours; waits for connections begin anew."""
        self.held = dict(found)
        self.draining = {
            (key, real): until
            for (key, real), until in self.draining.items()
            if key in found and real in found[key].reals
        }
        self._closing = set()

    def change(self, wanted: Iterable[tuple[ServerKey, Wanted]], gone: Iterable[ServerKey] = ()) -> list[Command]:
        """Return the commands that bring virtual servers to what is wanted, and remember them as done.

        Args:
            wanted: virtual servers that are new or changed.
            gone: those that are not wanted any more.
        """
        commands: list[Command] = []
        for key in gone:
            if key in self.held:
                self._close(key, commands)
        for key, each in wanted:
            self._closing.discard(key)
            held = self.held.get(key)
            if held is None:
                held = self.held[key] = Held(each.server, {}, each.protocol)
                commands.append(Command(wire.new_service(key, each.server), key, ADD))
                self.added += 1
            elif held.server != each.server:
                held.server = each.server
                commands.append(Command(wire.set_service(key, each.server), key, CHANGE))
            self._change_reals(key, held, each.reals, commands)
        return commands

    def drop(self, keys: Iterable[ServerKey]) -> list[Command]:
        """Return the commands that delete virtual servers with all that they carry."""
        commands: list[Command] = []
        for key in keys:
            self.removed += len(self.held[key].reals)
            self._remove(key, commands)
            for at in [at for at in self.draining if at[0] == key]:
                del self.draining[at]
            self._closing.discard(key)
        return commands

    def finish(self, connections: Mapping[ServerKey, Mapping[Real, int]]) -> list[Command]:
        """Return the commands that delete what has ended.

        Args:
            connections: how many connections the real servers of the virtual servers in `draining` have.
        """
        commands: list[Command] = []
        now = self._clock()
        for (key, real), until in list(self.draining.items()):
            if now >= until or not connections.get(key, {}).get(real, 0):
                self._remove_real(key, real, commands)
        for key in [key for key in self._closing if not self.held[key].reals]:
            self._closing.discard(key)
            self._remove(key, commands)
        return commands

    def forget(self, key: ServerKey) -> None:
        """Forget a virtual server of which nobody knows what the kernel holds."""
        self.held.pop(key, None)
        self._closing.discard(key)
        for at in [at for at in self.draining if at[0] == key]:
            del self.draining[at]

    def _close(self, key: ServerKey, commands: list[Command]) -> None:
        held = self.held[key]
        self._change_reals(key, held, {}, commands)
        if held.reals:
            self._closing.add(key)
        else:
            self._remove(key, commands)

    def _change_reals(
        self, key: ServerKey, held: Held, wanted: Mapping[Real, int], commands: list[Command]
    ) -> None:  # fmt: skip
        reals = held.reals
        for real, weight in wanted.items():
            known = reals.get(real)
            if known is None:
                commands.append(Command(wire.new_dest(key, real, weight), key, ADD, real))
                self.added += 1
            elif known != weight:
                commands.append(Command(wire.set_dest(key, real, weight), key, WEIGH, real))
            reals[real] = weight
            self.draining.pop((key, real), None)
        if len(reals) > len(wanted):
            for real in [real for real in reals if real not in wanted]:
                self._dismiss(key, held, real, commands)

    def _dismiss(self, key: ServerKey, held: Held, real: Real, commands: list[Command]) -> None:
        """Let a real server go: at once, or when its connections have ended."""
        is_hasty = held.protocol != _GRACEFUL or held.server.scheduler in RIGID
        if is_hasty and not self.patient:
            self._remove_real(key, real, commands)
            return
        if held.reals[real]:
            held.reals[real] = 0
            commands.append(Command(wire.set_dest(key, real, 0), key, WEIGH, real))
        self.draining.setdefault((key, real), self._clock() + self.limit)

    def _remove_real(self, key: ServerKey, real: Real, commands: list[Command]) -> None:
        del self.held[key].reals[real]
        self.draining.pop((key, real), None)
        commands.append(Command(wire.del_dest(key, real), key, DELETE, real))
        self.removed += 1

    def _remove(self, key: ServerKey, commands: list[Command]) -> None:
        del self.held[key]
        commands.append(Command(wire.del_service(key), key, DELETE))
        self.removed += 1
