"""Kernel parameters, in a tree of files that stands for /proc/sys."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pointsman.api.proxyconfig import Conntrack
from pointsman.dataplane.sysctl import apply_conntrack, check_forwarding

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
