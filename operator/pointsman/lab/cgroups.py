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

from pointsman.lab.namespaces import LabError, is_running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = "pointsman-lab"
_CONTAINERD: Final = "k8s.io"
"""Where containerd makes the groups of containers."""

_MOUNT: Final = Path("/sys/fs/cgroup")
_PATIENCE: Final = 60.0
_PAUSE: Final = 0.02


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
    """End every process of a group, of those below it, and all descendants, and remove their groups.

    A node's containers are children of its shims, and in groups that containerd names (``/k8s.io/…``).

    Raises:
        LabError: a process does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    groups: set[str] = set()
    known: set[int] = set()
    # Containers are nobody's children any more when their shim is gone, and end a moment later.
    while known := processes(name) | {process for process in known if is_running(process)}:
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(known)} of the control group {name} do not end")
        for process in known:
            groups |= {group for group in _groups_of(process) if group.startswith(f"/{_CONTAINERD}/")}
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_PAUSE)
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / name.lstrip("/"), topdown=False):
            _remove(Path(directory))
        for group in groups:
            _remove(hierarchy / group.lstrip("/"))
        for top in (ROOT, _CONTAINERD):
            _remove(hierarchy / top)


def processes(name: str) -> set[int]:
    """Find the processes of a group, of those below it, and all descendants."""
    return _with_descendants(_members(name))


def _remove(group: Path) -> None:
    """Remove a group that nobody is in; the kernel keeps those in which somebody is."""
    with contextlib.suppress(OSError):
        group.rmdir()


def _members(name: str) -> set[int]:
    """Find the processes of a group and of those below it."""
    found: set[int] = set()
    for directory, _, _ in os.walk(_tracking() / name.lstrip("/")):
        with contextlib.suppress(OSError):
            found.update(map(int, Path(directory, "cgroup.procs").read_text("ascii").split()))
    return found


def _with_descendants(members: set[int]) -> set[int]:
    """Add the children of processes, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found, new = set(members), list(members)
    while new:
        more = set(children.get(new.pop(), ())) - found
        found |= more
        new += more
    return found


def _groups_of(process: int) -> set[str]:
    """Return the names of a process's groups, which are the same in many hierarchies."""
    try:
        lines = Path(f"/proc/{process}/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return {line.split(":", 2)[2] for line in lines}


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
