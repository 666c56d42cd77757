"""The nfnetlink wire: messages, transactions, dumps and notifications of nf_tables.

Why not a library: elements are what Pointsman writes most, and a plan of 10,000 Services is 40,000 of them. Encoded
here they take a tenth of the time and memory of any general encoder, the kernel's answer names the very element that
it refused (NETLINK_EXT_ACK), and everything of one sync goes into one transaction.

Sources: include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/nf_tables.h; netlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Sequence

NETLINK_NETFILTER: Final = 12
NFNL_SUBSYS_NFTABLES: Final = 10
NFNLGRP_NFTABLES: Final = 7

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4

NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17

NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_DROP_MEMBERSHIP: Final = 2
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_NLMSGERR_ATTR_MSG: Final = 1
_NLMSGERR_ATTR_OFFS: Final = 2
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_ACK_TLVS: Final = 0x200

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
HEADER_SIZE: Final = 20
"""Octets of a netlink header and the nfgenmsg behind it."""
LARGEST_ATTRIBUTE: Final = 65_000
"""A nested attribute's length is a 16-bit number; a little room is left for what stands around it."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four octets."""
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *payload: bytes) -> bytes:
    """Encode an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(payload))


def string(kind: int, text: str) -> bytes:
    """Encode a NUL-terminated string attribute."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, number: int) -> bytes:
    """Encode a 32-bit number attribute in network byte order, as nf_tables wants its numbers."""
    return attribute(kind, struct.pack(">I", number))


def attributes(payload: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Walk over attributes: their kind (flags removed) and payload."""
    end = len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:  # noqa: PLR2004 - an attribute's own header; anything shorter would never end
            return
        yield kind & _NLA_TYPE_MASK, bytes(payload[offset + 4 : offset + length])
        offset += (length + 3) & ~3


class Message(msgspec.Struct, frozen=True, gc=False):
    """One nf_tables message of a transaction.

    Attributes:
        command: NFT_MSG_* number.
        family: AF_INET or AF_INET6 (nf_tables families have the same numbers).
        payload: encoded attributes.
        flags: NLM_F_* beside NLM_F_REQUEST.
    """

    command: int
    family: int
    payload: bytes
    flags: int = 0


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """One message that the kernel refused.

    Attributes:
        index: its place in the transaction.
        error: errno.
        offset: octet in the message's payload that the kernel points at, or None.
        text: the kernel's own words, or "".
    """

    index: int
    error: int
    offset: int | None = None
    text: str = ""

    def __str__(self) -> str:
        """Say it with the error's name, as people search for it."""
        name = errno.errorcode.get(self.error, str(self.error))
        return f"{os.strerror(self.error)} ({name})" + (f": {self.text}" if self.text else "")


class NftSocket:
    """A netlink socket for nf_tables in the network namespace of the thread that makes it.

    Attributes:
        interrupted: something in nf_tables (of any owner) changed during a dump since this was set to False.
    """

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            OSError: the kernel has no nfnetlink, or the process may not use it.
        """
        self._socket = _open()
        self._sequence = 0
        self.interrupted = False

    def transact(self, messages: Sequence[Message]) -> list[Refusal]:
        """Commit all messages in one transaction: all or nothing.

        Returns:
            What was refused; empty when everything is in force.

        Raises:
            OSError: the kernel did not take the transaction at all.
        """
        first = self._sequence + 1
        self._sequence += len(messages) + 1
        parts = [_message(NFNL_MSG_BATCH_BEGIN, 0, first - 1, _BATCH)]
        for number, message in enumerate(messages, first):
            kind = NFNL_SUBSYS_NFTABLES << 8 | message.command
            parts.append(_message(kind, message.flags, number, _nfgenmsg(message.family), message.payload))
        parts.append(_message(NFNL_MSG_BATCH_END, 0, self._sequence, _BATCH))
        self._socket.send(b"".join(parts))
        return list(self._refusals(first))

    def settle(self) -> None:
        """Wait until commits of others that have begun are over, and everybody who listens has been told of them.

        The kernel counts a commit before it tells of it, and lets no other transaction begin until it has; an empty one
        changes nothing (nf_tables_valid_genid, nf_tables_commit).
        """
        self.transact(())

    def _refusals(self, first: int) -> Iterator[Refusal]:
        # nfnetlink works while send() runs, so every answer is in the queue already.
        while True:
            try:
                data = self._socket.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for kind, flags, sequence, body in _messages(data):
                if kind == NLMSG_ERROR and (refusal := _refusal(sequence - first, flags, body)):
                    yield refusal

    def dump(self, command: int, family: int, payload: bytes = b"") -> Iterator[bytes]:
        """Ask for all objects of a kind.

        Yields:
            Each answer's encoded attributes.

        Raises:
            OSError: the kernel refused (ENOENT: there is no such table or set).
        """
        self._sequence += 1
        sequence = self._sequence
        kind = NFNL_SUBSYS_NFTABLES << 8 | command
        self._socket.send(_message(kind, NLM_F_DUMP, sequence, _nfgenmsg(family), payload))
        while True:
            for answer, flags, number, body in _messages(self._socket.recv(1 << 20)):
                if number != sequence:
                    continue
                # Read to the end in any case: what is left of a dump would be in the way of the next one.
                self.interrupted = self.interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if answer in {NLMSG_ERROR, NLMSG_DONE}:
                    _raise_for(body)
                    return
                yield bytes(body[4:])

    def get(self, command: int, family: int, payload: bytes = b"") -> bytes:
        """Ask for one object.

        Returns:
            Its encoded attributes.

        Raises:
            OSError: the kernel refused.
        """
        self._sequence += 1
        sequence = self._sequence
        kind = NFNL_SUBSYS_NFTABLES << 8 | command
        self._socket.send(_message(kind, 0, sequence, _nfgenmsg(family), payload))
        while True:
            for answer, _, number, body in _messages(self._socket.recv(1 << 20)):
                if number != sequence:
                    continue
                if answer == NLMSG_ERROR:
                    _raise_for(body)
                return bytes(body[4:])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class NftMonitor:
    """Hears of every nf_tables change in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """Open the socket; it hears nothing before `listen`."""
        self._socket = _open()

    def listen(self) -> None:
        """Hear of changes from now on."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def pause(self) -> None:
        """Hear of nothing until `listen`; what was heard before is kept. Spares the kernel telling us our own."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_DROP_MEMBERSHIP, NFNLGRP_NFTABLES)

    def heard(self, table: str) -> bool:
        """Tell whether anything in a table of this name changed since the last call (or too much was missed)."""
        name = table.encode() + b"\0"
        # Every nf_tables object names its table in attribute 1, the first one.
        return self._heard(lambda body: name == next((v for k, v in attributes(body, 4) if k == 1), b""))

    def heard_naming(self, words: re.Pattern[bytes]) -> bool:
        """Tell whether anything changed since the last call that has such words in it, wherever they stand."""
        return self._heard(lambda body: words.search(body) is not None)

    def _heard(self, concerns_us: Callable[[memoryview], bool]) -> bool:
        found = False
        while True:
            try:
                data = self._socket.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
                continue
            found = found or any(concerns_us(body) for *_, body in _messages(data))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


_BATCH: Final = struct.pack(">BBH", socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)


def _nfgenmsg(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def _message(kind: int, flags: int, sequence: int, *payload: bytes) -> bytes:
    body = b"".join(payload)
    return _HEADER.pack(len(body) + 16, kind, flags | NLM_F_REQUEST, sequence, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    view = memoryview(data)
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:  # noqa: PLR2004 - a message's own header; anything shorter would never end
            return
        yield kind, flags, sequence, view[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _raise_for(body: memoryview) -> None:
    if len(body) >= 4:  # noqa: PLR2004 - the error number's size
        error = -struct.unpack_from("=i", body)[0]
        if error > 0:
            raise OSError(error, os.strerror(error))


def _refusal(index: int, flags: int, body: memoryview) -> Refusal | None:
    error = -struct.unpack_from("=i", body)[0]
    if not error:
        return None
    offset, text = None, ""
    if flags & _NLM_F_ACK_TLVS:
        # NETLINK_CAP_ACK: behind the error number stands the refused message's header alone.
        for kind, value in attributes(body, 20):
            if kind == _NLMSGERR_ATTR_OFFS:
                offset = struct.unpack("=I", value)[0] - HEADER_SIZE
            elif kind == _NLMSGERR_ATTR_MSG:
                text = value.rstrip(b"\0").decode(errors="replace")
    return Refusal(index, error, offset, text)


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    opened.bind((0, 0))
    for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
        opened.setsockopt(_SOL_NETLINK, option, 1)
    # A transaction is one send(): the buffer must hold it. The limits are lifted where that is allowed.
    for forced, plain, size in (
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, 512 << 20),
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, 16 << 20),
    ):
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, plain, size)
    return opened
