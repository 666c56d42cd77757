from __future__ import annotations

from pointsman.lab.sctp import Packet, crc32c, decode, encode


def test_the_checksum_is_that_of_rfc_3720_and_9260() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_what_is_written_is_read() -> None:
    for packet in (Packet(40000, 80, 7), Packet(80, 40000, 9, answers=7, cookie=b'{"odd length": 1}')):
        assert decode(encode(packet)) == packet


def test_a_damaged_packet_is_none() -> None:
    data = bytearray(encode(Packet(40000, 80, 7)))
    data[3] ^= 1
    assert decode(bytes(data)) is None
    assert decode(b"short") is None


def test_an_init_has_the_size_and_tags_of_the_standard() -> None:
    data = encode(Packet(0x1234, 80, 0xAABBCCDD))
    assert len(data) == 12 + 20
    assert data[:8] == bytes.fromhex("1234005000000000")
    assert data[12:20] == bytes.fromhex("01000014aabbccdd")
