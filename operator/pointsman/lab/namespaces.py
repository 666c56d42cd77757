"""Network namespaces: made, entered, and removed without leftovers.

A namespace is known by its name under /run/netns, so that ``ip netns exec`` finds it. The name begins with the
lab's prefix, ``pm<process id>-<count>-``: two labs live side by side, and what a crashed one left can be told from
what is in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DIRECTORY: Final = Path("/run/netns")
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where ``ip`` is; a plain user's PATH often lacks it."""

_CLONE_NEWNET: Final = 0x40000000  # sched.h
_MNT_DETACH: Final = 2  # sys/mount.h
_PREFIX: Final = re.compile(r"pm(\d+)-\d+-")
_PATIENCE: Final = 60.0
_PAUSE: Final = 0.02
"""Seconds for processes to end, and from one look to the next."""
_counter = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


class Namespace:
    """A network namespace, known by its name under /run/netns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = DIRECTORY / name

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for a while, then back where it was.

        Sockets made and processes started meanwhile stay in the namespace; sockets can be used from anywhere. Don't
        await in the block: other tasks of the thread would be in the namespace too.

        Raises:
            OSError: the namespace is gone, or the process may not enter it.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there, self.name)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home, "the former namespace")
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a socket that lives in the namespace."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def start(
        self, command: list[str], *, output: int | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in the namespace, in a session of its own (a Ctrl-C does not reach it).

        Args:
            command: the program and its arguments.
            output: file descriptor for its output and errors; None discards them.
            environment: variables beside the caller's.
        """
        sink = subprocess.DEVNULL if output is None else output
        with self.entered():
            return subprocess.Popen(  # noqa: S603 - a lab runs what its caller gives it
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command in the namespace and return its output.

        Raises:
            LabError: it failed; the message holds the command and what it said.
        """
        with self.entered():
            return run(*command, stdin=stdin)

    def sysctl(self, values: Mapping[str, str]) -> None:
        """Set kernel parameters of the namespace, named by their path under /proc/sys; unknown ones are passed by."""
        with self.entered():
            for key, value in values.items():
                with contextlib.suppress(FileNotFoundError):
                    Path("/proc/sys", key).write_text(value, "ascii")

    def inode(self) -> int:
        """Return what tells this namespace from all others, as in ``readlink /proc/PID/ns/net``."""
        return self.path.stat().st_ino

    def processes(self) -> tuple[int, ...]:
        """Find the processes that live in the namespace."""
        return processes_in({self.inode()})


def new_prefix() -> str:
    """Make a prefix that no other lab has: it names this process, and counts."""
    return f"pm{os.getpid()}-{next(_counter)}-"


def create(names: Iterable[str]) -> list[Namespace]:
    """Make namespaces.

    Raises:
        LabError: the kernel refuses, or ``ip`` (Debian package iproute2) is missing.
    """
    made = [Namespace(name) for name in names]
    batch(f"netns add {namespace.name}" for namespace in made)
    return made


def remove(names: Iterable[str]) -> None:
    """Remove namespaces by name; those that are gone already are passed by."""
    for name in names:
        path = DIRECTORY / name
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
        path.unlink(missing_ok=True)


def with_prefix(prefix: str) -> list[str]:
    """List the names of the namespaces of one lab."""
    return sorted(path.name for path in DIRECTORY.glob(prefix + "*"))


def leftovers() -> list[str]:
    """List the prefixes of labs whose process is gone."""
    found = {match[0]: int(match[1]) for path in DIRECTORY.glob("pm*") if (match := _PREFIX.match(path.name))}
    return sorted(prefix for prefix, process in found.items() if not is_running(process))


def is_running(process: int) -> bool:
    """Tell whether a process runs: one that has ended, and whose parent has yet to hear of it, does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return not status.rpartition(")")[2].lstrip().startswith("Z")


def sweep(prefix: str) -> int:
    """End the processes in the namespaces of one lab and remove its namespaces.

    Returns:
        How many namespaces went.

    Raises:
        LabError: a process does not end.
    """
    names = with_prefix(prefix)
    inodes = set()
    for name in names:
        with contextlib.suppress(OSError):
            inodes.add(Namespace(name).inode())
    _end_processes(inodes - {_own_inode()}, prefix)
    remove(names)
    return len(names)


def _end_processes(inodes: set[int], prefix: str) -> None:
    """Kill the processes in namespaces, and wait for their ends: one that ends has left its namespace before that."""
    deadline = time.monotonic() + _PATIENCE
    ending: set[int] = set()
    others: set[int] = set()
    while ending := {*processes_in(inodes), *filter(is_running, ending)} - others:
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(ending)} of the lab {prefix} do not end")
        for process in ending:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:  # another user's
                others.add(process)
        time.sleep(_PAUSE)


def processes_in(inodes: set[int]) -> tuple[int, ...]:
    """Find the processes whose network namespace is one of these (by inode number)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns/net").stat().st_ino in inodes:
                found.append(int(entry.name))
    return tuple(found)


def batch(commands: Iterable[str]) -> None:
    """Give commands to one ``ip -batch``.

    Raises:
        LabError: one failed; the message names it.
    """
    run("ip", "-batch", "-", stdin="".join(f"{command}\n" for command in commands))


def run(*command: str, stdin: str = "") -> str:
    """Run a command where the calling thread is, and return its output.

    Raises:
        LabError: it is not installed, or it failed.
    """
    program = find_program(command[0])
    done = subprocess.run(  # noqa: S603 - a lab runs what its caller gives it
        [program, *command[1:]], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{' '.join(command)}` failed with status {done.returncode}: {said}{_culprit(said, stdin)}")
    return done.stdout


def find_program(name: str) -> str:
    """Find a program on PATH or where the system's own are.

    Raises:
        LabError: it is not there.
    """
    path = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        package = {"ip": "iproute2", "nft": "nftables"}.get(name, name)
        raise LabError(f"the program `{name}` is missing: install it (Debian: apt-get install {package})")
    return path


def _culprit(said: str, stdin: str) -> str:
    """Name the line that ``ip -batch`` failed at."""
    match = re.search(r"Command failed -:(\d+)", said)
    lines = stdin.splitlines()
    return f" (in: {lines[int(match[1]) - 1]})" if match and int(match[1]) <= len(lines) else ""


def _setns(descriptor: int, name: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter {name}: {os.strerror(code)}")


def _own_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino
