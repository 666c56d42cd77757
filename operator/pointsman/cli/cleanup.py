"""``pointsman cleanup``: remove every trace from this node's kernel."""

from __future__ import annotations

import typer


def command() -> None:
    """Remove everything that Pointsman put into this node's kernel. Services stop answering on this node."""
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.dataplane.nftables import NftablesDataplane  # noqa: PLC0415 (as above)
    from pointsman.dataplane.nftables.layout import TABLE  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_rights()
        dataplane = NftablesDataplane()
        dataplane.cleanup()
        dataplane.close()
    except (AgentError, DataplaneError, OSError) as error:
        typer.echo(f"pointsman cleanup: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"nftables: the tables ip {TABLE} and ip6 {TABLE} are gone, with all that was in them")
