"""Kernel parameters, in a tree of files that stands for /proc/sys."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pointsman.api.proxyconfig import Conntrack, Ipvs
from pointsman.dataplane.sysctl import (
    apply_conntrack,
    apply_iptables,
    apply_ipvs,
    check_forwarding,
    routes_loopback,
    routes_loopback_for_us,
)

KERNEL = {
    "max": 65536,
    "buckets": 16384,
    "tcp_timeout_established": 432000,
    "tcp_timeout_close_wait": 60,
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
    "tcp_be_liberal": 0,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in KERNEL.items():
        write(tmp_path, f"net/netfilter/nf_conntrack_{name}", value)
    write(tmp_path, "net/ipv4/ip_forward", 1)
    write(tmp_path, "net/ipv6/conf/all/forwarding", 1)
    return tmp_path


def write(root: Path, name: str, value: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{value}\n")


def changes(root: Path) -> dict[str, int]:
    now = {name: int((root / f"net/netfilter/nf_conntrack_{name}").read_text()) for name in KERNEL}
    return {name: value for name, value in now.items() if value != KERNEL[name]}


@pytest.mark.parametrize(
    ("settings", "cores", "expected"),
    [
        (Conntrack(), 4, {}),
        (Conntrack(max_per_core=32768, min=131072), 2, {"max": 131072, "buckets": 32768}),
        (Conntrack(max_per_core=32768, min=131072), 8, {"max": 262144, "buckets": 65536}),
        (Conntrack(max_per_core=8192), 4, {"max": 32768}),
        (Conntrack(max_per_core=0, min=131072), 8, {}),
        (Conntrack(min=131072), 8, {"max": 131072, "buckets": 32768}),
        (Conntrack(min=1024), 8, {}),
        (Conntrack(tcp_established_timeout=86400.0), 4, {"tcp_timeout_established": 86400}),
        (Conntrack(tcp_close_wait_timeout=3600.0), 4, {"tcp_timeout_close_wait": 3600}),
        (Conntrack(udp_timeout=0.2, udp_stream_timeout=300.0), 4, {"udp_timeout": 1, "udp_timeout_stream": 300}),
        (Conntrack(udp_timeout=0.0, tcp_established_timeout=0.0), 4, {}),
        (Conntrack(tcp_be_liberal=True), 4, {"tcp_be_liberal": 1}),
        (Conntrack(tcp_be_liberal=False), 4, {}),
    ],
)
def test_the_settings_are_written(root: Path, settings: Conntrack, cores: int, expected: dict[str, int]) -> None:
    assert apply_conntrack(settings, root, cores=cores) == ()
    assert changes(root) == expected


def test_liberal_tracking_is_switched_off_when_asked(root: Path) -> None:
    write(root, "net/netfilter/nf_conntrack_tcp_be_liberal", 1)
    assert apply_conntrack(Conntrack(tcp_be_liberal=False), root) == ()
    assert changes(root) == {}


def test_a_value_that_is_right_is_not_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("written"))
    assert apply_conntrack(Conntrack(udp_timeout=30.0, max_per_core=65536), root, cores=1) == ()


def test_a_missing_parameter_is_reported_and_the_others_are_set(tmp_path: Path) -> None:
    write(tmp_path, "net/netfilter/nf_conntrack_udp_timeout", 30)
    settings = Conntrack(tcp_close_wait_timeout=60.0, udp_timeout=60.0)
    # Nobody can make a file in /proc/sys; here, a link into a folder that is missing has the same effect.
    (tmp_path / "net/netfilter/nf_conntrack_tcp_timeout_close_wait").symlink_to(tmp_path / "missing/file")
    (problem,) = apply_conntrack(settings, tmp_path)
    assert problem.field == "spec.conntrack.tcpCloseWaitTimeout"
    assert "net.netfilter.nf_conntrack_tcp_timeout_close_wait could not be set to 60: No such file" in problem.message
    assert "load the kernel module nf_conntrack" in problem.remedy
    assert (tmp_path / "net/netfilter/nf_conntrack_udp_timeout").read_text() == "60\n"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_parameter_that_may_not_be_written_is_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_text", refuse)
    (problem,) = apply_conntrack(Conntrack(udp_timeout=60.0), root)
    assert os.strerror(code) in problem.message
    assert "sysctl -w net.netfilter.nf_conntrack_udp_timeout=60" in problem.remedy


def test_a_value_that_the_kernel_refuses_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(Path, "write_text", refuse)
    (problem,) = apply_conntrack(Conntrack(max_per_core=1, min=0), root, cores=1)
    assert problem.field == "spec.conntrack.maxPerCore"
    assert "a value that the kernel takes" in problem.remedy


def test_forwarding_that_is_on_is_no_problem(root: Path) -> None:
    assert check_forwarding(root=root) == ()


def test_forwarding_that_is_off_is_reported_and_left(root: Path) -> None:
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        write(root, name, 0)
    assert [problem.field for problem in check_forwarding(root=root)] == [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
    ]
    assert [problem.field for problem in check_forwarding((4,), root)] == ["net.ipv4.ip_forward"]
    assert (root / "net/ipv4/ip_forward").read_text() == "0\n"


def test_a_kernel_without_ipv6_has_no_forwarding_problem(tmp_path: Path) -> None:
    assert check_forwarding(root=tmp_path) == ()


IPVS = {"conntrack": 0, "conn_reuse_mode": 1, "expire_nodest_conn": 0, "expire_quiescent_template": 0}
ON = {"conntrack": 1, "conn_reuse_mode": 1, "expire_nodest_conn": 1, "expire_quiescent_template": 1}


@pytest.fixture
def ipvs(root: Path) -> Path:
    for name, value in IPVS.items():
        write(root, f"net/ipv4/vs/{name}", value)
    write(root, "net/ipv4/ip_forward", 0)
    write(root, "net/ipv4/conf/all/arp_ignore", 0)
    write(root, "net/ipv4/conf/all/arp_announce", 0)
    return root


def values(root: Path, *names: str) -> list[int]:
    return [int((root / "net/ipv4" / name).read_text()) for name in names]


@pytest.mark.parametrize(
    ("release", "reuse"),
    [
        ("6.1.0-18-amd64", 1),
        ("5.10.0", 1),
        ("5.9", 1),
        ("5.8.18-generic", 0),
        ("4.18.0-553.el8_10.x86_64", 0),
        ("4.1.0", 0),
        ("4.0.9", 1),
        ("3.10.0-1160.el7", 1),
        ("unreadable", 1),
    ],
)
def test_ipvs_gets_what_kube_proxy_sets(ipvs: Path, release: str, reuse: int) -> None:
    assert apply_ipvs(Ipvs(), ipvs, release) == ()
    assert values(ipvs, *(f"vs/{name}" for name in IPVS)) == list({**ON, "conn_reuse_mode": reuse}.values())
    assert values(ipvs, "ip_forward", "conf/all/arp_ignore", "conf/all/arp_announce") == [1, 0, 0]


def test_strict_arp_is_set_when_asked(ipvs: Path) -> None:
    assert apply_ipvs(Ipvs(strict_arp=True), ipvs, "6.1.0") == ()
    assert values(ipvs, "conf/all/arp_ignore", "conf/all/arp_announce") == [1, 2]


def test_what_is_right_for_ipvs_is_not_written(ipvs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert apply_ipvs(Ipvs(strict_arp=True), ipvs, "5.4.0") == ()
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("written"))
    assert apply_ipvs(Ipvs(strict_arp=True), ipvs, "5.4.0") == ()


def test_a_missing_ipvs_is_one_problem_and_the_rest_is_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "net/ipv4/ip_forward", 0)
    (problem,) = apply_ipvs(Ipvs(), root, "5.4.0")
    assert "net/ipv4/vs is not there, so that none of net.ipv4.vs.* could be set" in problem.message
    assert "modprobe ip_vs" in problem.remedy
    assert values(root, "ip_forward") == [1]
    write(root, "net/ipv4/ip_forward", 0)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert [problem.message.split()[0] for problem in apply_ipvs(Ipvs(), root, "6.1.0")][1:] == ["net.ipv4.ip_forward"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_ipvs_parameters_that_may_not_be_written_are_each_reported(
    ipvs: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_text", refuse)
    found = apply_ipvs(Ipvs(strict_arp=True), ipvs, "6.1.0")
    wanted = [
        "net.ipv4.vs.conntrack=1",
        "net.ipv4.vs.expire_nodest_conn=1",
        "net.ipv4.vs.expire_quiescent_template=1",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.arp_ignore=1",
        "net.ipv4.conf.all.arp_announce=2",
    ]
    assert [problem.remedy for problem in found] == [
        f"run `sysctl -w {setting}` on the node, or let the agent write there (--sysctl-root)" for setting in wanted
    ]
    assert {problem.field for problem in found} == {"spec.mode", "spec.ipvs.strictARP"}
    assert all(os.strerror(code) in problem.message for problem in found)


def test_another_refusal_for_ipvs_says_where_to_look(ipvs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Path, "write_text", refuse)
    found = apply_ipvs(Ipvs(), ipvs, "6.1.0")
    assert found[0].remedy == "see why `sysctl -w net.ipv4.vs.conntrack=1` fails on the node"


@pytest.fixture
def route_localnet(tmp_path: Path) -> Path:
    parameter = tmp_path / "net/ipv4/conf/all/route_localnet"
    parameter.parent.mkdir(parents=True)
    parameter.write_text("0\n")
    return parameter


def test_loopback_is_routed_as_long_as_it_is_wanted(tmp_path: Path, route_localnet: Path) -> None:
    assert apply_iptables(tmp_path, with_loopback=False) == ()
    assert route_localnet.read_text() == "0\n"
    assert not routes_loopback(tmp_path)
    for _ in range(2):
        assert apply_iptables(tmp_path, with_loopback=True) == ()
        assert route_localnet.read_text() == "2\n"
        assert routes_loopback(tmp_path)
        assert routes_loopback_for_us(tmp_path)
    for _ in range(2):
        assert apply_iptables(tmp_path, with_loopback=False) == ()
        assert route_localnet.read_text() == "0\n"


def test_loopback_that_another_program_has_routed_stays_so(tmp_path: Path, route_localnet: Path) -> None:
    route_localnet.write_text("1\n")
    for wanted in (True, False):
        assert apply_iptables(tmp_path, with_loopback=wanted) == ()
        assert route_localnet.read_text() == "1\n"
        assert (routes_loopback(tmp_path), routes_loopback_for_us(tmp_path)) == (True, False)


def test_loopback_that_cannot_be_routed_is_told(tmp_path: Path, route_localnet: Path) -> None:
    route_localnet.unlink()
    route_localnet.parent.rmdir()
    assert apply_iptables(tmp_path, with_loopback=False) == ()
    (problem,) = apply_iptables(tmp_path, with_loopback=True)
    assert problem.field == "spec.iptables.localhostNodePorts"
    assert "route_localnet" in problem.message
