"""Where built programs are kept: ``$XDG_CACHE_HOME/pointsman/components/KEY/NAME``, each with its hash beside it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.components.catalogue import Component
    from pointsman.lab.components.toolchain import Toolchain


def home() -> Path:
    """Return the directory of all programs; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # An XDG path that is relative is invalid and ignored (XDG Base Directory Specification).
    cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return cache / "pointsman" / "components"


def directory(component: Component, toolchain: Toolchain) -> Path:
    """Return a program's directory: another one for each change of what goes into it."""
    module = component.module
    content = hashlib.sha256()
    for part in (
        *((module.directory / name).read_bytes() for name in ("go.mod", "go.sum")),
        *(flag.encode() for flag in component.command()),
        toolchain.version.encode(),
    ):
        content.update(len(part).to_bytes(8) + part)
    return home() / f"{module.name}-{module.version}-{content.hexdigest()[:16]}"


def is_whole(program: Path) -> bool:
    """Tell whether a program is there and is what was built."""
    try:
        return _digest_file(program).read_text("ascii").strip() == digest(program)
    except OSError:
        return False


def put(draft: Path, program: Path) -> None:
    """Move a program that was built to its place; who looks meanwhile finds none, or all of it."""
    written = digest(draft)
    draft.rename(program)
    _digest_file(program).write_text(written + "\n", "ascii")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextlib.contextmanager
def locked(name: str = "components") -> Iterator[bool]:
    """Hold a part of the cache for one build at a time.

    Args:
        name: of the part; programs and images do not wait for each other.

    Yields:
        Whether another build had to be waited for.
    """
    home().mkdir(parents=True, exist_ok=True)
    with (home() / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            waited = False
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_EX)
            waited = True
        yield waited


def _digest_file(program: Path) -> Path:
    return program.with_name(program.name + ".sha256")
