"""Mount and network namespaces of one's own, in which what is measured runs, and what it finds there."""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from pathlib import Path

import pointsman

# Where `ip` keeps the names of namespaces, and loopback: both are the new process's own.
_PREPARE = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"'
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def find_system_programs() -> None:
    """Let this process, and those that it starts, find ``ip`` and ``nft``; a plain user's PATH often lacks them."""
    os.environ["PATH"] += os.pathsep + _SYSTEM_PATH


def compile_pointsman() -> None:
    """Write Pointsman's byte code beside its modules, as an installation does: what is measured shall not compile."""
    compileall.compile_dir(Path(pointsman.__file__).parent, quiet=1)


def command(program: Path, *arguments: str) -> list[str]:
    """Return the command that runs a Python program in such namespaces; a plain user's program is root in them."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = shutil.which("unshare") or "unshare"
    prepared = ["sh", "-c", _PREPARE, "sh", sys.executable, str(program)]
    return [unshare, *user, "--mount", "--net", "--", *prepared, *arguments]
