"""Connection tracking over netlink: the numbers of messages and attributes, and the request for entries.

They are those of ``linux/netfilter/nfnetlink_conntrack.h``.
"""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.channel import ADDRESS_FAMILY
from pointsman.dataplane.netlink import attribute, nested

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Family

GET: Final = 1 << 8 | 1  # subsystem NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
DELETE: Final = 1 << 8 | 2

TUPLE_ORIG: Final = 1
TUPLE_REPLY: Final = 2
STATUS: Final = 3
PROTOINFO: Final = 4
TIMEOUT: Final = 7
ID: Final = 12
ZONE: Final = 18
_FILTER: Final = 25

TUPLE_IP: Final = 1
TUPLE_PROTO: Final = 2
IP_SOURCE: Final[Mapping[Family, int]] = MappingProxyType({4: 1, 6: 3})
IP_DESTINATION: Final[Mapping[Family, int]] = MappingProxyType({4: 2, 6: 4})
PROTO_NUM: Final = 1
PROTO_SRC_PORT: Final = 2
PROTO_DST_PORT: Final = 3

_FILTER_ORIG_FLAGS: Final = 1
_BY_PROTO_NUM: Final = 1 << 3
_BY_DST_PORT: Final = 1 << 5
_FLAGS: Final = struct.Struct("=I")

GENERIC: Final = struct.Struct("=BBH")
"""struct nfgenmsg, in front of the attributes: address family, version, resource."""


def header(family: Family) -> bytes:
    """Write what stands in front of the attributes."""
    return GENERIC.pack(ADDRESS_FAMILY[family], 0, 0)


def dump_request(family: Family, protocol: int, port: int | None = None) -> bytes:
    """Write the body of a dump request; a kernel before Linux 5.8 sends all entries of the family.

    It could choose by address as well, but for IPv6 it then leaves out exactly the entries that match (Linux 6.18: an
    inverted comparison in ``ctnetlink_filter_match_tuple``).

    Args:
        family: IP version.
        protocol: only entries of this transport protocol, by its number.
        port: only entries that were sent to this port; None means any.
    """
    flags, wanted = _BY_PROTO_NUM, [attribute(PROTO_NUM, bytes([protocol]))]
    if port is not None:
        flags |= _BY_DST_PORT
        wanted.append(attribute(PROTO_DST_PORT, port.to_bytes(2)))
    return b"".join(
        (
            header(family),
            nested(_FILTER, attribute(_FILTER_ORIG_FLAGS, _FLAGS.pack(flags))),
            nested(TUPLE_ORIG, nested(TUPLE_IP), nested(TUPLE_PROTO, *wanted)),
        )
    )
