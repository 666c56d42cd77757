"""What commands that look at things have in common: text or JSON, and words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pointsman.model.address import joined
from pointsman.model.plan import NODE_PORT

if TYPE_CHECKING:
    from pointsman.model.plan import Frontend

Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Text for people, or one JSON object.")]


def show_json(found: object) -> None:
    """Print one JSON object, laid out for people as well."""
    import msgspec  # noqa: PLC0415 (`--help` needs none of it)

    typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def frontend_text(frontend: Frontend) -> str:
    """Name a frontend."""
    if frontend.address == NODE_PORT:
        return f"node port {frontend.port}/{frontend.protocol} (IPv{frontend.family})"
    return f"{joined(frontend.address, frontend.port)}/{frontend.protocol}"
