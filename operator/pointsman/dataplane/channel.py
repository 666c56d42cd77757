"""A lean netlink channel: requests out, raw messages in, nothing decoded that nobody asked for.

pyroute2 decodes every attribute of every message, which costs 135 microseconds for a connection-tracking entry, and
0.3 s to import. Where tens of thousands of messages come in, the caller reads the few values that it needs itself.
Formats: RFC 3549, ``linux/netlink.h``.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pointsman.model.plan import Family

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
ADDRESS_FAMILY: Final[Mapping[Family, socket.AddressFamily]] = {4: socket.AF_INET, 6: socket.AF_INET6}

_NLA_TYPE_MASK: Final = 0x3FFF
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_RECEIVE_BYTES: Final = 1 << 16  # the kernel fills at most 32 KiB
_RTM_GETADDR: Final = 22
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_REQUESTS_IN_ONE_SEND: Final = 128  # as many errors as fit into the smallest usual receive buffer

Spans = dict[int, tuple[int, int]]
"""Attribute type to the start and end of its payload."""


class Message(NamedTuple):
    """One message of a dump: its payload is ``data[start:end]``."""

    data: bytes
    start: int
    end: int


class Channel:
    """A netlink socket in the network namespace of the thread that makes it; used by one thread at a time."""

    def __init__(self, protocol: int) -> None:
        """Open the socket.

        Args:
            protocol: `NETLINK_ROUTE` or `NETLINK_NETFILTER`.

        Raises:
            OSError: the kernel does not know the protocol.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._sequence = 0

    def dump(self, kind: int, payload: bytes) -> Iterator[Message]:
        """Ask for a list and yield its messages; the iterator has to be used up before the next request.

        Raises:
            OSError: the kernel refused, with its errno.
        """
        self._socket.send(self._request(kind, _NLM_F_DUMP, payload))
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            position, size = 0, len(data)
            while position < size:
                length, answer, _flags, sequence, _port = _HEADER.unpack_from(data, position)
                if sequence == self._sequence:
                    if answer in {_NLMSG_DONE, _NLMSG_ERROR}:
                        _raise_for(_ERROR.unpack_from(data, position + _HEADER.size)[0])
                        return
                    yield Message(data, position + _HEADER.size, position + length)
                position += _aligned(length)

    def run(self, kind: int, payloads: Sequence[bytes]) -> list[int]:
        """Send one request for each payload, many in one system call.

        Returns:
            The errno values of the requests that the kernel refused.
        """
        refused: list[int] = []
        for start in range(0, len(payloads), _REQUESTS_IN_ONE_SEND):
            part = payloads[start : start + _REQUESTS_IN_ONE_SEND]
            requests = [self._request(kind, 0, payload) for payload in part[:-1]]
            self._socket.send(b"".join([*requests, self._request(kind, _NLM_F_ACK, part[-1])]))
            refused += self._errors_until(self._sequence)
        return refused

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _request(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        length = _HEADER.size + len(payload)
        return _HEADER.pack(length, kind, flags | _NLM_F_REQUEST, self._sequence, 0) + payload

    def _errors_until(self, last: int) -> list[int]:
        """Read acknowledgements up to that of the request numbered `last`; requests that succeed send none."""
        errors: list[int] = []
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            length, kind, _flags, sequence, _port = _HEADER.unpack_from(data)
            if kind != _NLMSG_ERROR or length > len(data):
                continue
            code = -_ERROR.unpack_from(data, _HEADER.size)[0]
            if code:
                errors.append(code)
            if sequence == last:
                return errors


def attributes(data: bytes, start: int, end: int) -> Spans:
    """Find the attributes in ``data[start:end]``; of several with one type the last counts."""
    spans: Spans = {}
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            break
        spans[kind & _NLA_TYPE_MASK] = (start + _ATTRIBUTE.size, start + length)
        start += _aligned(length)
    return spans


def read_addresses(channel: Channel, family: Family) -> frozenset[bytes]:
    """List the addresses of one IP family that this network namespace has on its links, packed.

    Raises:
        OSError: the kernel refused.
    """
    request = _IFADDRMSG.pack(ADDRESS_FAMILY[family], 0, 0, 0, 0)
    found: set[bytes] = set()
    for message in channel.dump(_RTM_GETADDR, request):
        spans = attributes(message.data, message.start + _IFADDRMSG.size, message.end)
        span = spans.get(_IFA_LOCAL) or spans.get(_IFA_ADDRESS)
        if span:
            found.add(message.data[slice(*span)])
    return frozenset(found)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _raise_for(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))
