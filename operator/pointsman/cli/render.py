"""``pointsman render``: what the agent would load into the kernel, for reading."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pointsman.cli.loading import ConfigFile, Files, LoadError, MoreFiles, NodeName, load, report


def command(
    more: MoreFiles = None,
    *,
    filename: Files,
    node_name: NodeName,
    mode: Annotated[Literal["nftables"], typer.Option(help="The dataplane to write for.")] = "nftables",
    config: ConfigFile = None,
) -> None:
    """Print the script that the agent would load on a node (for nftables: `nft -c -f -` checks it).

    Problems with the manifests go to standard error. The exit status is 0 all the same, as the agent would go on with
    the rest; it is 1 when a file or all objects cannot be read.
    """
    from pointsman.dataplane import nftables  # noqa: PLC0415 (`pointsman --help` needs none of it)

    writers = {"nftables": nftables.render}
    try:
        planner, problems = load([*filename, *(more or ())], node_name, config, mode=mode)
    except LoadError as error:
        typer.echo(f"pointsman render: {error}", err=True)
        raise typer.Exit(1) from error
    report(problems)
    typer.echo(writers[mode](planner.plan), nl=False)
