"""SCTP's first two packets by hand, for kernels that have no SCTP sockets.

A raw packet is enough to see what connection tracking and NAT make of SCTP: an INIT goes out with a right checksum,
and the server's INIT ACK, which carries its answer as the state cookie, has to find its way back. (RFC 9260)
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

PROTOCOL: Final = 132  # IANA: SCTP
_INIT: Final = 1
_INIT_ACK: Final = 2
_COOKIE: Final = 7
_COMMON: Final = struct.Struct("!HHII")  # source port, destination port, verification tag, checksum
_CHUNK: Final = struct.Struct("!BBHIIHHI")  # type, flags, length, tag, window, streams out, streams in, first TSN
_PARAMETER: Final = struct.Struct("!HH")  # type, length
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected


class Packet(msgspec.Struct, frozen=True):
    """An INIT (with an empty cookie) or an INIT ACK.

    Attributes:
        source_port, port: 1..65535.
        tag: the sender's initiate tag; what the other side's packets carry as their verification tag.
        answers: the initiate tag that an INIT ACK answers; 0 for an INIT.
        cookie: what an INIT ACK brings.
    """

    source_port: int
    port: int
    tag: int
    answers: int = 0
    cookie: bytes = b""


def encode(packet: Packet) -> bytes:
    """Write a packet, without its IP header."""
    parameter = b""
    if packet.cookie:
        parameter = _PARAMETER.pack(_COOKIE, _PARAMETER.size + len(packet.cookie)) + packet.cookie
    kind = _INIT_ACK if packet.answers else _INIT
    length = _CHUNK.size + len(parameter)
    chunk = _CHUNK.pack(kind, 0, length, packet.tag, 65536, 1, 1, packet.tag) + parameter + bytes(-length % 4)
    blank = _COMMON.pack(packet.source_port, packet.port, packet.answers, 0)
    # The checksum is the one field in the byte order of CRC-32C, least significant byte first.
    return blank[:8] + crc32c(blank + chunk).to_bytes(4, "little") + chunk


def decode(data: bytes) -> Packet | None:
    """Read a packet, without its IP header; None when it is no INIT or INIT ACK, or its checksum is wrong."""
    if len(data) < _COMMON.size + _CHUNK.size:
        return None
    source_port, port, answers, _ = _COMMON.unpack_from(data)
    kind, _, length, tag, *_ = _CHUNK.unpack_from(data, _COMMON.size)
    right = crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little")
    if kind not in {_INIT, _INIT_ACK} or data[8:12] != right:
        return None
    return Packet(source_port, port, tag, answers, data[_COMMON.size + _CHUNK.size + 4 : _COMMON.size + length])


def _table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        rest = number
        for _ in range(8):
            rest = rest >> 1 ^ (_POLYNOMIAL if rest & 1 else 0)
        table.append(rest)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Compute the checksum of RFC 9260, appendix A."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest = rest >> 8 ^ _TABLE[(rest ^ byte) & 255]
    return rest ^ 0xFFFFFFFF
