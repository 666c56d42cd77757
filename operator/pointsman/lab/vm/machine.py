"""What a guest needs of this machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.lab import namespaces
from pointsman.lab.containers.machine import is_static
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "modprobe": "kmod",
    "udevadm": "udev",
    "busybox": "busybox-static",
    "ipvsadm": "ipvsadm",
}
"""Programs, and the Debian packages that they come with; without udev the guest finds no port for its output."""


def check() -> None:
    """Find out whether a guest can run here.

    Raises:
        LabError: something is missing; the message says what, and what to install.
    """
    if platform.machine() != "x86_64":
        raise LabError(f"the guest is an amd64 machine, and its programs are this one's: {platform.machine()}")
    if packages := missing_packages(_has):
        raise LabError(f"programs are missing: apt-get install --no-install-recommends {' '.join(packages)}")
    find_virtme()


def missing_packages(has: Callable[[str], bool]) -> list[str]:
    """Name the Debian packages whose programs are not there.

    Args:
        has: tells whether a program is there, of the kind that is needed.
    """
    return sorted({package for program, package in PACKAGES.items() if not has(program)})


def find_virtme() -> Path:
    """Find the program that builds QEMU's command line and the guest's first steps.

    Raises:
        LabError: it is not there.
    """
    program = Path(sys.executable).with_name("virtme-run")
    if not program.exists():
        raise LabError("`virtme-run` is missing beside this Python: pip install virtme-ng (`make setup` does it)")
    return program


def _has(program: str) -> bool:
    try:
        path = Path(namespaces.find_program(program))
    except LabError:
        return False
    # The guest's first steps run where no library is.
    return program != "busybox" or is_static(path)
