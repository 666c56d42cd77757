"""``/proc/net/ip_vs`` as Linux 6.1 writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.ipvs.listing import Counts, Listed, parse, read, shape
from pointsman.dataplane.ipvs.objects import Real, ServerKey

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
LISTING = (
    HEAD
    + """\
UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 mh persistent 2500 40000000
  -> [fd00:0001:0000:0000:0000:0000:0000:0002]:0051      Masq    1      0          0         \n\
  -> [fd00:0001:0000:0000:0000:0000:0000:0001]:0050      Masq    0      12         3         \n\
TCP  0A000001:0050 sh  persistent 75000 FFFFFF00
  -> 0A010002:1F90      Masq    1      0          0         \n\
  -> 0A010001:0050      Route   100000 1234567890 1234567890
UDP  0A000001:0050 wrr ops \n\
UDP  0A000002:0050 wrr ops persistent 90000 FFFFFFFF
SCTP  0A000001:0009 rr  \n\
AH  0A000001:0000 rr  \n\
  -> 0A010003:0000      Masq    1      0          0         \n\
FWM  00000007 nq persistent 1750 80000000
  -> [fd00:0001:0000:0000:0000:0000:0000:0002]:0051      Masq    1      0          0         \n\
FWM  00000007 wlc \n\
  -> 0A010002:0051      Tunnel  1      0          0         \n\
FWM  FFFFFFFF rr ops \n\
"""
)
TICK = 0.004
IDLE = Counts(1, 0, 0)
EXPECTED = {
    ServerKey(6, "fd00::1", "udp", 53): Listed(
        "mh", 10, 64, {Real("fd00:1::2", 81): IDLE, Real("fd00:1::1", 80): Counts(0, 12, 3)}
    ),
    ServerKey(4, "10.0.0.1", "tcp", 80): Listed(
        "sh",
        300,
        24,
        {Real("10.1.0.2", 8080): IDLE, Real("10.1.0.1", 80): Counts(100000, 1234567890, 1234567890, "Route")},
    ),
    ServerKey(4, "10.0.0.1", "udp", 80): Listed("wrr", 0, None, {}),
    ServerKey(4, "10.0.0.2", "udp", 80): Listed("wrr", 360, 32, {}),
    ServerKey(4, "10.0.0.1", "sctp", 9): Listed("rr", 0, None, {}),
    ServerKey(6, "", "tcp", 0, 7): Listed("nq", 7, 128, {Real("fd00:1::2", 81): IDLE}),
    ServerKey(4, "", "tcp", 0, 7): Listed("wlc", 0, None, {Real("10.1.0.2", 81): Counts(1, 0, 0, "Tunnel")}),
    ServerKey(4, "", "tcp", 0, 0xFFFFFFFF): Listed("rr", 0, None, {}),
}


def test_every_kind_of_server_is_read() -> None:
    assert parse(LISTING.encode(), TICK) == EXPECTED


@pytest.mark.parametrize(
    ("ticks", "tick"), [(1080000, 0.01), (2700000, 0.004), (3240000, 0.003333333), (10800000, 0.001)]
)
def test_a_timeout_is_told_in_seconds_whatever_the_kernels_clock(ticks: int, tick: float) -> None:
    listing = f"{HEAD}TCP  0A000001:0050 rr  persistent {ticks} FFFFFFFF\n"
    assert parse(listing.encode(), tick)[ServerKey(4, "10.0.0.1", "tcp", 80)].timeout == 10800


def test_no_server_at_all() -> None:
    assert parse(HEAD.encode(), TICK) == {}


def test_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ip_vs"
    with pytest.raises(FileNotFoundError):
        read(path)
    path.write_text(LISTING, "ascii")
    assert read(path).keys() == EXPECTED.keys()


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("0      12         3         ", "0      123456     0         ", True),
        ("100000 1234567890 1234567890", "100000 0          0         ", True),
        ("100000 1234567890", "100001 1234567890", False),
        ("Masq    0 ", "Masq    1 ", False),
        ("Tunnel", "Masq  ", False),
        ("  -> 0A010002:0051      Tunnel  1      0          0         \n", "", False),
        ("0A010002:1F90", "0A010002:1F91", False),
        ("SCTP  0A000001:0009 rr", "SCTP  0A000001:0009 lc", False),
        ("persistent 75000", "persistent 75250", False),
        ("75000 FFFFFF00", "75000 FFFFFFFF", False),
        ("FWM  FFFFFFFF rr ops \n", "", False),
    ],
)
def test_the_shape_changes_with_servers_and_weights_but_not_with_connections(
    before: str, after: str, *, same: bool
) -> None:
    assert before in LISTING
    assert (shape(LISTING.replace(before, after).encode()) == shape(LISTING.encode())) is same
