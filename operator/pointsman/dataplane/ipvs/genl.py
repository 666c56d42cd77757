"""IPVS in the kernel: virtual and real servers set, deleted and read over generic netlink.

The messages for `IpvsSocket.run` are made by the functions that this module has from `pointsman.dataplane.ipvs.wire`.
"""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.channel import NETLINK_GENERIC, Channel
from pointsman.dataplane.ipvs import wire
from pointsman.dataplane.ipvs.objects import Server, ServerKey
from pointsman.dataplane.ipvs.wire import (
    Counters,
    RealCounters,
    Timeouts,
    del_dest,
    del_service,
    new_dest,
    new_service,
    set_dest,
    set_service,
)
from pointsman.dataplane.netlink import Refusal
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pointsman.dataplane.channel import Message
    from pointsman.dataplane.ipvs.objects import Real

__all__ = [
    "Counters",
    "IpvsSocket",
    "RealCounters",
    "Refusal",
    "Timeouts",
    "del_dest",
    "del_service",
    "new_dest",
    "new_service",
    "set_dest",
    "set_service",
]

_BUFFER: Final = 8 << 20  # octets: thousands of messages in one send, and their errors
_PROBE_MARK: Final = 0x706D0000  # where the search for a mark that nobody uses begins


class IpvsSocket:
    """IPVS in the network namespace of the thread that makes it; used by one thread at a time.

    Unloading and loading the kernel module gives IPVS another number: make a new socket then (requests on the old one
    are refused with ENOENT).
    """

    def __init__(self) -> None:
        """Open the socket; the kernel loads the module ``ip_vs`` by itself where it has it.

        Raises:
            FileNotFoundError: the kernel has no IPVS.
            OSError: it has no generic netlink, or the process may not use it.
        """
        self._channel = Channel(NETLINK_GENERIC, buffer=_BUFFER)
        try:
            self._kind = wire.read_family(self._channel.get(wire.CONTROLLER, wire.GET_FAMILY))
        except OSError as error:
            self._channel.close()
            if error.errno == errno.ENOENT:
                raise FileNotFoundError(error.errno, "the kernel has no IPVS (its module is ip_vs)") from None
            raise

    def run(self, messages: Sequence[bytes]) -> list[Refusal]:
        """Send messages as the functions of this module make them, many in one system call, in their order.

        Returns:
            What the kernel refused, by its place in `messages`; everything else is in force. Usual errno values:
            EEXIST (new), ESRCH (no such virtual server), ENOENT (no such real server; for a virtual server: no such
            scheduler), EPERM.

        Raises:
            OSError: ENOBUFS: answers were lost, so nobody knows what is in force.
        """
        return self._channel.submit(self._kind, messages)

    def services(self) -> dict[ServerKey, Server]:
        """Read all virtual servers, whoever made them.

        Those of a protocol that is not TCP, UDP or SCTP are left out.

        Raises:
            OSError: the kernel refused.
        """
        return dict(filter(None, map(wire.read_service, self._dump(wire.GET_SERVICES))))

    def has(self, key: ServerKey) -> bool:
        """Tell whether a virtual server is there, whoever made it.

        Raises:
            OSError: the kernel refused.
        """
        try:
            self._channel.get(self._kind, wire.get_service(key))
        except OSError as error:
            if error.errno == errno.ESRCH:
                return False
            raise
        return True

    def stats(self) -> dict[ServerKey, Counters]:
        """Read what all virtual servers have got.

        Raises:
            OSError: the kernel refused.
        """
        return dict(filter(None, map(wire.read_counters, self._dump(wire.GET_SERVICES))))

    def dests(self, key: ServerKey) -> dict[Real, RealCounters]:
        """Read the real servers of one virtual server; none when there is no such virtual server.

        Raises:
            OSError: the kernel refused.
        """
        return dict(wire.read_dest(message, key.family) for message in self._dump(wire.get_dests(key)))

    def schedulers(self, names: Iterable[str]) -> tuple[str, ...]:
        """Tell which of these schedulers the kernel has; it loads their modules by itself where it has them.

        A virtual server for a firewall mark that nobody uses is made with each one, and deleted at once.

        Raises:
            OSError: the kernel refused for another reason than that it lacks the scheduler.
        """
        asked = list(names)
        used = {key.mark for key in self.services()}
        mark = next(mark for mark in itertools.count(_PROBE_MARK) if mark not in used)
        key = ServerKey(IPV4, "", "tcp", 0, mark)
        pairs = [(new_service(key, Server(scheduler=name, netmask=32)), del_service(key)) for name in asked]
        refused = {r.index: r for r in self.run([message for pair in pairs for message in pair])}
        for index, refusal in refused.items():
            expected = errno.ENOENT if index % 2 == 0 else errno.ESRCH
            if refusal.error != expected:
                raise OSError(refusal.error, f"can't try the scheduler {asked[index // 2]}: {refusal}")
        return tuple(name for index, name in enumerate(asked) if 2 * index not in refused)

    def timeouts(self) -> Timeouts:
        """Read how long idle connections are kept.

        Raises:
            OSError: the kernel refused.
        """
        return wire.read_timeouts(self._channel.get(self._kind, wire.GET_TIMEOUTS))

    def set_timeouts(self, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """Set how long idle connections are kept, in seconds; 0 leaves a value alone.

        Raises:
            OSError: the kernel refused.
        """
        for refusal in self.run([wire.set_timeouts(Timeouts(tcp, tcp_fin, udp))]):
            raise OSError(refusal.error, f"can't set the IPVS timeouts to {tcp}, {tcp_fin}, {udp} s: {refusal}")

    def version(self) -> str:
        """Read the version of IPVS, as ``1.2.1``.

        Raises:
            OSError: the kernel refused.
        """
        return wire.read_version(self._channel.get(self._kind, wire.GET_INFO))

    def close(self) -> None:
        """Close the socket; the servers stay."""
        self._channel.close()

    def _dump(self, request: bytes) -> Iterator[Message]:
        return self._channel.dump(self._kind, request)
