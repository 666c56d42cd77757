"""The command line as a whole: which commands there are."""

from __future__ import annotations

from typing import Annotated

import typer

from pointsman import __version__
from pointsman.cli import agent, cleanup, crds, explain, lab, operator, render, uninstall

app = typer.Typer(
    name="pointsman",
    help="A Kubernetes Service proxy that asks the kernel for less.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("agent")(agent.command)
app.command("operator")(operator.command)
app.command("render")(render.command)
app.command("explain")(explain.command)
app.command("lab")(lab.command)
app.command("cleanup")(cleanup.command)
app.command("crds")(crds.command)
app.command("uninstall")(uninstall.command)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if wanted:
        typer.echo(f"pointsman {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A Kubernetes Service proxy that asks the kernel for less."""
