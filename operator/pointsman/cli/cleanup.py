"""``pointsman cleanup``: remove every trace from this node's kernel."""

from __future__ import annotations

from typing import Final

import typer

_LIVEZ: Final = ("127.0.0.1", 10256)
"""Where an agent with default options tells of its health."""
_PATIENCE: Final = 0.5
"""Seconds that it may take to answer."""


def command() -> None:
    """Remove everything that Pointsman put into this node's kernel. Services stop answering on this node.

    Stop the agent first: one that runs brings everything back.
    """
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.dataplane.nftables import NftablesDataplane  # noqa: PLC0415 (as above)
    from pointsman.dataplane.nftables.layout import TABLE  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_rights()
        running = answers(*_LIVEZ)
        dataplane = NftablesDataplane()
        dataplane.cleanup()
        dataplane.close()
    except (AgentError, DataplaneError, OSError) as error:
        typer.echo(f"pointsman cleanup: {error}", err=True)
        raise typer.Exit(1) from error
    tables = f"nftables: the tables ip {TABLE} and ip6 {TABLE}"
    if not running:
        typer.echo(f"{tables} are gone, with all that was in them")
        return
    typer.echo(f"{tables} were removed, with all that was in them")
    host, port = _LIVEZ
    typer.echo(
        f"pointsman cleanup: something answers on http://{host}:{port}/livez; if it is the agent, it brings the tables "
        "back: stop the agent first, then run this again",
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
