"""Whose a virtual server of IPVS is: ours, kube-proxy's, or somebody else's."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from pointsman.dataplane.ipvs import listing
from pointsman.dataplane.ipvs.genl import IpvsSocket, del_service
from pointsman.dataplane.ipvs.objects import ServerKey
from pointsman.dataplane.ipvs.records import records_of
from pointsman.dataplane.ipvs.rules import SCHEMA
from pointsman.dataplane.nftables.readback import read_held
from pointsman.dataplane.nftables.structure import read_structure
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import FAMILIES, Transport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pointsman.dataplane.netlink import NftSocket


class Marks(msgspec.Struct, frozen=True):
    """By what kube-proxy's virtual servers are known.

    Attributes:
        service_addresses: addresses on its dummy device.
        node_ports: node ports, as its ipsets have them.
        node_addresses: addresses of the node's other devices.
        ours: virtual servers of Pointsman's own mode ipvs.
    """

    service_addresses: frozenset[str]
    node_ports: frozenset[tuple[Transport, int]]
    node_addresses: frozenset[str]
    ours: frozenset[ServerKey]

    def hold(self, key: ServerKey) -> bool:
        """Tell whether a virtual server is kube-proxy's."""
        if key in self.ours or key.mark:
            return False
        if key.address in self.service_addresses:
            return True
        return (key.protocol, key.port) in self.node_ports and self._is_of_node(key.address)

    def _is_of_node(self, address: str) -> bool:
        return address in self.node_addresses or ipaddress.ip_address(address).is_loopback


def read_keys() -> list[ServerKey]:
    """Read all virtual servers, whoever made them; none where IPVS is not loaded, and it is not loaded for that.

    Raises:
        OSError: they can't be read.
    """
    if not listing.PATH.exists():
        return []
    ipvs = IpvsSocket()
    try:
        return sorted(ipvs.services())
    finally:
        ipvs.close()


def delete(keys: Collection[ServerKey]) -> None:
    """Delete virtual servers.

    Raises:
        DataplaneError: the kernel refused one.
        OSError: it has no IPVS.
    """
    if not keys:
        return
    ipvs = IpvsSocket()
    try:
        refused = ipvs.run([del_service(key) for key in keys])
    finally:
        ipvs.close()
    if refused:
        raise DataplaneError(f"can't delete virtual server {list(keys)[refused[0].index]}: {refused[0]}")


def ours(wire: NftSocket) -> frozenset[ServerKey]:
    """Read which virtual servers are ours; some of them may not be there.

    Raises:
        OSError: our tables can't be read.
    """
    return frozenset(
        key
        for family in FAMILIES
        if read_structure(wire, SCHEMA, family) is not None
        for key in records_of(family, read_held(wire, SCHEMA, family))
    )


def named(keys: Iterable[ServerKey]) -> tuple[str, ...]:
    """Name virtual servers for people."""
    return tuple(str(key) for key in keys)


def split(keys: Iterable[ServerKey], marks: Marks) -> tuple[list[ServerKey], list[ServerKey]]:
    """Return kube-proxy's virtual servers, and those of others; ours are in neither."""
    foreign = [key for key in keys if key not in marks.ours]
    return [key for key in foreign if marks.hold(key)], [key for key in foreign if not marks.hold(key)]
