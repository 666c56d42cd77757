"""Stale UDP entries of connection tracking: found and deleted when a frontend's answer changes.

A UDP client that keeps its source port stays with its connection-tracking entry for as long as it sends, whatever the
rules say meanwhile: with a backend that is gone, or with no backend at all (kubernetes/kubernetes#139628: 13 hours).
TCP needs none of this: its clients notice and connect anew.
"""

from __future__ import annotations

import errno
import ipaddress
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.dataplane.channel import NETLINK_NETFILTER, NETLINK_ROUTE, Channel, read_addresses
from pointsman.dataplane.ctnetlink import (
    PORT_BYTES,
    delete_entries,
    is_by_rules,
    pack_endpoint,
    pack_port,
    read_entries,
)
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import IPV4, NODE_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from pointsman.model.plan import Answer, Family, Frontend

_REMEDIES: Final[Mapping[int, str]] = {
    errno.EPERM: "run the agent with the capability NET_ADMIN",
    errno.EINVAL: "load the kernel module nf_conntrack_netlink",
    errno.EOPNOTSUPP: "load the kernel module nf_conntrack_netlink",
    errno.EPROTONOSUPPORT: "load the kernel module nfnetlink",
}
_NONE: Final[Mapping[Frontend, frozenset[tuple[str, int]]]] = MappingProxyType({})
_ONE_BY_ONE: Final = 4
"""Up to so many ports of a family are asked for one by one: each dump walks the kernel's whole table (30 ms)."""


class Conntrack:
    """Connection tracking in the network namespace of the thread that makes this object.

    It blocks while the kernel works, and is used by one thread at a time.
    """

    def __init__(self) -> None:
        """Open the sockets.

        Raises:
            DataplaneError: the kernel has no netfilter netlink.
        """
        try:
            self._netfilter = Channel(NETLINK_NETFILTER)
            self._route = Channel(NETLINK_ROUTE)
        except OSError as error:
            raise _failure("opened", error) from error

    def clean(
        self,
        frontends: Mapping[Frontend, Answer | None],
        keep: Mapping[Frontend, AbstractSet[tuple[str, int]]] = _NONE,
        *,
        without_ipvs: bool = False,
    ) -> int:
        """Delete the stale UDP entries of `frontends`; see `StaleEntries` for which ones those are.

        Args:
            frontends: those that changed, with their new answer; None for one that is gone.
            keep: address and port of all that answers in place of a frontend's backends
                (`Dataplane.own_endpoints`).
            without_ipvs: IPVS translates no packets to these frontends any more; what it translated is stale as well.

        Returns:
            How many entries were deleted. One that vanished meanwhile, or that never was, is no error.

        Raises:
            DataplaneError: the kernel refused to list or to delete; entries may be left.
        """
        families: defaultdict[Family, dict[Frontend, Answer | None]] = defaultdict(dict)
        for frontend, answer in frontends.items():
            if frontend.protocol == "udp":
                families[frontend.family][frontend] = answer
        try:
            return sum(
                self._clean(family, changed, keep, without_ipvs=without_ipvs) for family, changed in families.items()
            )
        except OSError as error:
            raise _failure("cleaned", error) from error

    def close(self) -> None:
        """Close the sockets."""
        self._netfilter.close()
        self._route.close()

    def _clean(
        self,
        family: Family,
        frontends: Mapping[Frontend, Answer | None],
        keep: Mapping[Frontend, AbstractSet[tuple[str, int]]],
        *,
        without_ipvs: bool,
    ) -> int:
        with_node_ports = any(frontend.address == NODE_PORT for frontend in frontends)
        local = read_addresses(self._route, family) if with_node_ports else frozenset()
        rules = StaleEntries(family, frontends, local, keep)
        ports = {frontend.port for frontend in frontends}
        stale = [
            entry
            for port in (ports if len(ports) <= _ONE_BY_ONE else (None,))
            for entry in read_entries(self._netfilter, family, port)
            if rules.hold(entry.destination, entry.answering)
            or (without_ipvs and rules.is_translated(entry.destination, entry.answering) and not is_by_rules(entry))
        ]
        return delete_entries(self._netfilter, family, stale)


class StaleEntries:
    """The rule that tells which UDP entries of changed frontends are stale; pure.

    - The answering endpoint is not (or no longer) among the frontend's backends, in the pool or outside, and it is no
      endpoint of ours that stands for these very ones. Draining backends count: existing connections go on.
    - The entry was never translated, and the frontend has a backend for new connections now: the client came before
      the first backend did.
    - The frontend is gone, and the entry was translated.

    A node-port frontend is meant by its port at one of the node's own addresses, unless another of the changed
    frontends has that very address. Elsewhere the same port belongs to somebody else: to a cluster IP whose Service
    did not change, or to a host that the node routes to. On loopback only translated entries count, since a
    local program may use the port there as its own.
    """

    def __init__(
        self,
        family: Family,
        frontends: Mapping[Frontend, Answer | None],
        local_addresses: AbstractSet[bytes],
        keep: Mapping[Frontend, AbstractSet[tuple[str, int]]] = _NONE,
    ) -> None:
        """Prepare the rule.

        Args:
            family: IP version of all frontends.
            frontends: UDP frontends that changed, with their new answer; None for one that is gone.
            local_addresses: the node's own addresses, packed; needed only when there are node-port frontends.
            keep: address and port of what answers in place of a frontend's backends.
        """
        self._family = family
        self._keep: dict[bytes, AbstractSet[tuple[str, int]]] = {}
        self._local = local_addresses
        self._loopback = ipaddress.ip_network("127.0.0.0/8" if family == IPV4 else "::1/128")
        self._answers: dict[bytes, Answer | None] = {}
        for frontend, answer in frontends.items():
            port_only = frontend.address == NODE_PORT
            key = pack_port(frontend.port) if port_only else pack_endpoint(family, frontend.address, frontend.port)
            self._answers[key] = answer
            self._keep[key] = keep.get(frontend, frozenset())
        self._backends: dict[bytes, _Backends] = {}

    def hold(self, destination: bytes, answering: bytes) -> bool:
        """Tell whether an entry is stale.

        Args:
            destination: where its client sent to, as `pack_endpoint` packs it.
            answering: who answers, packed likewise.
        """
        key = self._key(destination, translated=answering != destination)
        if key is None:
            return False
        backends = self._backends.get(key) or self._pack(key)
        if answering in backends.known:
            return False
        return answering != destination or backends.serve

    def is_translated(self, destination: bytes, answering: bytes) -> bool:
        """Tell whether an entry is one of these frontends, and somebody else answers than whom its client sent to."""
        return answering != destination and self._key(destination, translated=True) is not None

    def _key(self, destination: bytes, *, translated: bool) -> bytes | None:
        """Return what the frontend is known by that an entry is meant for, if it is one of these."""
        if destination in self._answers:
            return destination
        key = destination[-PORT_BYTES:]
        if key not in self._answers or not self._is_node_port(destination[:-PORT_BYTES], translated=translated):
            return None
        return key

    def _is_node_port(self, address: bytes, *, translated: bool) -> bool:
        if ipaddress.ip_address(address) in self._loopback:
            return translated
        return address in self._local

    def _pack(self, key: bytes) -> _Backends:
        """Pack the backends of one frontend, on the first entry that it has: most have none."""
        answer = self._answers[key]
        pools = (answer.pool, answer.outside or answer.pool) if answer else ()
        backends = [backend for pool in pools for backend in pool.backends]
        packed = _Backends(
            known=frozenset(
                pack_endpoint(self._family, *each)
                for each in (*((backend.address, backend.port) for backend in backends), *self._keep[key])
            ),
            serve=any(backend.weight for backend in backends),
        )
        self._backends[key] = packed
        return packed


class _Backends(NamedTuple):
    known: frozenset[bytes]
    serve: bool


def _failure(what: str, error: OSError) -> DataplaneError:
    remedy = _REMEDIES.get(error.errno or 0, "see the kernel's log")
    return DataplaneError(f"connection tracking could not be {what}: {error.strerror}; {remedy}")
