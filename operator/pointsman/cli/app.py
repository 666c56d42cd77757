"""The command line as a whole: which commands there are."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from pointsman import __version__
from pointsman.cli import agent, cleanup, crds, diff, explain, lab, migrate, operator, render, top, trace, uninstall

if TYPE_CHECKING:
    from types import FrameType

_FIRST: Final = 1
"""The first process of a container: the kernel keeps signals from it that it does not ask for (pid_namespaces(7))."""
_SIGNALLED: Final = 128
"""Plus the signal's number: the exit status of what a signal ended, as a shell says it."""

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
app.command("diff")(diff.command)
app.command("top")(top.command)
app.command("trace")(trace.command)
app.command("lab")(lab.command)
app.command("migrate")(migrate.command)
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
    version: Annotated[  # noqa: ARG001 (its callback does it all)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A Kubernetes Service proxy that asks the kernel for less."""
    if os.getpid() == _FIRST:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End as a process does that has no handler; agent and operator have their own, once they run."""
    raise SystemExit(_SIGNALLED + number)
