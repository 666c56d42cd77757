"""The iptables tools of both variants: what their tables hold, and changes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.model.plan import Family

Variant = Literal["nft", "legacy"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

_PROGRAMS: Final[Mapping[Family, str]] = {IPV4: "iptables", IPV6: "ip6tables"}
_WHERE: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_PATIENCE: Final = 10
"""Seconds to wait for the lock that the tools of the variant legacy share."""
_LEGACY_TABLES: Final[Mapping[Family, Path]] = {
    IPV4: Path("/proc/thread-self/net/ip_tables_names"),
    IPV6: Path("/proc/thread-self/net/ip6_tables_names"),
}
"""The tables of the variant legacy that are in use in this network namespace."""


def has_tables(variant: Variant, family: Family) -> bool:
    """Tell whether a variant may have tables; listing those of the variant legacy would load its modules."""
    if variant == "nft":
        return True
    try:
        return bool(_LEGACY_TABLES[family].read_text("ascii").strip())
    except OSError:
        return False


def has_program(variant: Variant, family: Family) -> bool:
    """Tell whether a variant's tools are installed."""
    return all(_path(variant, family, tool) for tool in ("save", "restore"))


def save(variant: Variant, family: Family) -> str:
    """List all tables.

    Raises:
        DataplaneError: the tool failed; with its words.
    """
    return _run(variant, family, "save")


def restore(variant: Variant, family: Family, text: str) -> None:
    """Change tables; each one all or nothing.

    Raises:
        DataplaneError: the tool failed; with its words.
    """
    _run(variant, family, "restore", "--noflush", "--wait", str(_PATIENCE), text=text)


def _run(variant: Variant, family: Family, tool: str, *options: str, text: str = "") -> str:
    program = _path(variant, family, tool)
    if not program:
        raise DataplaneError(f"{_name(variant, family, tool)} is not installed (Debian: the package iptables)")
    done = subprocess.run(  # noqa: S603 - the tool and its options are our own
        [program, *options], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise DataplaneError(f"{_name(variant, family, tool)} failed: {said}")
    return done.stdout


def _path(variant: Variant, family: Family, tool: str) -> str:
    return shutil.which(_name(variant, family, tool), path=_WHERE) or ""


def _name(variant: Variant, family: Family, tool: str) -> str:
    return f"{_PROGRAMS[family]}-{variant}-{tool}"
