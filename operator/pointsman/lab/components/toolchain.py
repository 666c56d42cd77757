"""The Go toolchain of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pointsman.lab.components.catalogue import Module

_USUAL_PLACE: Final = Path("/usr/local/go/bin/go")


class Toolchain(msgspec.Struct, frozen=True):
    """A Go that is new enough.

    Attributes:
        program: the path of ``go``.
        version: as in ``go env GOVERSION``, with the platform it builds for: ``go1.26.1 linux/amd64``.
    """

    program: str
    version: str


def find(module: Module) -> Toolchain:
    """Find a Go that can build a module.

    Raises:
        LabError: there is none, or it is too old; the message says what to install.
    """
    remedy = f"install Go {module.go_version} or newer (https://go.dev/dl) and put its bin directory on PATH"
    program = shutil.which("go") or (str(_USUAL_PLACE) if _USUAL_PLACE.exists() else None)
    if program is None:
        raise LabError(f"the program `go` is missing, which builds {module.requires}: {remedy}")
    # In the module's directory a Go of 1.21 or later fetches a newer one by itself, unless GOTOOLCHAIN forbids it.
    done = subprocess.run(  # noqa: S603 - a fixed command
        [program, "env", "GOVERSION", "GOOS", "GOARCH"],
        cwd=module.directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    version, system, machine = [*done.stdout.split(), "", "", ""][:3]
    if done.returncode or numbers(version) < numbers(module.go_version):
        said = done.stderr.strip() or f"it is {version or 'of an unknown version'}"
        raise LabError(f"`{program}` cannot build {module.requires} {module.version} ({said}): {remedy}")
    return Toolchain(program, f"{version} {system}/{machine}")


def environment() -> dict[str, str]:
    """Return the environment for ``go``: without C, so that a program runs on any machine."""
    return {**os.environ, "CGO_ENABLED": "0"}


def numbers(version: str) -> tuple[int, ...]:
    """Read a version's numbers, for comparing: ``go1.26.1`` is (1, 26, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
