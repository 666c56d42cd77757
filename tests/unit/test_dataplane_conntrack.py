"""Which entries are stale, and how entries are read, without a kernel."""

from __future__ import annotations

import socket
import struct

import pytest

from pointsman.dataplane.channel import Message
from pointsman.dataplane.conntrack import StaleEntries
from pointsman.dataplane.ctnetlink import _LAYOUTS, is_by_rules, pack_endpoint
from pointsman.dataplane.netlink import attribute, nested
from pointsman.model.plan import NODE_PORT, Answer, Backend, Family, Frontend, Pool

VIP, NODE, FAR = "10.96.0.10", "192.0.2.1", "198.51.100.7"
GONE, OLD, NEW = ("10.1.0.1", 53), ("10.1.0.2", 53), ("10.1.0.3", 53)
LOCAL = frozenset({socket.inet_aton(NODE), socket.inet_aton("127.0.0.1")})


def answer(*backends: tuple[str, int], weight: int = 1, outside: Pool | None = None) -> Answer:
    return Answer("default/dns", "random", Pool(tuple(Backend(*b, weight) for b in backends)), outside)


def udp(address: str, port: int = 53) -> Frontend:
    return Frontend(4, address, "udp", port)


def stale(frontends: dict[Frontend, Answer | None], destination: tuple[str, int], answering: tuple[str, int]) -> bool:
    rules = StaleEntries(4, frontends, LOCAL)
    return rules.hold(pack_endpoint(4, *destination), pack_endpoint(4, *answering))


@pytest.mark.parametrize(
    ("now", "answering", "expected"),
    [
        (answer(OLD), GONE, True),
        (answer(OLD), OLD, False),
        (answer(OLD), ("10.1.0.2", 54), True),
        (answer(OLD, weight=0), OLD, False),
        (answer(OLD, outside=Pool((Backend(*NEW),))), NEW, False),
        (answer(outside=Pool((Backend(*NEW),))), GONE, True),
        (answer(), GONE, True),
        (None, GONE, True),
        (answer(OLD), (VIP, 53), True),
        (answer(outside=Pool((Backend(*NEW),))), (VIP, 53), True),
        (answer(OLD, weight=0), (VIP, 53), False),
        (answer(), (VIP, 53), False),
        (None, (VIP, 53), False),
        (answer((VIP, 53)), (VIP, 53), False),
    ],
    ids=[
        "backend gone",
        "backend still there",
        "same address at another port",
        "backend drains",
        "backend for outside clients",
        "backend in neither pool",
        "scaled to zero",
        "frontend gone",
        "first backend came",
        "first backend for outside clients came",
        "untranslated while all drain",
        "untranslated without backends",
        "untranslated and frontend gone",
        "backend at the frontend's own address",
    ],
)
def test_an_entry_of_a_frontend(now: Answer | None, answering: tuple[str, int], *, expected: bool) -> None:
    assert stale({udp(VIP): now}, (VIP, 53), answering) is expected


@pytest.mark.parametrize("destination", [(VIP, 54), (FAR, 53)])
def test_entries_of_other_frontends_are_left_alone(destination: tuple[str, int]) -> None:
    assert not stale({udp(VIP): answer(OLD)}, destination, GONE)


@pytest.mark.parametrize(
    ("destination", "answering", "expected"),
    [
        (NODE, GONE, True),
        (NODE, OLD, False),
        (NODE, (NODE, 30053), True),
        (FAR, GONE, False),
        (FAR, (FAR, 30053), False),
        (VIP, GONE, False),
        ("127.0.0.1", GONE, True),
        ("127.0.0.1", ("127.0.0.1", 30053), False),
    ],
)
def test_a_node_port_is_meant_at_the_nodes_addresses_only(
    destination: str, answering: tuple[str, int], *, expected: bool
) -> None:
    assert stale({udp(NODE_PORT, 30053): answer(OLD)}, (destination, 30053), answering) is expected


def test_a_frontend_of_its_own_goes_before_the_node_port() -> None:
    frontends = {udp(NODE_PORT, 30053): answer(OLD), udp(NODE, 30053): answer(NEW)}
    assert stale(frontends, (NODE, 30053), OLD)
    assert not stale(frontends, (NODE, 30053), NEW)


def test_what_answers_in_place_of_backends_is_not_stale() -> None:
    proxy = ("172.16.0.1", 40_000)
    other, theirs = udp("10.96.0.11"), ("172.16.0.1", 40_002)
    frontends = {udp(VIP): answer(OLD), other: answer(NEW)}
    rules = StaleEntries(4, frontends, LOCAL, {udp(VIP): frozenset({proxy}), other: frozenset({theirs})})
    assert not rules.hold(pack_endpoint(4, VIP, 53), pack_endpoint(4, *proxy))
    assert rules.hold(pack_endpoint(4, VIP, 53), pack_endpoint(4, "172.16.0.1", 40_001)), "of a proxy that is gone"
    assert rules.hold(pack_endpoint(4, VIP, 53), pack_endpoint(4, *theirs)), "of another frontend by now"


@pytest.mark.parametrize(
    ("destination", "answering", "expected"),
    [((VIP, 53), OLD, True), ((VIP, 53), (VIP, 53), False), ((FAR, 53), OLD, False), ((VIP, 54), OLD, False)],
)
def test_what_is_translated_is_told_whoever_answers(
    destination: tuple[str, int], answering: tuple[str, int], *, expected: bool
) -> None:
    rules = StaleEntries(4, {udp(VIP): answer(OLD)}, LOCAL)
    assert rules.is_translated(pack_endpoint(4, *destination), pack_endpoint(4, *answering)) is expected


ENDS: list[tuple[Family, str, str, str]] = [
    (4, "10.1.2.3", "10.96.0.10", "10.1.0.9"),
    (6, "fd00::1", "fd00:96::a", "fd00:1::9"),
]


def entry(
    family: Family,
    source: str,
    destination: str,
    answering: str,
    *,
    zone: bytes = b"",
    protocol: int = 17,
    status: int = 0,
) -> Message:
    """Write an entry as the kernel does: from `source`:4000 to `destination`:53, answered by `answering`:5353."""
    kinds = (1, 2) if family == 4 else (3, 4)

    def one(kind: int, ends: tuple[tuple[str, int], tuple[str, int]]) -> bytes:
        packed = [pack_endpoint(family, *end) for end in ends]
        addresses = [attribute(k, p[:-2]) for k, p in zip(kinds, packed, strict=True)]
        ports = [attribute(k, p[-2:]) for k, p in zip((2, 3), packed, strict=True)]
        return nested(kind, nested(1, *addresses), nested(2, attribute(1, bytes([protocol])), *ports), zone)

    tuples = one(1, ((source, 4000), (destination, 53))) + one(2, ((answering, 5353), (source, 4000)))
    data = (
        bytes(16)
        + struct.pack("=BBH", 0, 0, 0)
        + tuples
        + attribute(3, status.to_bytes(4))
        + attribute(12, b"\1\2\3\4")
    )
    return Message(data, 16, len(data))


@pytest.mark.parametrize(("family", "source", "destination", "answering"), ENDS)
@pytest.mark.parametrize("zone", [b"", attribute(3, b"\0\7")], ids=["usual layout", "zone in the tuples"])
def test_an_entry_is_read(family: Family, source: str, destination: str, answering: str, zone: bytes) -> None:
    message = entry(family, source, destination, answering, zone=zone)
    read = _LAYOUTS[family].read(message)
    assert read == _LAYOUTS[family].read_attributes(message)
    assert read is not None
    assert read.destination == pack_endpoint(family, destination, 53)
    assert read.answering == pack_endpoint(family, answering, 5353)


@pytest.mark.parametrize(("status", "expected"), [(0x18E, False), (0x1AE, True), (0x19E, False)])
def test_who_translated_is_told(status: int, *, expected: bool) -> None:
    """IPS_DST_NAT is the bit 0x20; an entry that is only masqueraded has 0x10."""
    read = _LAYOUTS[4].read(entry(*ENDS[0], status=status))
    assert read is not None
    assert is_by_rules(read) is expected


def test_what_is_no_udp_entry_of_the_family_is_passed_over() -> None:
    four, six = ENDS
    assert _LAYOUTS[4].read(entry(*six)) is None
    assert _LAYOUTS[6].read(entry(*four)) is None
    assert _LAYOUTS[4].read(entry(*four, protocol=6)) is None
    assert _LAYOUTS[4].read(Message(bytes(20), 16, 20)) is None
