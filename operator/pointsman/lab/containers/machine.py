"""What real nodes need of this machine."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from pointsman.lab import namespaces
from pointsman.lab.namespaces import LabError

CNI_PLUGINS: Final = Path("/usr/lib/cni")

PACKAGES: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
}
"""Programs, and the Debian packages that they come with."""

_PLUGINS_PACKAGE: Final = "containernetworking-plugins"
_PT_INTERP: Final = 3
_WHOLE_RANGE: Final = 4294967295
"""Length of the range of user IDs where no user namespace is in the way (user_namespaces(7))."""


def check() -> None:
    """Try whether nodes can run here.

    Raises:
        LabError: something is missing; the message says what, and what to install.
    """
    if os.geteuid() or int(Path("/proc/self/uid_map").read_text("ascii").split()[2]) != _WHOLE_RANGE:
        raise LabError("containerd and kubelet need the real root user: run it with sudo")
    if packages := missing_packages():
        raise LabError(f"programs are missing: apt-get install --no-install-recommends {' '.join(packages)}")


def missing_packages() -> list[str]:
    """Name the Debian packages whose programs are not there."""
    missing = {package for program, package in PACKAGES.items() if not _has(program)}
    if "busybox-static" not in missing and not is_static(Path(namespaces.find_program("busybox"))):
        missing.add("busybox-static")
    if not (CNI_PLUGINS / "ptp").exists():
        missing.add(_PLUGINS_PACKAGE)
    return sorted(missing)


def is_static(program: Path) -> bool:
    """Tell whether a program runs where no library is: it names no interpreter (PT_INTERP, elf(5))."""
    data = program.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    return all(struct.unpack_from("<I", data, offset + size * n)[0] != _PT_INTERP for n in range(count))


def _has(program: str) -> bool:
    try:
        namespaces.find_program(program)
    except LabError:
        return False
    return True
