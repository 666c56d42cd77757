"""What commands have in common in what they say: text or JSON, words for people, and how they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pointsman.model.address import joined
from pointsman.model.plan import NODE_PORT

if TYPE_CHECKING:
    from pointsman.model.plan import Frontend

Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Text for people, or one JSON object.")]
LogFormat = Annotated[Literal["text", "json"], typer.Option(help="Lines for people, or JSON objects.")]


def fail(command: str, error: Exception, status: int = 1) -> NoReturn:
    """Say on standard error why a command has to end, and end it.

    Args:
        command: its name.
        error: why; the message says what to do.
        status: its exit status.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"pointsman {command}: {error}", err=True)
    raise typer.Exit(status) from error


def show_json(found: object) -> None:
    """Print one JSON object, laid out for people as well."""
    import msgspec  # noqa: PLC0415 (`--help` needs none of it)

    typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def frontend_text(frontend: Frontend) -> str:
    """Name a frontend."""
    if frontend.address == NODE_PORT:
        return f"node port {frontend.port}/{frontend.protocol} (IPv{frontend.family})"
    return f"{joined(frontend.address, frontend.port)}/{frontend.protocol}"
