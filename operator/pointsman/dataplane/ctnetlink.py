"""UDP entries of connection tracking, read and deleted through netlink.

Entries are written by the kernel's ``net/netfilter/nf_conntrack_netlink.c``.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.dataplane import ctmessages as ct
from pointsman.dataplane.channel import ADDRESS_FAMILY, Channel, Message, attributes
from pointsman.dataplane.netlink import attribute, nested

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pointsman.model.plan import Family

PORT_BYTES: Final = 2

_DST_NAT: Final = 1 << 5  # linux/netfilter/nf_conntrack_common.h
_UDP: Final = bytes([socket.IPPROTO_UDP])


def pack_endpoint(family: Family, address: str, port: int) -> bytes:
    """Pack an IP address and a port as entries have them: both in network order, one behind the other."""
    return socket.inet_pton(ADDRESS_FAMILY[family], address) + pack_port(port)


def pack_port(port: int) -> bytes:
    """Pack a port in network order."""
    return port.to_bytes(PORT_BYTES)


class Entry(NamedTuple):
    """A UDP entry.

    Attributes:
        destination: where the client sent to, as `pack_endpoint` packs it.
        answering: who answers (the source of the reply direction), packed likewise.
        message: the whole entry as the kernel wrote it.
    """

    destination: bytes
    answering: bytes
    message: Message


def is_by_rules(entry: Entry) -> bool:
    """Tell whether rules translated an entry's destination; IPVS translates without them."""
    message = entry.message
    spans = attributes(message.data, message.start + ct.GENERIC.size, message.end)
    return ct.STATUS in spans and bool(int.from_bytes(message.data[slice(*spans[ct.STATUS])]) & _DST_NAT)


def read_entries(channel: Channel, family: Family, port: int | None = None) -> Iterator[Entry]:
    """Dump the UDP entries of one IP family.

    The kernel chooses them, from Linux 5.8 on; an older one sends all entries of the family, of any port.

    Args:
        channel: to netfilter.
        family: IP version.
        port: only entries that were sent to this port; None means any.

    Raises:
        OSError: the kernel refused the dump.
    """
    layout = _LAYOUTS[family]
    for message in channel.dump(ct.GET, ct.dump_request(family, socket.IPPROTO_UDP, port)):
        entry = layout.read(message)
        if entry is not None:
            yield entry


def delete_entries(channel: Channel, family: Family, entries: Sequence[Entry]) -> int:
    """Delete entries; those that vanished meanwhile are passed over.

    Returns:
        How many were deleted.

    Raises:
        OSError: the kernel refused one for another reason than that it is gone.
    """
    header = ct.header(family)
    errors = channel.run(ct.DELETE, [header + _identity(entry.message) for entry in entries])
    for code in errors:
        if code != errno.ENOENT:
            raise OSError(code, os.strerror(code))
    return len(entries) - len(errors)


def _identity(message: Message) -> bytes:
    """Copy what tells an entry from all others, its identity number included: a successor must not be deleted."""
    spans = attributes(message.data, message.start + ct.GENERIC.size, message.end)
    parts = [(kind, spans[kind]) for kind in (ct.TUPLE_ORIG, ct.ZONE, ct.ID) if kind in spans]
    return b"".join(attribute(kind, message.data[start:end]) for kind, (start, end) in parts)


class _Layout:
    """Where the kernel puts the addresses and ports of one IP family, so that an entry is read by slicing.

    The kernel writes the two tuples first and always alike. One comparison of all bytes between the values proves it
    for each entry; an entry that is laid out otherwise (a tuple with a zone of its own) is read by its attributes.
    """

    def __init__(self, family: Family, address_bytes: int) -> None:
        """Compute the layout from the family and the length of an address."""
        self._address_bytes = address_bytes
        self._source, self._destination = ct.IP_SOURCE[family], ct.IP_DESTINATION[family]
        zeros, ones = self._tuples(0), self._tuples(0xFF)
        self._size = len(zeros)
        self._expected = int.from_bytes(zeros)
        self._fixed = ~(self._expected ^ int.from_bytes(ones))
        # Four bytes of header before each value and each nest; protocol number and ports are padded to four.
        answering = self._size // 2 + 12
        sent_to = 12 + address_bytes + 4
        sent_port = sent_to + address_bytes + 24
        answering_port = answering + 2 * address_bytes + 20
        self._sent_to = slice(sent_to, sent_to + address_bytes)
        self._sent_port = slice(sent_port, sent_port + PORT_BYTES)
        self._answering = slice(answering, answering + address_bytes)
        self._answering_port = slice(answering_port, answering_port + PORT_BYTES)

    def read(self, message: Message) -> Entry | None:
        """Read one message; None when it is no UDP entry of this family."""
        start = message.start + ct.GENERIC.size
        tuples = message.data[start : start + self._size]
        if int.from_bytes(tuples) & self._fixed == self._expected:
            destination = tuples[self._sent_to] + tuples[self._sent_port]
            return Entry(destination, tuples[self._answering] + tuples[self._answering_port], message)
        return self.read_attributes(message)

    def read_attributes(self, message: Message) -> Entry | None:
        """Read one message attribute by attribute."""
        data = message.data
        spans = attributes(data, message.start + ct.GENERIC.size, message.end)
        if ct.TUPLE_ORIG not in spans or ct.TUPLE_REPLY not in spans:
            return None
        destination = self._endpoint(data, spans[ct.TUPLE_ORIG], self._destination, ct.PROTO_DST_PORT)
        answering = self._endpoint(data, spans[ct.TUPLE_REPLY], self._source, ct.PROTO_SRC_PORT)
        return Entry(destination, answering, message) if destination and answering else None

    def _endpoint(self, data: bytes, span: tuple[int, int], address: int, port: int) -> bytes:
        """Read one end of a tuple as `pack_endpoint` writes it; empty when it is not UDP or of another family."""
        parts = attributes(data, *span)
        addresses = attributes(data, *parts.get(ct.TUPLE_IP, (0, 0)))
        protocol = attributes(data, *parts.get(ct.TUPLE_PROTO, (0, 0)))
        if address not in addresses or port not in protocol or data[slice(*protocol[ct.PROTO_NUM])] != _UDP:
            return b""
        return data[slice(*addresses[address])] + data[slice(*protocol[port])]

    def _tuples(self, filler: int) -> bytes:
        """Write both tuples as the kernel does, every address and port made of `filler`."""
        address, port = bytes([filler]) * self._address_bytes, bytes([filler]) * PORT_BYTES
        members = (
            nested(ct.TUPLE_IP, attribute(self._source, address), attribute(self._destination, address)),
            nested(
                ct.TUPLE_PROTO,
                attribute(ct.PROTO_NUM, _UDP),
                attribute(ct.PROTO_SRC_PORT, port),
                attribute(ct.PROTO_DST_PORT, port),
            ),
        )
        return nested(ct.TUPLE_ORIG, *members) + nested(ct.TUPLE_REPLY, *members)


_LAYOUTS: Final[Mapping[Family, _Layout]] = {4: _Layout(4, 4), 6: _Layout(6, 16)}
