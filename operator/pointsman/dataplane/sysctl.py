"""Kernel parameters under /proc/sys: some are set, as the configuration or the mode `ipvs` asks; forwarding is read.

A parameter that is missing or that may not be written is reported, and the rest goes on: a node with a read-only
/proc/sys still proxies (kube-proxy ends there, again and again).
"""

from __future__ import annotations

import errno
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.model.plan import IPV4
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from pointsman.api.proxyconfig import Conntrack, Ipvs
    from pointsman.model.plan import Family

SYSCTL_ROOT: Final = Path("/proc/sys")
"""Where the kernel's parameters are, unless a container has a better place: its own /proc/sys is read-only."""
_PREFIX: Final = "net.netfilter.nf_conntrack_"
_ENTRIES_FOR_EACH_BUCKET: Final = 4  # the kernel's own measure (nf_conntrack_init_start), and kube-proxy's
_FORWARDING: Final[Mapping[Family, str]] = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
LOCALNET: Final = "net.ipv4.conf.all.route_localnet"
_ROUTED_BY_US: Final = 2
"""What is written to have loopback routed: the kernel only asks whether it is 0 (``IN_DEV_ROUTE_LOCALNET`` in
include/linux/inetdevice.h), and others write 1. So the value tells, to an agent that comes later as well, who did it.
"""
_MODULE_REMEDY: Final = "load the kernel module nf_conntrack, or take the field out of the ProxyConfig"
_IPVS: Final = "net.ipv4.vs"
_REUSE_SINCE: Final = (4, 1)
_REUSE_MENDED: Final = (5, 9)
"""Kernels that have ``conn_reuse_mode``, and those in which it may stay as it is (torvalds/linux@35dfb013149f)."""


def apply_conntrack(settings: Conntrack, root: Path = SYSCTL_ROOT, *, cores: int | None = None) -> tuple[Problem, ...]:
    """Set the parameters of connection tracking that `settings` names; a value that is right is not written again.

    As kube-proxy does: ``nf_conntrack_max`` is the larger of ``maxPerCore`` times the cores and ``min``; 0 leaves the
    kernel's value alone, and so does a field that is absent. ``min`` alone only ever raises the kernel's value. The
    hash table grows to a quarter of the limit, and never shrinks.

    Args:
        settings: `spec.conntrack` of the node's ProxyConfig.
        root: where the kernel's parameters are.
        cores: CPU cores of the node; None asks the system.

    Returns:
        A problem for each parameter that could not be set. Nothing is raised.
    """
    problems = []
    for field, name, value in _wanted(settings, root, cores or os.cpu_count() or 1):
        problem = _set(root, f"spec.conntrack.{field}", _PREFIX + name, value)
        if problem:
            problems.append(problem)
    return tuple(problems)


def apply_ipvs(settings: Ipvs, root: Path, kernel_release: str) -> tuple[Problem, ...]:
    """Set what the mode `ipvs` needs; a value that is right is not written again.

    Parameters and values are kube-proxy's (``NewProxier`` in ``pkg/proxy/ipvs/proxier.go``), with its rule for
    ``conn_reuse_mode``: 0 before Linux 5.9, where a reused client port waits for a second otherwise
    (kubernetes/kubernetes#93297); left alone since; not there before 4.1.

    Args:
        settings: `spec.ipvs` of the node's ProxyConfig.
        root: where the kernel's parameters are.
        kernel_release: as ``uname -r`` has it.

    Returns:
        A problem for each parameter that could not be set. Nothing is raised.
    """
    found = [_set(root, field, name, value) for field, name, value in _wanted_by_ipvs(settings, kernel_release)]
    problems = tuple(problem for problem in found if problem is not None)
    if _path(root, _IPVS).is_dir():
        return problems
    return (_without_ipvs(root), *(problem for problem in problems if _IPVS not in problem.message))


def apply_iptables(root: Path = SYSCTL_ROOT, *, with_loopback: bool) -> tuple[Problem, ...]:
    """Let node ports answer on loopback in the mode `iptables`, or not any more.

    It takes ``route_localnet``, as in kube-proxy (``NewProxier`` in ``pkg/proxy/iptables/proxier.go``), with which
    neighbours on the network reach what listens on loopback alone, unless a rule keeps them out
    (kubernetes/kubernetes#90259). So that rule has to be there before. What another program switched on is left alone.

    Args:
        root: where the kernel's parameters are.
        with_loopback: node ports shall answer there.

    Returns:
        A problem when it could not be set. Nothing is raised.
    """
    field = "spec.iptables.localhostNodePorts"
    if with_loopback:
        problem = None if routes_loopback(root) else _set(root, field, LOCALNET, _ROUTED_BY_US)
    else:
        problem = _set(root, field, LOCALNET, 0) if routes_loopback_for_us(root) else None
    return () if problem is None else (problem,)


def routes_loopback(root: Path = SYSCTL_ROOT) -> bool:
    """Tell whether packets from and to loopback addresses may leave and enter this node, whoever wants it so."""
    return bool(_read(root, LOCALNET))


def routes_loopback_for_us(root: Path = SYSCTL_ROOT) -> bool:
    """Tell whether they may because `apply_iptables` made it so, by this agent or an earlier one."""
    return _read(root, LOCALNET) == _ROUTED_BY_US


def check_forwarding(families: Collection[Family] = (4, 6), root: Path = SYSCTL_ROOT) -> tuple[Problem, ...]:
    """Report IP families that the node does not forward: connections of pods and of other machines then go nowhere.

    It is not switched on here: in nftables mode kube-proxy leaves that to whoever set the node up as well. A family
    that the kernel does not have is no problem.
    """
    return tuple(
        Problem(
            source="kernel",
            object="",
            field=name,
            message="it is 0: this node forwards no packets, so Services answer nobody but the node itself",
            remedy=f"run `sysctl -w {name}=1`, and put `{name} = 1` into /etc/sysctl.d/ to keep it",
            dropped="nothing",
        )
        for family, name in _FORWARDING.items()
        if family in families and _read(root, name) == 0
    )


def _wanted_by_ipvs(settings: Ipvs, kernel_release: str) -> Iterator[tuple[str, str, int]]:
    """List field, name and value of the parameters to set."""
    for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template"):
        yield "spec.mode", f"{_IPVS}.{name}", 1
    if _REUSE_SINCE <= _version(kernel_release) < _REUSE_MENDED:
        yield "spec.mode", f"{_IPVS}.conn_reuse_mode", 0
    yield "spec.mode", _FORWARDING[IPV4], 1
    if settings.strict_arp:
        yield "spec.ipvs.strictARP", "net.ipv4.conf.all.arp_ignore", 1
        yield "spec.ipvs.strictARP", "net.ipv4.conf.all.arp_announce", 2


def _version(kernel_release: str) -> tuple[int, int]:
    """Read ``6.1.0-18-amd64`` as (6, 1). What is no version counts as a new one, which leaves most alone."""
    match = re.match(r"(\d+)\.(\d+)", kernel_release)
    return (int(match[1]), int(match[2])) if match else _REUSE_MENDED


def _without_ipvs(root: Path) -> Problem:
    return Problem(
        source="kernel",
        object="",
        field="spec.mode",
        message=f"{_path(root, _IPVS)} is not there, so that none of {_IPVS}.* could be set",
        remedy="run `modprobe ip_vs` on the node; with --sysctl-root, name the /proc/sys of the node",
        dropped="these settings",
    )


def _wanted(settings: Conntrack, root: Path, cores: int) -> Iterator[tuple[str, str, int]]:
    """List field, name behind the prefix, and value of the parameters to set."""
    limit = _limit(settings, root, cores)
    if limit:
        field = "min" if settings.max_per_core is None else "maxPerCore"
        yield field, "max", limit
        buckets = limit // _ENTRIES_FOR_EACH_BUCKET
        if buckets > (_read(root, _PREFIX + "buckets") or 0):
            yield field, "buckets", buckets
    timeouts = (
        ("tcpEstablishedTimeout", "tcp_timeout_established", settings.tcp_established_timeout),
        ("tcpCloseWaitTimeout", "tcp_timeout_close_wait", settings.tcp_close_wait_timeout),
        ("udpTimeout", "udp_timeout", settings.udp_timeout),
        ("udpStreamTimeout", "udp_timeout_stream", settings.udp_stream_timeout),
    )
    yield from ((field, name, math.ceil(seconds)) for field, name, seconds in timeouts if seconds)
    if settings.tcp_be_liberal is not None:
        yield "tcpBeLiberal", "tcp_be_liberal", int(settings.tcp_be_liberal)


def _limit(settings: Conntrack, root: Path, cores: int) -> int:
    """Compute how many connections to track; 0 leaves the kernel's value alone."""
    least = settings.min or 0
    if settings.max_per_core is not None:
        return max(settings.max_per_core * cores, least) if settings.max_per_core else 0
    return least if least > (_read(root, _PREFIX + "max") or 0) else 0


def _set(root: Path, field: str, name: str, value: int) -> Problem | None:
    """Write one parameter unless it has the value."""
    try:
        if _read(root, name) != value:
            _path(root, name).write_text(f"{value}\n", "ascii")
    except OSError as error:
        return Problem(
            source="kernel",
            object="",
            field=field,
            message=f"{name} could not be set to {value}: {error.strerror}",
            remedy=_remedy(name, value, error),
            dropped="this setting",
        )
    return None


def _remedy(name: str, value: int, error: OSError) -> str:
    if error.errno == errno.ENOENT and name.startswith(_PREFIX):
        return _MODULE_REMEDY
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"run `sysctl -w {name}={value}` on the node, or let the agent write there (--sysctl-root)"
    if not name.startswith(_PREFIX):
        return f"see why `sysctl -w {name}={value}` fails on the node"
    return "use a value that the kernel takes, or take the field out of the ProxyConfig"


def _read(root: Path, name: str) -> int | None:
    """Read a parameter; None when it is not there, cannot be read or is no number."""
    try:
        return int(_path(root, name).read_text("ascii"))
    except (OSError, ValueError):
        return None


def _path(root: Path, name: str) -> Path:
    return root / name.replace(".", "/")
