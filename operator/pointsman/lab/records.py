"""Where a lab keeps its files, and what is known of labs that were left up.

Files are below /run/pointsman-lab (root) or a directory of the user's own below the temporary directory, one
directory a lab, named by its prefix: ``manifests/`` (what the agents follow), ``logs/``, and ``kept.json`` when the lab
was left up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab import cgroups, namespaces
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT: Final = "kept.json"
_DATA: Final = Path("/var/lib/pointsman-lab")
_PATIENCE: Final = 3.0
"""Seconds that a process gets to end after SIGTERM."""


class KeptProcess(msgspec.Struct, frozen=True):
    """A process of a lab that was left up; the start time (clock ticks since boot) tells it from a later one."""

    pid: int
    started: int


class Kept(msgspec.Struct, frozen=True):
    """A lab that was left up."""

    prefix: str
    processes: tuple[KeptProcess, ...]


def home() -> Path:
    """Return the directory of all labs of this user; it need not be there.

    Raises:
        LabError: another user made it.
    """
    user = _user()
    path = Path("/run/pointsman-lab") if user == 0 else Path(tempfile.gettempdir(), f"pointsman-lab-{user}")
    if path.is_symlink() or (path.exists() and path.stat().st_uid != os.geteuid()):
        raise LabError(f"{path} belongs to another user: remove it, or set TMPDIR to a directory of your own")
    return path


def make(prefix: str) -> Path:
    """Make the directory of one lab, which only its user may read.

    Raises:
        LabError: as for `home`.
    """
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home() / prefix
    path.mkdir()
    return path


def data(prefix: str) -> Path:
    """Return the directory for what is too much for a file system in memory, which root alone can make."""
    return _DATA / prefix


def process(pid: int) -> KeptProcess:
    """Describe a running process.

    Raises:
        OSError: there is none, or it has ended and only its parent has yet to hear of it.
    """
    state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    if state == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return KeptProcess(pid, int(fields[18]))


def keep(kept: Kept) -> None:
    """Note that a lab stays up."""
    (home() / kept.prefix / _KEPT).write_bytes(msgspec.json.encode(kept))


def kept() -> tuple[Kept, ...]:
    """Find the labs that were left up."""
    return tuple(msgspec.json.decode(path.read_bytes(), type=Kept) for path in sorted(home().glob(f"*/{_KEPT}")))


def remove(lab: Kept) -> None:
    """End the processes of a lab that was left up, and remove its namespaces and files."""
    ours = [member for member in lab.processes if _runs(member)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, number)
        _wait_for(ours)
    _end(lab.prefix)


def forget(prefix: str) -> None:
    """Remove the files of a lab."""
    for root in (home(), _DATA):
        shutil.rmtree(root / prefix, ignore_errors=True)
        with contextlib.suppress(OSError):  # other labs have files there
            root.rmdir()


def sweep() -> list[str]:
    """Remove what crashed labs have left; those left up on purpose stay.

    Returns:
        Their prefixes.
    """
    spared = {lab.prefix for lab in kept()}
    gone = [prefix for prefix in namespaces.leftovers() if prefix not in spared]
    for prefix in {*gone, *_orphaned_files()} - spared:
        _end(prefix)
    return gone


def _end(prefix: str) -> None:
    """End all processes of a lab, and remove its namespaces and files."""
    cgroups.sweep(
        cgroups.name_of(prefix)
    )  # first: containers are found by their shims, which are in a node's namespace
    namespaces.sweep(prefix)
    forget(prefix)


def _orphaned_files() -> Iterator[str]:
    for path in (*home().glob("pm*-*-"), *_DATA.glob("pm*-*-")):
        pid = path.name[2:].partition("-")[0]
        if not namespaces.is_running(int(pid)):
            yield path.name


def _wait_for(members: list[KeptProcess]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while any(_runs(member) for member in members) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(member: KeptProcess) -> bool:
    try:
        return process(member.pid) == member
    except OSError:
        return False


def _user() -> int:
    """Return the user's ID as the system knows it, also inside a user namespace where it is mapped to 0."""
    for line in Path("/proc/self/uid_map").read_text("ascii").splitlines():
        inside, outside, count = (int(word) for word in line.split())
        if inside <= os.geteuid() < inside + count:
            return outside + os.geteuid() - inside
    return os.geteuid()
