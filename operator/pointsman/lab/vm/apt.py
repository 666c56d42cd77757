"""Debian packages, looked up and fetched by any user; nothing is installed."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

from pointsman.lab import namespaces
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pathlib import Path

NEWEST: Final = "linux-image-amd64"
"""Debian's package without a version: it depends on the newest kernel of the release."""

_DEPENDENCY: Final = re.compile(r"^Depends:.*?\blinux-image-(?P<release>\d[^\s,]*-amd64)(?![^\s,])", re.MULTILINE)
_PATIENCE: Final = 900.0


class Packages:
    """Debian's packages, by the lists that the system has, or by lists of one's own."""

    def __init__(self, lists: Path | None = None) -> None:
        """Choose the lists.

        Args:
            lists: a directory for lists of one's own, which `refresh` fills; the system's when it is None.
        """
        self._lists = lists

    def refresh(self) -> None:
        """Get new lists from the system's package sources.

        Raises:
            LabError: it cannot be done; the message holds what apt-get says.
        """
        if self._lists is not None:
            for name in ("lists/partial", "archives/partial"):
                (self._lists / name).mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "update", "-qq")

    def newest_kernel(self) -> str:
        """Return the newest kernel of the release, as `uname -r` names it: ``6.1.0-56-amd64``.

        Raises:
            LabError: the package lists have none.
        """
        return kernel_release(self._run("apt-cache", "show", "--no-all-versions", NEWEST))

    def download(self, package: str, directory: Path) -> Path:
        """Fetch a package.

        Returns:
            The file, ``PACKAGE_VERSION_ARCHITECTURE.deb`` in the directory.

        Raises:
            LabError: it cannot be fetched; the message holds what apt-get says.
        """
        self._run("apt-get", "download", "-qq", package, directory=directory)
        (file,) = directory.glob(f"{package}_*.deb")
        return file

    def _run(self, program: str, *arguments: str, directory: Path | None = None) -> str:
        command = [namespaces.find_program(program), *self._options(), *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - fixed commands
                command, cwd=directory, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"`{program} {' '.join(arguments)}` took longer than {_PATIENCE:g} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"`{program} {' '.join(arguments)}` failed with status {done.returncode}: {said}")
        return done.stdout

    def _options(self) -> list[str]:
        # As root apt would fetch as the user _apt, who may not write into root's cache.
        options = ["APT::Sandbox::User=root"]
        if (own := self._lists) is not None:
            options += [f"Dir::State={own}", "Dir::State::status=/var/lib/dpkg/status", f"Dir::Cache={own}"]
        return [word for option in options for word in ("-o", option)]


def kernel_release(description: str) -> str:
    """Read which kernel `NEWEST` stands for.

    Args:
        description: what ``apt-cache show linux-image-amd64`` prints.

    Raises:
        LabError: it names none.
    """
    match = _DEPENDENCY.search(description)
    if match is None:
        raise LabError(
            f"the package {NEWEST} does not say which kernel it stands for; a Debian of architecture amd64 is needed"
        )
    return match["release"]
