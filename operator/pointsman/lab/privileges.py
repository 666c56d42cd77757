"""The right to make namespaces: root has it; a plain user gets it in namespaces of their own, where that is allowed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from typing import Final

from pointsman.lab.features import missing
from pointsman.lab.namespaces import LabError

_INSIDE: Final = "POINTSMAN_LAB_INSIDE"
"""Environment variable of a process that was started again inside namespaces of its own."""

_UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--")


def acquire(arguments: list[str]) -> None:
    """Make sure that this process may make namespaces; does not return when it has to start again for that.

    Args:
        arguments: of ``pointsman``, for starting it again.

    Raises:
        LabError: there is no way; the message says what to run.
    """
    if os.environ.get(_INSIDE):
        _cover_run()
    elif missing("network namespaces"):
        _start_again(arguments)
    if reason := missing("network namespaces"):
        raise LabError(reason)


def is_inside() -> bool:
    """Tell whether this process lives in user, mount and network namespaces of its own."""
    return bool(os.environ.get(_INSIDE))


def _start_again(arguments: list[str]) -> None:
    command = f"pointsman {' '.join(arguments)}"
    program = shutil.which(_UNSHARE[0])
    if program is None:
        raise LabError(f"this user may not make network namespaces, and `unshare` is missing; run `sudo {command}`")
    tried = subprocess.run(  # noqa: S603 - a fixed command
        [program, *_UNSHARE[1:], "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise LabError(
            f"this user may not make network namespaces ({tried.stderr.strip()}); run `sudo {command}`, or allow "
            "namespaces to plain users: sysctl user.max_user_namespaces=10000, and on Ubuntu also "
            "kernel.apparmor_restrict_unprivileged_userns=0"
        )
    again = [program, *_UNSHARE[1:], sys.executable, "-m", "pointsman", *arguments]
    os.execve(program, again, {**os.environ, _INSIDE: "1"})  # noqa: S606 - this very program, no shell


def _cover_run() -> None:
    """Put an empty file system over /run, where `ip` keeps the names of namespaces; only this process sees it."""
    if ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", b"/run", b"tmpfs", 0, None):
        raise LabError(f"cannot mount a file system over /run: {os.strerror(ctypes.get_errno())}")
