"""Connection tracking's entries of one client and one destination.

States are those of ``linux/netfilter/nf_conntrack_tcp.h`` and ``nf_conntrack_sctp.h``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane import ctmessages as ct
from pointsman.dataplane.channel import NETLINK_NETFILTER, Channel, attributes
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.address import family_of
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.channel import Message, Spans
    from pointsman.model.plan import Family, Transport

_NUMBERS: Final[Mapping[Transport, int]] = MappingProxyType(
    {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
)
_PROTOINFO_STATES: Final = MappingProxyType(
    {
        1: (
            *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"),
            *("CLOSE", "SYN_SENT2"),
        ),
        3: (
            *("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD"),
            *("SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"),
        ),
    }
)
"""By CTA_PROTOINFO_TCP and CTA_PROTOINFO_SCTP; the state is attribute 1 of either."""
_ANSWERED: Final = 1 << 1
_ASSURED: Final = 1 << 2

Endpoint = tuple[str, int]
"""An address and a port."""


class Tracked(msgspec.Struct, frozen=True, rename="camel"):
    """One entry.

    Attributes:
        client_port: from which the client sent.
        answering: who answers; the destination itself where nothing was translated.
        seen_as: as whom that one sees the client; its own address where it was not masqueraded.
        state: as connection tracking calls it; "" for a protocol without any.
        seconds: after which the entry goes, if no packet comes.
        answered: an answer has come.
        assured: the entry is not given up early when the table is full.
    """

    client_port: int
    answering: Endpoint
    seen_as: Endpoint
    state: str
    seconds: int
    answered: bool
    assured: bool


def read_tracked(source: str, destination: str, port: int, protocol: Transport) -> list[Tracked]:
    """Read the entries of connections from one client to one destination.

    Args:
        source: canonical address of the client, as its packets come to this node.
        destination: canonical address to which it connects.
        port: likewise.
        protocol: of the connections.

    Raises:
        DataplaneError: the kernel does not tell.
    """
    try:
        channel = Channel(NETLINK_NETFILTER)
    except OSError as error:
        raise DataplaneError(f"connection tracking can't be read: {error}; load the module nfnetlink") from error
    try:
        family = family_of(destination)
        messages = channel.dump(ct.GET, ct.dump_request(family, _NUMBERS[protocol], port))
        found = [_read(message, family, protocol, (source, (destination, port))) for message in messages]
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise DataplaneError(
            f"connection tracking can't be read: {why}; run this as root, and load the module nf_conntrack_netlink"
        ) from error
    finally:
        channel.close()
    return sorted((each for each in found if each is not None), key=lambda each: each.client_port)


def _read(message: Message, family: Family, protocol: Transport, wanted: tuple[str, Endpoint]) -> Tracked | None:
    """Read one entry; None for one of another connection."""
    data = message.data
    spans = attributes(data, message.start + ct.GENERIC.size, message.end)
    sent = _tuple(data, spans, ct.TUPLE_ORIG, family, protocol)
    back = _tuple(data, spans, ct.TUPLE_REPLY, family, protocol)
    if sent is None or back is None or (sent[0][0], sent[1]) != wanted:
        return None
    status = _number(data, spans, ct.STATUS)
    return Tracked(
        client_port=sent[0][1],
        answering=back[0],
        seen_as=back[1],
        state=_state(data, spans),
        seconds=_number(data, spans, ct.TIMEOUT),
        answered=bool(status & _ANSWERED),
        assured=bool(status & _ASSURED),
    )


def _tuple(
    data: bytes, spans: Spans, kind: int, family: Family, protocol: Transport
) -> tuple[Endpoint, Endpoint] | None:
    """Read source and destination; None when they are of another family or protocol."""
    parts = attributes(data, *spans.get(kind, (0, 0)))
    addresses = attributes(data, *parts.get(ct.TUPLE_IP, (0, 0)))
    ports = attributes(data, *parts.get(ct.TUPLE_PROTO, (0, 0)))
    if ct.IP_SOURCE[family] not in addresses or data[slice(*ports[ct.PROTO_NUM])] != bytes([_NUMBERS[protocol]]):
        return None
    source, destination = (data[slice(*addresses[kind])] for kind in (ct.IP_SOURCE[family], ct.IP_DESTINATION[family]))
    source_port, port = (int.from_bytes(data[slice(*ports[kind])]) for kind in (ct.PROTO_SRC_PORT, ct.PROTO_DST_PORT))
    return (_text(family, source), source_port), (_text(family, destination), port)


def _text(family: Family, packed: bytes) -> str:
    return str(ipaddress.IPv4Address(packed) if family == IPV4 else ipaddress.IPv6Address(packed))


def _number(data: bytes, spans: Spans, kind: int) -> int:
    return int.from_bytes(data[slice(*spans.get(kind, (0, 0)))])


def _state(data: bytes, spans: Spans) -> str:
    for kind, span in attributes(data, *spans.get(ct.PROTOINFO, (0, 0))).items():
        states = _PROTOINFO_STATES.get(kind, ())
        at = attributes(data, *span).get(1)
        number = data[at[0]] if at else 0
        if number < len(states):
            return states[number]
    return ""
