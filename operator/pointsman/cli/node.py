"""Options of commands that have to do with the node on which they run: its kernel's parameters, its agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from pointsman.process.listen import Address

SysctlRoot = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Where the kernel's parameters are; in a container /proc/sys is read-only."),
]
SYSCTLS: Final = Path("/proc/sys")

METRICS: Final = "127.0.0.1:10249"
"""Where an agent with default options has its metrics."""


def agent_address(text: str) -> Address:
    """Read the option ``--agent``.

    Raises:
        typer.BadParameter: it is no address with a port to which one can connect.
    """
    from pointsman.process.listen import parse_address  # noqa: PLC0415 (`pointsman --help` needs none of it)

    try:
        address = parse_address(text, "--agent")
    except ValueError:
        address = None
    if address is None or not address.port:
        raise typer.BadParameter(f"{text!r}: write IP:PORT or [IPv6]:PORT", param_hint="--agent")
    return address
