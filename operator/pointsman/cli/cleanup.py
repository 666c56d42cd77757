"""``pointsman cleanup``: remove every trace from this node's kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.names import Mode

_LIVEZ: Final = ("127.0.0.1", 10256)
"""Where an agent with default options tells of its health."""
_TRACES: Final[Mapping[Mode, str]] = {
    "nftables": "the tables ip pointsman and ip6 pointsman, with all that was in them",
    "ipvs": "the tables ip pointsman-ipvs and ip6 pointsman-ipvs, the virtual servers that stood in them, and the "
    "local routes of protocol 112",
}
"""What a mode puts into the kernel."""
_PATIENCE: Final = 0.5
"""Seconds that it may take to answer."""


def command() -> None:
    """Remove everything that Pointsman put into this node's kernel. Services stop answering on this node.

    Stop the agent first: one that runs brings everything back.
    """
    from pointsman.agent.kernel import real_kernel  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_rights()
        running = answers(*_LIVEZ)
        kernel = real_kernel()
        modes = [mode for mode in kernel.dataplanes if kernel.traces(mode)]
        for mode in modes:
            dataplane = kernel.dataplanes[mode]()
            dataplane.cleanup()
            dataplane.close()
    except (AgentError, DataplaneError, OSError) as error:
        typer.echo(f"pointsman cleanup: {error}", err=True)
        raise typer.Exit(1) from error
    for mode in modes:
        typer.echo(f"{mode}: {'removed' if running else 'gone are'} {_TRACES[mode]}")
    if not running:
        return
    host, port = _LIVEZ
    typer.echo(
        f"pointsman cleanup: something answers on http://{host}:{port}/livez; if it is the agent, it brings "
        "everything back: stop the agent first, then run this again",
        err=True,
    )


def answers(host: str, port: int) -> bool:
    """Tell whether an HTTP server answers for ``/livez``, whatever it says."""
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 (as above)

    connection = HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
