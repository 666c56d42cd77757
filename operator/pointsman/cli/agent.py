"""``pointsman agent``: the node agent, in the foreground."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Literal

import typer

from pointsman.cli.loading import node_name_of


def command(
    *,
    manifests: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of manifests (YAML or JSON) to follow, with those below it.")
    ],
    node_name: Annotated[str, typer.Option(metavar="NAME", help="Name of this node.", callback=node_name_of)],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the ProxyConfig to use, whatever the directory has."),
    ] = None,
    healthz_address: Annotated[
        str, typer.Option(metavar="IP:PORT", help="Where /healthz and /livez answer; '' for nowhere.")
    ] = "0.0.0.0:10256",
    metrics_address: Annotated[
        str, typer.Option(metavar="IP:PORT", help="Where /metrics and /proxyMode answer; '' for nowhere.")
    ] = "127.0.0.1:10249",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every sync.")] = False,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Lines for people, or JSON objects.")] = "text",
) -> None:
    """Follow Services and EndpointSlices, and program this node's kernel. Stopping it leaves the rules in force."""
    from pointsman.agent.logs import configure  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.agent.run import AgentOptions, run  # noqa: PLC0415 (as above)
    from pointsman.agent.startup import AgentError  # noqa: PLC0415 (as above)

    configure(log_format, verbose=verbose)
    try:
        run(AgentOptions(manifests, node_name, config, healthz_address, metrics_address))
    except AgentError as error:
        typer.echo(f"pointsman agent: {error}", err=True)
        raise typer.Exit(1) from error
