"""The control groups of a lab's nodes: they hold every process of a node, shims and containers too, for its end.

Works with both versions of cgroups. Of version 1 the hierarchy ``pids`` is the one that is read; containerd makes
groups of the same name in the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = "pointsman-lab"
_MOUNT: Final = Path("/sys/fs/cgroup")
_PATIENCE: Final = 10.0


def name_of(prefix: str, node: str = "") -> str:
    """Return the name of a lab's group, or of one node's, as a kubelet wants it: ``/pointsman-lab/pm1-1-/node-1``."""
    return f"/{ROOT}/{prefix}/{node}".rstrip("/")


def make(name: str) -> Path:
    """Make a group, and return the file that a process joins it by (cgroups(7)).

    Raises:
        LabError: the kernel refuses.
    """
    group = _tracking() / name.lstrip("/")
    try:
        group.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the control group {group}: {error.strerror}") from None
    return group / "cgroup.procs"


def sweep(name: str) -> None:
    """End every process of a group and of those below it, and remove the groups.

    Raises:
        LabError: a process does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    while processes := _processes(name):
        if time.monotonic() > deadline:
            raise LabError(f"processes {processes} of the control group {name} do not end")
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    for hierarchy in _hierarchies():
        top = hierarchy / name.lstrip("/")
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        with contextlib.suppress(OSError):  # other labs are there
            top.parent.rmdir()


def _processes(name: str) -> list[int]:
    group = _tracking() / name.lstrip("/")
    found = []
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found += [int(line) for line in Path(directory, "cgroup.procs").read_text("ascii").split()]
    return found


def _tracking() -> Path:
    """Return the hierarchy by which processes are found."""
    first = _MOUNT / "pids"
    return first if first.is_dir() else _MOUNT


def _hierarchies() -> Iterator[Path]:
    if (_MOUNT / "cgroup.controllers").exists():
        yield _MOUNT
        return
    for entry in _MOUNT.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            yield entry
