"""kube-proxy's ipsets: its mode ipvs keeps in them which packets to masquerade and to filter."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pointsman.dataplane.leftovers.found import Leftover
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pointsman.model.plan import Transport

_MODULE: Final = Path("/sys/module/ip_set")
"""There once the kernel has ipsets; asking for them would load the module."""
_LONGEST: Final = 31
_BUSY: Final = 4100
"""IPSET_ERR_BUSY (linux/netfilter/ipset/ip_set.h): a rule refers to the set."""
_RELEASED: Final = 5.0
"""Seconds in which rules that are gone let go of their sets.

nf_tables ends rules later, in a worker that waits until no packet is in them (nf_tables_trans_destroy_work).
"""
_PAUSE: Final = 0.05
"""Seconds from one try to the next."""
_KINDS: Final = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP",
    "NODE-PORT-LOCAL-SCTP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
NAMES: Final = frozenset(f"KUBE-{family}{kind}"[:_LONGEST] for family in ("", "6-") for kind in _KINDS)
"""What its releases call them; those for IPv6 are cut to the length that a name may have."""
_PORT_SETS: Final[tuple[tuple[str, Transport], ...]] = (
    ("NODE-PORT-TCP", "tcp"),
    ("NODE-PORT-UDP", "udp"),
    ("NODE-PORT-SCTP", "sctp"),
    ("NODE-PORT-SCTP-HASH", "sctp"),
)
_PORTS: Final = {f"KUBE-{family}{kind}": protocol for family in ("", "6-") for kind, protocol in _PORT_SETS}
"""Those that hold the node ports of all Services."""


class Ipsets:
    """The ipsets of the network namespace of the calling thread.

    Args:
        module: what there is in the file system once the kernel has ipsets.
        clock: monotonic seconds.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        module: Path = _MODULE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._module, self._clock, self._sleep = module, clock, sleep

    def names(self) -> tuple[str, ...]:
        """Return kube-proxy's.

        Raises:
            DataplaneError: they can't be read.
        """
        if not self._module.exists():
            return ()
        with _opened() as sets:
            return tuple(name for name in sorted(NAMES) if _is_there(sets, name))

    def node_ports(self, names: Iterable[str]) -> frozenset[tuple[Transport, int]]:
        """Return the node ports that kube-proxy's sets hold.

        Args:
            names: of the sets that are there.

        Raises:
            DataplaneError: they can't be read.
        """
        wanted = [name for name in names if name in _PORTS]
        if not wanted:
            return frozenset()
        with _opened() as sets:
            return frozenset((_PORTS[name], port) for name in wanted for port in _ports(sets.list(name)))

    def find(self) -> list[Leftover]:
        """Look for kube-proxy's.

        Raises:
            DataplaneError: they can't be read.
        """
        names = self.names()
        return [Leftover("ipsets", members=names)] if names else []

    def remove(self) -> list[Leftover]:
        """Destroy kube-proxy's; return those that stay because rules still need them.

        Rules that were removed just now are waited for: some seconds for all sets together.

        Raises:
            DataplaneError: the kernel refused for another reason.
        """
        names = self.names()
        if not names:
            return []
        with _opened() as sets:
            busy = self._destroy(sets, names)
        return [Leftover("ipsets", members=busy, kept="rules of others look into them")] if busy else []

    def _destroy(self, sets: Any, names: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ANN401 - pyroute2 has no types
        """Destroy sets; return those that rules refer to all the time."""
        end = self._clock() + _RELEASED
        while busy := tuple(name for name in names if not _destroy(sets, name)):
            if self._clock() >= end:
                break
            self._sleep(_PAUSE)
            names = busy
        return busy


@contextmanager
def _opened() -> Iterator[Any]:
    from pyroute2 import IPSet  # noqa: PLC0415 (0.3 s: only where there are ipsets)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 (as above)

    try:
        with IPSet() as sets:
            yield sets
    except NetlinkError as error:
        raise DataplaneError(f"ipsets: {error}") from error


def _is_there(sets: Any, name: str) -> bool:  # noqa: ANN401 - as above
    return _tried(lambda: list(sets.headers(name)), errno.ENOENT)


def _destroy(sets: Any, name: str) -> bool:  # noqa: ANN401 - as above
    return _tried(lambda: sets.destroy(name), _BUSY)


def _tried(request: Callable[[], object], refusal: int) -> bool:
    """Tell whether the kernel did it; False when it refused for that reason."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 (as above)

    try:
        request()
    except NetlinkError as error:
        if error.code == refusal:
            return False
        raise
    return True


def _ports(messages: Iterable[Any]) -> Iterator[int]:
    """Read the ports of a set's elements, which a long list has in several messages."""
    for message in messages:
        elements = message.get_attr("IPSET_ATTR_ADT")
        for element in elements.get_attrs("IPSET_ATTR_DATA") if elements else ():
            yield int(element.get_attr("IPSET_ATTR_PORT_FROM"))
