"""Virtual and real servers as text, and the schedulers' flags."""

from __future__ import annotations

import pytest

from pointsman.dataplane.ipvs.objects import (
    SCHED1,
    SCHED2,
    SCHED3,
    SCHEDULER_FLAGS,
    Real,
    Server,
    ServerKey,
    flag_names,
    flags_of,
    real_line,
    server_line,
)

FOUR = ServerKey(4, "10.0.0.1", "tcp", 80)
SIX = ServerKey(6, "fd00::1", "udp", 53)


@pytest.mark.parametrize(
    ("key", "server", "expected"),
    [
        (FOUR, Server(scheduler="rr", netmask=32), "-A -t 10.0.0.1:80 -s rr"),
        (FOUR, Server(scheduler="wlc", timeout=300, netmask=32), "-A -t 10.0.0.1:80 -s wlc -p 300"),
        (FOUR, Server(scheduler="rr", timeout=300, netmask=24), "-A -t 10.0.0.1:80 -s rr -p 300 -M 255.255.255.0"),
        (FOUR, Server(scheduler="rr", netmask=24), "-A -t 10.0.0.1:80 -s rr"),
        (
            FOUR,
            Server(scheduler="sh", flags=SCHED2, timeout=60, netmask=32),
            "-A -t 10.0.0.1:80 -s sh -p 60 -b sh-port",
        ),
        (
            FOUR,
            Server(scheduler="mh", flags=SCHED1 | SCHED2, netmask=32),
            "-A -t 10.0.0.1:80 -s mh -b mh-fallback,mh-port",
        ),
        (SIX, Server(scheduler="rr", netmask=128), "-A -u [fd00::1]:53 -s rr"),
        (SIX, Server(scheduler="rr", timeout=1, netmask=128), "-A -u [fd00::1]:53 -s rr -p 1"),
        (SIX, Server(scheduler="rr", timeout=1, netmask=64), "-A -u [fd00::1]:53 -s rr -p 1 -M 64"),
        (ServerKey(4, "10.0.0.1", "sctp", 9), Server(scheduler="nq", netmask=32), "-A --sctp-service 10.0.0.1:9 -s nq"),
        (ServerKey(4, "", "tcp", 0, 7), Server(scheduler="rr", netmask=32), "-A -f 7 -s rr"),
        (ServerKey(6, "", "tcp", 0, 7), Server(scheduler="rr", netmask=128), "-A -f 7 -6 -s rr"),
    ],
)
def test_a_virtual_server_as_ipvsadm_writes_it(key: ServerKey, server: Server, expected: str) -> None:
    assert server_line(key, server) == expected


@pytest.mark.parametrize(
    ("key", "real", "expected"),
    [
        (FOUR, Real("10.1.0.1", 8080), "-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 3"),
        (SIX, Real("fd00:1::1", 5353), "-a -u [fd00::1]:53 -r [fd00:1::1]:5353 -m -w 3"),
        (ServerKey(6, "", "tcp", 0, 7), Real("fd00:1::1", 80), "-a -f 7 -6 -r [fd00:1::1]:80 -m -w 3"),
    ],
)
def test_a_real_server_as_ipvsadm_writes_it(key: ServerKey, real: Real, expected: str) -> None:
    assert real_line(key, real, 3) == expected


@pytest.mark.parametrize(
    ("scheduler", "names", "expected"),
    [
        ("sh", ("sh-port",), SCHED2),
        ("sh", ("sh-fallback", "sh-port"), SCHED1 | SCHED2),
        ("mh", ("mh-fallback", "sh-port"), SCHED1),
        ("rr", ("mh-fallback", "sh-port"), 0),
        ("sh", ("sh-nothing",), 0),
    ],
)
def test_only_the_schedulers_own_flags_count(scheduler: str, names: tuple[str, ...], expected: int) -> None:
    assert flags_of(scheduler, names) == expected


def test_a_flag_without_a_name_has_a_number() -> None:
    assert flag_names("rr", SCHED1 | SCHED3) == ("flag-1", "flag-3")
    assert flag_names("sh", SCHED1 | SCHED3) == ("sh-fallback", "flag-3")


@pytest.mark.parametrize("name", SCHEDULER_FLAGS)
def test_names_and_bits_are_each_others_inverse(name: str) -> None:
    scheduler, bit = SCHEDULER_FLAGS[name]
    assert flags_of(scheduler, [name]) == bit
    assert flag_names(scheduler, bit) == (name,)


@pytest.mark.parametrize(
    ("key", "expected"),
    [(FOUR, "10.0.0.1:80/tcp"), (SIX, "[fd00::1]:53/udp"), (ServerKey(6, "", "tcp", 0, 7), "mark 7 (IPv6)")],
)
def test_a_virtual_server_in_a_message(key: ServerKey, expected: str) -> None:
    assert str(key) == expected


def test_virtual_and_real_servers_sort_as_their_fields_do() -> None:
    keys = [ServerKey(6, "a", "tcp", 1), ServerKey(4, "b", "tcp", 2), ServerKey(4, "b", "tcp", 1)]
    assert sorted(keys) == [keys[2], keys[1], keys[0]]
    assert min([Real("10.0.0.2", 1), Real("10.0.0.1", 2)]) == Real("10.0.0.1", 2)
