"""``pointsman migrate``: kube-proxy's configuration in, the ProxyConfig that does the same out."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pointsman.model.convert import good_name
from pointsman.model.problems import printable
from pointsman.sources.file_names import shown

if TYPE_CHECKING:
    from pointsman.api.migration import Migration
    from pointsman.model.kubeproxy_files import Found


def _name_of(text: str) -> str:
    if not good_name(text):
        raise typer.BadParameter("write lower-case letters, digits, dashes and dots")
    return text


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A KubeProxyConfiguration, or the ConfigMap that holds it (YAML or JSON), or - for standard input.",
            show_default=False,
        ),
    ],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the ProxyConfig.", callback=_name_of)] = "default",
    output: Annotated[
        Literal["yaml", "json"],
        typer.Option("--output", "-o", help="YAML for `kubectl apply -f -`, or one JSON object with all notes."),
    ] = "yaml",
) -> None:
    """Print the ProxyConfig that does what a KubeProxyConfiguration does, with a note for what has no counterpart.

    Notes are comments of the YAML, and lines on standard error where standard output is no terminal. The exit status
    is 0 with notes, too; it is 1 when the file is none, or has a wrong value.
    """
    from pointsman.cli.migrate_text import json_text, line_of, yaml_text  # noqa: PLC0415 (`--help` needs none of it)

    found = _read(file)
    migration = _migrate(found, file, name)
    if output == "json":
        typer.echo(json_text(migration))
        return
    typer.echo(yaml_text(migration, found.place or "kube-proxy's configuration"), nl=False)
    if sys.stdout.isatty():
        return
    for note in migration.notes:
        typer.echo(f"pointsman migrate: {line_of(note)}", err=True)


def _read(file: Path) -> Found:
    from pointsman.model.kubeproxy_files import NotFoundError, kube_proxy_configuration  # noqa: PLC0415 (as above)

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return kube_proxy_configuration(data)
    except OSError as error:
        _fail(file, f"cannot be read ({error.strerror}); name a file, or - for standard input", error)
    except NotFoundError as error:
        _fail(file, str(error), error)


def _migrate(found: Found, file: Path, name: str) -> Migration:
    from pydantic import ValidationError  # noqa: PLC0415 (as above)

    from pointsman.api.errors import validation_problems  # noqa: PLC0415 (as above)
    from pointsman.api.migration import migrate  # noqa: PLC0415 (as above)

    try:
        return migrate(found.document, name)
    except ValidationError as error:
        where = f"{found.place}: " if found.place else ""
        _fail(file, [f"{where}{problem}" for problem in validation_problems(error)], error)


def _fail(file: Path, messages: str | list[str], error: Exception) -> NoReturn:
    for message in [messages] if isinstance(messages, str) else messages:
        typer.echo(f"pointsman migrate: {printable(f'{shown(file)}: {message}')}", err=True)
    raise typer.Exit(1) from error
