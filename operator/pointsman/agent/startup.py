"""What has to be right before the agent starts; each failure says what to do."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.sysctl import SYSCTL_ROOT
from pointsman.dataplane.userspace.room import REMEDY, RESERVE, raise_limit
from pointsman.model.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.api.proxyconfig import NodeConfiguration

_CAP_NET_ADMIN: Final = 12
"""Bit of the capability in ``CapEff`` (linux/capability.h)."""

_FEWEST_FILES: Final = 2 * RESERVE
"""With fewer open files the agent could not be sure of its own, or a proxy in it would have next to none."""

_CLAIM: Final = "\0pointsman-agent"
"""Abstract address of a unix socket (unix(7)): one per network namespace, freed with the process that holds it."""


class AgentError(Exception):
    """The agent cannot start or go on; the message says why and what to do."""


def check_rights(status: Path = Path("/proc/self/status")) -> None:
    """Make sure that this process may change the kernel's rules.

    Args:
        status: the process's status file (proc(5)).

    Raises:
        AgentError: it may not.
    """
    lines = status.read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    if not effective >> _CAP_NET_ADMIN & 1:
        raise AgentError(
            "the agent needs CAP_NET_ADMIN to program nftables; run it as root (sudo), in a container with "
            "securityContext.capabilities.add: [NET_ADMIN], or, to try it out, inside `unshare -rn`"
        )


def claim_node() -> socket.socket:
    """Make this process the only agent of its network namespace: two would undo each other's work without end.

    Returns:
        What holds the claim until it is closed, or the process ends in whatever way.

    Raises:
        AgentError: another agent has it.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(_CLAIM)
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            raise AgentError("another pointsman agent programs this node; stop it first") from error
        raise AgentError(f"cannot claim this node by a unix socket ({error.strerror})") from error
    return claim


def check_sysctl_root(root: Path) -> None:
    """Make sure that ``--sysctl-root`` names a place like ``/proc/sys``.

    Raises:
        AgentError: it does not; everything there would count as what the kernel does not have.
    """
    if root != SYSCTL_ROOT and not (root / "net" / "core").is_dir():
        raise AgentError(
            f"--sysctl-root {root}: has no net/core; name a directory like {SYSCTL_ROOT}, as one at whose `net` the "
            f"node's {SYSCTL_ROOT}/net is mounted, or leave the option out"
        )


def check_open_files(raised: Callable[[], int] = raise_limit) -> None:
    """Let this process have as many open files as the system allows it, in every mode: connections need them.

    Args:
        raised: raises the limit, and returns it.

    Raises:
        AgentError: they are too few.
    """
    limit = raised()
    if limit < _FEWEST_FILES:
        raise AgentError(f"the agent may have {limit} open files, and needs {_FEWEST_FILES} at least; {REMEDY}")


def read_config(file: Path) -> NodeConfiguration:
    """Read the ProxyConfig that ``--config`` names.

    Raises:
        AgentError: it cannot be read, or is not exactly one valid ProxyConfig.
    """
    from pointsman.api.proxyconfig import ProxyConfig  # noqa: PLC0415 (pydantic: only for those who need it)

    try:
        parsed = parse(file.read_bytes(), str(file))
    except OSError as error:
        raise AgentError(f"--config {file}: cannot read the file ({error.strerror}); name another one") from error
    if parsed.problems:
        raise AgentError("\n".join(f"--config {problem}" for problem in parsed.problems))
    configs = [obj for obj in parsed.objects if isinstance(obj, ProxyConfig)]
    if len(configs) != 1 or len(parsed.objects) != 1:
        raise AgentError(
            f"--config {file}: has {len(configs)} ProxyConfig objects and {len(parsed.objects) - len(configs)} others; "
            "write exactly one ProxyConfig into it"
        )
    return configs[0].spec
