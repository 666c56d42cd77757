"""``pointsman explain``: what happens to a connection on a node, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from pointsman.cli.loading import ConfigFile, Files, LoadError, MoreFiles, NodeName, load, report
from pointsman.cli.output import Output, show_json
from pointsman.model.address import canonical_address
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from pointsman.policy.explain import Explanation
    from pointsman.policy.planner import Planner

Source = Annotated[str, typer.Option("--from", metavar="IP", help="The client's address.")]
Destination = Annotated[
    str,
    typer.Option("--to", metavar="IP:PORT[/PROTOCOL]", help="Where it connects to: 10.96.0.10:53/udp, [fd00::1]:80."),
]

_MAX_PORT = 65535


def command(
    more: MoreFiles = None,
    *,
    filename: Files,
    node_name: NodeName,
    source: Source,
    destination: Destination,
    config: ConfigFile = None,
    output: Output = "text",
) -> None:
    """Say what happens to a connection on a node, and why: from manifests alone, without a kernel.

    The exit status is 0 whatever happens to the connection, 1 when a file or all objects cannot be read, 2 when
    the question makes no sense.
    """
    try:
        planner, problems = load([*filename, *(more or ())], node_name, config)
    except LoadError as error:
        typer.echo(f"pointsman explain: {error}", err=True)
        raise typer.Exit(1) from error
    report(problems)
    explanation = _ask(planner, source, destination)
    if output == "json":
        show_json(explanation)
    else:
        _show(explanation)


def parse_destination(text: str) -> tuple[str, int, Transport]:
    """Read ``IP:PORT[/PROTOCOL]``; an IPv6 address stands in brackets.

    Returns:
        Canonical address, port, protocol (tcp when none is written).

    Raises:
        ValueError: it is something else; the message says what to write.
    """
    where, _, protocol = text.partition("/")
    address, _, port = where.rpartition(":")
    known = get_args(Transport)
    protocol = protocol.lower() or "tcp"
    bracketed = address.startswith("[") and address.endswith("]")
    if protocol not in known:
        raise ValueError(f"{text!r}: the protocol is one of {', '.join(known)}")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _MAX_PORT) or bracketed != (":" in address):
        raise ValueError(f"{text!r}: write IP:PORT or [IPv6]:PORT, with a port from 1 to {_MAX_PORT}")
    return canonical_address(address.strip("[]")), int(port), cast("Transport", protocol)


def _ask(planner: Planner, source: str, destination: str) -> Explanation:
    from pointsman.policy.explain import explain  # noqa: PLC0415 (as above)

    try:
        address, port, protocol = parse_destination(destination)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error
    try:
        return explain(planner, canonical_address(source), address, port, protocol)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error


def _show(explanation: Explanation) -> None:
    from pointsman.cli.explain_text import lay_out, plain_text  # noqa: PLC0415 (as above)

    if sys.stdout.isatty():
        lay_out(explanation)
    else:
        typer.echo(plain_text(explanation))
