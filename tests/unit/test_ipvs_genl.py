"""The messages of IPVS: encoded for pyroute2 to read, and decoded from what a kernel wrote."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2.netlink.generic.ipvs import ipvsmsg

from pointsman.dataplane.channel import Message
from pointsman.dataplane.ipvs import genl, wire
from pointsman.dataplane.ipvs.objects import SCHED1, SCHED2, Real, Server, ServerKey
from pointsman.dataplane.netlink import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOUR = ServerKey(4, "10.0.0.1", "tcp", 80)
SIX = ServerKey(6, "fd00::1", "udp", 53)
MARK = ServerKey(4, "", "tcp", 0, 7)
MARK_SIX = ServerKey(6, "", "tcp", 0, 0x80000007)
SCTP = ServerKey(4, "10.0.0.1", "sctp", 9)
RR = Server(scheduler="rr", netmask=32)
REAL = Real("10.1.0.1", 8080)
REAL_SIX = Real("fd00:1::1", 8080)


def decoded(message: bytes) -> ipvsmsg:
    """Let pyroute2 decode a message."""
    header = struct.pack("=IHHII", 16 + len(message), 30, 1, 1, 0)
    read = ipvsmsg(header + message)
    read.decode()
    return read


def part(message: bytes, name: str) -> dict[str, Any]:
    """Let pyroute2 decode the virtual server or real server in a message; names without their prefix."""
    nest = decoded(message).get_attr(f"IPVS_CMD_ATTR_{name}")
    return {attribute[0].partition("_ATTR_")[2]: attribute[1] for attribute in nest["attrs"]}


@pytest.mark.parametrize(
    ("message", "number"),
    [
        (genl.new_service(FOUR, RR), 1),
        (genl.set_service(FOUR, RR), 2),
        (genl.del_service(FOUR), 3),
        (wire.GET_SERVICES, 4),
        (genl.new_dest(FOUR, REAL, 1), 5),
        (genl.set_dest(FOUR, REAL, 1), 6),
        (genl.del_dest(FOUR, REAL), 7),
        (wire.get_dests(FOUR), 8),
        (wire.set_timeouts(wire.Timeouts(1, 2, 3)), 12),
        (wire.GET_TIMEOUTS, 13),
        (wire.GET_INFO, 15),
    ],
)
def test_each_message_has_its_command_number_and_version(message: bytes, number: int) -> None:
    read = decoded(message)
    assert (read["cmd"], read["version"], message[:4]) == (number, 1, bytes([number, 1, 0, 0]))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (FOUR, {"AF": 2, "PROTOCOL": 6, "ADDR": "10.0.0.1", "PORT": 80}),
        (SIX, {"AF": 10, "PROTOCOL": 17, "ADDR": "fd00::1", "PORT": 53}),
        (SCTP, {"AF": 2, "PROTOCOL": 132, "ADDR": "10.0.0.1", "PORT": 9}),
        (MARK, {"AF": 2, "FWMARK": 7}),
        (MARK_SIX, {"AF": 10, "FWMARK": 0x80000007}),
    ],
)
def test_a_virtual_server_is_told_from_all_others(key: ServerKey, expected: dict[str, Any]) -> None:
    real = REAL if key.family == 4 else REAL_SIX
    for message in (wire.get_dests(key), genl.del_service(key), genl.new_dest(key, real, 1), genl.del_dest(key, real)):
        assert part(message, "SERVICE") == expected
    whole = part(genl.new_service(key, RR), "SERVICE")
    assert expected.items() <= {name: whole[name] for name in expected}.items()


@pytest.mark.parametrize(
    ("key", "server", "scheduler", "flags", "timeout", "mask"),
    [
        (FOUR, RR, "rr", 0, 0, "255.255.255.255"),
        (FOUR, Server(scheduler="wlc", timeout=300, netmask=24), "wlc", 1, 300, "255.255.255.0"),
        (FOUR, Server(scheduler="sh", flags=SCHED1 | SCHED2, netmask=32), "sh", 0x18, 0, "255.255.255.255"),
        # pyroute2 takes the IPv6 number of bits, a number in the machine's byte order, for an address.
        (SIX, Server(scheduler="mh", flags=SCHED2, timeout=1, netmask=128), "mh", 0x11, 1, "128.0.0.0"),
        (MARK_SIX, Server(scheduler="lblcr", netmask=64), "lblcr", 0, 0, "64.0.0.0"),
    ],
)
def test_what_a_virtual_server_does(
    key: ServerKey, server: Server, *, scheduler: str, flags: int, timeout: int, mask: str
) -> None:
    for encode in (genl.new_service, genl.set_service):
        read = part(encode(key, server), "SERVICE")
        assert (read["SCHED_NAME"], read["TIMEOUT"], read["NETMASK"]) == (scheduler, timeout, mask)
        assert (read["FLAGS"]["flags"], read["FLAGS"]["mask"]) == (flags, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("key", "real", "family"),
    [(FOUR, REAL, 2), (SIX, REAL_SIX, 10), (MARK, REAL, 2), (MARK_SIX, REAL_SIX, 10), (FOUR, Real("1.1.1.1", 257), 2)],
)
def test_a_real_server_forwards_by_masquerading(key: ServerKey, real: Real, family: int) -> None:
    expected = {
        "ADDR_FAMILY": family,
        "ADDR": real.address,
        "PORT": real.port,
        "FWD_METHOD": 0,
        "U_THRESH": 0,
        "L_THRESH": 0,
    }
    for weight in (0, 1, 0x01010101):
        for encode in (genl.new_dest, genl.set_dest):
            assert part(encode(key, real, weight), "DEST") == {**expected, "WEIGHT": weight}
    deleted = part(genl.del_dest(key, real), "DEST")
    assert (deleted["ADDR_FAMILY"], deleted["ADDR"], deleted["PORT"]) == (family, real.address, real.port)


def test_timeouts_are_numbers_of_seconds_and_zero_leaves_one_alone() -> None:
    read = {name: value for name, value, *_ in decoded(wire.set_timeouts(wire.Timeouts(900, 0, 30)))["attrs"]}
    assert read == {
        "IPVS_CMD_ATTR_TIMEOUT_TCP": "84:03:00:00",
        "IPVS_CMD_ATTR_TIMEOUT_TCP_FIN": "00:00:00:00",
        "IPVS_CMD_ATTR_TIMEOUT_UDP": "1e:00:00:00",
    }


# What Linux 6.1 writes (x86-64), with statistics of its own in place of zeros.
STATS = (
    "5c000a00080001000100000008000200020000000800030003000000"
    "0c00040004000000000000000c00050005000000000000000800060000000000080007000000000008000800000000000800090000000000"
    "08000a00000000007c000c000c00010065000000000000000c00020066000000000000000c00030067000000000000000c00040068000000"
    "000000000c00050069000000000000000c00060000000000000000000c00070000000000000000000c00080000000000000000000c000900"
    "00000000000000000c000a000000000000000000"
)
SERVICE_SIX = (
    "010100002c010100060001000a000000060002001100000014000300fd000000000000000000000000000001060004000035000008000600"
    "777272000c0007000b000000ffffffff080008002c0100000800090018000000"
)
SERVICE_FOUR = (
    "010100002c01010006000100020000000600020006000000140003000a000001000000000000000000000000060004000050000008000600"
    "777272000c0007000b000000ffffffff080008002c01000008000900ffffff00"
)
SERVICE_MARK = (
    "01010000100101000600010002000000080005000700000008000600777272000c0007000b000000ffffffff080008002c01000008000900"
    "ffffff00"
)
DEST_FOUR = (
    "0501000050010200140001000a010001000000000000000000000000060002001f9000000800030000000000080004000300000005000d00"
    "0000000006000e000000000006000f0000000000080005000000000008000600000000000800070004000000080008000500000008000900"
    "0600000006000b0002000000"
)
DEST_SIX = (
    "050100005001020014000100fd000001000000000000000000000001060002001f9000000800030000000000080004000300000005000d00"
    "0000000006000e000000000006000f0000000000080005000000000008000600000000000800070004000000080008000500000008000900"
    "0600000006000b000a000000"
)
DUMPED = Server(scheduler="wrr", flags=SCHED1, timeout=300, netmask=24)
COUNTERS = genl.Counters(101, 102, 103, 104, 105)


def written(text: str) -> Message:
    data = bytes.fromhex(text)
    return Message(data, 0, len(data))


@pytest.mark.parametrize(("text", "key"), [(SERVICE_FOUR, FOUR), (SERVICE_SIX, SIX), (SERVICE_MARK, MARK)])
def test_a_virtual_server_is_read(text: str, key: ServerKey) -> None:
    assert wire.read_service(written(text + STATS)) == (key, DUMPED)
    assert wire.read_counters(written(text + STATS)) == (key, COUNTERS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"0c0007000b000000": "0c0007000a000000"}, Server(scheduler="wrr", flags=SCHED1, netmask=24)),
        ({"0c0007000b000000": "0c00070006000000"}, Server(scheduler="wrr", flags=4, netmask=24)),
        (
            {"2c010100": "30010100", "0800060077727200": "0a0006006c626c6372000000"},
            Server(scheduler="lblcr", flags=SCHED1, timeout=300, netmask=24),
        ),
    ],
    ids=["not persistent", "one-packet", "long name"],
)
def test_a_virtual_server_of_another_kind_is_read(changes: dict[str, str], expected: Server) -> None:
    text = SERVICE_FOUR
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    assert wire.read_service(written(text + STATS)) == (FOUR, expected)


def test_a_virtual_server_of_another_protocol_is_passed_over() -> None:
    message = written(SERVICE_FOUR.replace("0600020006000000", "0600020033000000") + STATS)
    assert wire.read_service(message) is None
    assert wire.read_counters(message) is None


@pytest.mark.parametrize(("text", "real"), [(DEST_FOUR, REAL), (DEST_SIX, REAL_SIX)])
def test_a_real_server_is_read(text: str, real: Real) -> None:
    expected = (real, genl.RealCounters(weight=3, active=4, inactive=5, persistent=6, connections=101))
    assert wire.read_dest(written(text + STATS), 4) == expected
    # Another machine puts an attribute of padding first (IPVS_STATS_ATTR_PAD): 64-bit numbers must be aligned there.
    padded = STATS.replace("7c000c00", "80000c0004000b00")
    assert wire.read_dest(written(text.replace("50010200", "54010200", 1) + padded), 4) == expected


def test_a_real_server_of_an_old_kernel_has_its_virtual_servers_family() -> None:
    text = DEST_SIX.replace("06000b000a000000", "").replace("50010200", "48010200", 1)
    assert wire.read_dest(written(text + STATS), 6)[0] == REAL_SIX


def test_settings_are_read() -> None:
    assert wire.read_timeouts(written("0c01000008000400840300000800050078000000080006002c010000")) == (900, 120, 300)
    assert wire.read_timeouts(written("0c010000080006002c010000")) == (0, 0, 300)
    assert wire.read_version(written("0e01000008000100010201000800020000100000")) == "1.2.1"


class FakeChannel:
    """Has one virtual server, for the first mark that would be tried, and refuses what it was told to."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = list(refusals)
        self.sent: list[bytes] = []

    def get(self, kind: int, _payload: bytes) -> Message:
        assert kind == 0x10
        return written("03010000" + "060001001e000000")

    def dump(self, kind: int, _payload: bytes) -> Iterator[Message]:
        assert kind == 30
        text = SERVICE_MARK.replace("0800050007000000", "0800050000006d70")
        yield written(text + STATS)

    def submit(self, kind: int, payloads: Sequence[bytes]) -> list[Refusal]:
        assert kind == 30
        self.sent += payloads
        return self.refusals

    def close(self) -> None:
        pass


def faked(monkeypatch: pytest.MonkeyPatch, *refusals: Refusal) -> tuple[genl.IpvsSocket, FakeChannel]:
    fake = FakeChannel(refusals)
    monkeypatch.setattr(genl, "Channel", lambda *_args, **_options: fake)
    return genl.IpvsSocket(), fake


def test_schedulers_are_tried_with_a_mark_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, fake = faked(monkeypatch, Refusal(2, errno.ENOENT), Refusal(3, errno.ESRCH))
    assert opened.schedulers(["rr", "none", "lc"]) == ("rr", "lc")
    key = ServerKey(4, "", "tcp", 0, 0x706D0001)
    tried = [(genl.new_service(key, Server(scheduler=s, netmask=32)), genl.del_service(key)) for s in ("rr", "none")]
    assert fake.sent[:4] == [message for pair in tried for message in pair]


@pytest.mark.parametrize("refusal", [Refusal(0, errno.EPERM), Refusal(0, errno.EEXIST), Refusal(1, errno.EPERM)])
def test_a_scheduler_that_cannot_be_tried_is_not_missing(monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    opened, _ = faked(monkeypatch, refusal)
    with pytest.raises(OSError, match="can't try the scheduler rr") as caught:
        opened.schedulers(["rr"])
    assert caught.value.errno == refusal.error


def test_refused_timeouts_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, _ = faked(monkeypatch, Refusal(0, errno.EINVAL))
    with pytest.raises(
        OSError, match=r"can't set the IPVS timeouts to 4294967295, 0, 5 s: Invalid argument \(EINVAL\)"
    ):
        opened.set_timeouts(tcp=0xFFFFFFFF, udp=5)


def test_a_kernel_without_ipvs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "GET_FAMILY", wire.GET_FAMILY.replace(b"IPVS", b"NONE"))
    with pytest.raises(FileNotFoundError, match="the kernel has no IPVS"):
        genl.IpvsSocket()
