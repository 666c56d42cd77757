"""A lean netlink channel: requests out, raw messages in, nothing decoded that nobody asked for.

pyroute2 decodes every attribute of every message, which costs 135 microseconds for a connection-tracking entry, and
0.3 s to import. Where tens of thousands of messages come in, the caller reads the few values that it needs itself.
Formats: RFC 3549, ``linux/netlink.h``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman.dataplane.netlink import Refusal
from pointsman.dataplane.rtnetlink import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDRMSG,
    RTM_GETADDR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pointsman.model.plan import Family

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NETLINK_GENERIC: Final = 16
ADDRESS_FAMILY: Final[Mapping[Family, socket.AddressFamily]] = {4: socket.AF_INET, 6: socket.AF_INET6}

_NLA_TYPE_MASK: Final = 0x3FFF
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_NLM_F_ACK_TLVS: Final = 0x200
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NLMSGERR_ATTR_MSG: Final = 1
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_RECEIVE_BYTES: Final = 1 << 16  # the kernel fills at most 32 KiB
_ERROR_BYTES: Final = 2048  # what the kernel charges the receive buffer for one error, and more
_SEQUENCES: Final = 0xFFFFFFFF  # 1..0xFFFFFFFF, and again from 1

Spans = dict[int, tuple[int, int]]
"""Attribute type to the start and end of its payload."""


class Message(NamedTuple):
    """One message of a dump: its payload is ``data[start:end]``."""

    data: bytes
    start: int
    end: int


class Channel:
    """A netlink socket in the network namespace of the thread that makes it; used by one thread at a time."""

    def __init__(self, protocol: int, *, buffer: int = 0) -> None:
        """Open the socket.

        Args:
            protocol: `NETLINK_ROUTE`, `NETLINK_NETFILTER` or `NETLINK_GENERIC`.
            buffer: octets that each direction shall hold, for many requests in one system call; 0 means the usual.
                The system's limits are lifted where that is allowed, and kept to where it is not.

        Raises:
            OSError: the kernel does not know the protocol.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        if buffer:
            _enlarge(self._socket, buffer)
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

    def get(self, kind: int, payload: bytes) -> Message:
        """Ask for one object.

        Raises:
            OSError: the kernel refused, with its errno.
        """
        self._socket.send(self._request(kind, 0, payload))
        while True:
            data = self._receive()
            length, answer, _flags, sequence, _port = _HEADER.unpack_from(data)
            if sequence == self._sequence:
                if answer == _NLMSG_ERROR:
                    _raise_for(_ERROR.unpack_from(data, _HEADER.size)[0])
                return Message(data, _HEADER.size, length)

    def run(self, kind: int, payloads: Sequence[bytes]) -> list[int]:
        """Send one request for each payload, many in one system call.

        Returns:
            The errno values of the requests that the kernel refused.

        Raises:
            OSError: as for `submit`.
        """
        return [refusal.error for refusal in self.submit(kind, payloads)]

    def submit(self, kind: int, payloads: Sequence[bytes], flags: int = 0) -> list[Refusal]:
        """Send one request for each payload, many in one system call; the kernel carries out each one by itself.

        Args:
            kind: message type.
            payloads: what stands behind the netlink header.
            flags: NLM_F_* beside NLM_F_REQUEST.

        Returns:
            What was refused, by its place in `payloads`.

        Raises:
            OSError: ENOBUFS: some of the kernel's answers were lost, so nobody knows which requests are in force.
        """
        if not payloads:
            return []
        refused: list[Refusal] = []
        step = self._requests_in_one_send(max(map(len, payloads)))
        for start in range(0, len(payloads), step):
            part = payloads[start : start + step]
            first = self._sequence % _SEQUENCES + 1
            requests = [self._request(kind, flags, payload) for payload in part[:-1]]
            requests.append(self._request(kind, flags | _NLM_F_ACK, part[-1]))
            self._socket.send(b"".join(requests))
            refused += self._refusals(first, start)
        return refused

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _request(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence = self._sequence % _SEQUENCES + 1
        length = _HEADER.size + len(payload)
        return _HEADER.pack(length, kind, flags | _NLM_F_REQUEST, self._sequence, 0) + payload

    def _requests_in_one_send(self, largest: int) -> int:
        """Tell how many requests fit into the send buffer, and their errors into the receive buffer if all fail."""
        sending, receiving = (
            self._socket.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        )
        return max(1, min(sending // (2 * (largest + _HEADER.size)), receiving // _ERROR_BYTES))

    def _refusals(self, first: int, index: int) -> Iterator[Refusal]:
        """Read answers up to that of the last request; requests that succeed send none.

        Args:
            first: sequence number of the first request of the send.
            index: its place among all payloads.
        """
        while True:
            data = self._receive()
            _length, kind, flags, sequence, _port = _HEADER.unpack_from(data)
            place = (sequence - first) % _SEQUENCES
            if kind != _NLMSG_ERROR or place > (self._sequence - first) % _SEQUENCES:
                continue
            code = -_ERROR.unpack_from(data, _HEADER.size)[0]
            if code:
                yield Refusal(index + place, code, text=_text(data, flags))
            if sequence == self._sequence:
                return

    def _receive(self) -> bytes:
        """Take one answer from the queue; the kernel works while ``send`` runs, so that all answers are in it."""
        try:
            return self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in {errno.ENOBUFS, errno.EAGAIN}:
                raise
        self._drain()
        raise OSError(errno.ENOBUFS, "netlink answers were lost: the receive buffer is too small (net.core.rmem_max)")

    def _drain(self) -> None:
        """Empty the queue; as long as anything is in it after an overflow, the kernel adds no answer."""
        while True:
            try:
                self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


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
    request = IFADDRMSG.pack(ADDRESS_FAMILY[family], 0, 0, 0, 0)
    found: set[bytes] = set()
    for message in channel.dump(RTM_GETADDR, request):
        spans = attributes(message.data, message.start + IFADDRMSG.size, message.end)
        span = spans.get(IFA_LOCAL) or spans.get(IFA_ADDRESS)
        if span:
            found.add(message.data[slice(*span)])
    return frozenset(found)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _enlarge(opened: socket.socket, size: int) -> None:
    for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, plain, size)


def _text(data: bytes, flags: int) -> str:
    """Read the kernel's own words from an error; NETLINK_CAP_ACK: they stand right behind the request's header."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    start = 2 * _HEADER.size + _ERROR.size
    span = attributes(data, start, len(data)).get(_NLMSGERR_ATTR_MSG)
    return data[slice(*span)].rstrip(b"\0").decode(errors="replace") if span else ""


def _raise_for(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))
