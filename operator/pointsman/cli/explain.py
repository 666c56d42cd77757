"""``pointsman explain``: what happens to a connection on a node, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast, get_args

import typer

from pointsman.cli.loading import ConfigFile, Files, LoadError, MoreFiles, NodeName, load, report
from pointsman.cli.output import Output, fail, show_json
from pointsman.model.address import canonical_address, family_of
from pointsman.model.plan import Transport

if TYPE_CHECKING:
    from pointsman.policy.explain import Explanation

Source = Annotated[str, typer.Option("--from", metavar="IP", help="The client's address.")]
Destination = Annotated[
    str,
    typer.Option("--to", metavar="IP:PORT[/PROTOCOL]", help="Where it connects to: 10.96.0.10:53/udp, [fd00::1]:80."),
]

_MAX_PORT = 65535


class Question(NamedTuple):
    """A connection that is asked for: canonical addresses of one IP family, and a port."""

    source: str
    destination: str
    port: int
    protocol: Transport


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
    from pointsman.policy.explain import explain  # noqa: PLC0415 (`pointsman --help` needs none of it)

    question = parse_question(source, destination)
    try:
        planner, problems = load([*filename, *(more or ())], node_name, config)
    except LoadError as error:
        fail("explain", error)
    report(problems)
    explanation = explain(planner, *question)
    if output == "json":
        show_json(explanation)
    else:
        _show(explanation)


def parse_question(source: str, destination: str) -> Question:
    """Read ``--from`` and ``--to``.

    Raises:
        typer.BadParameter: one of them is no address, or no packet can have both.
    """
    try:
        address, port, protocol = parse_destination(destination)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error
    try:
        question = Question(canonical_address(source), address, port, protocol)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    if family_of(question.source) != family_of(address):
        message = f"{source} and {address} are of different IP families, so that no packet can have both"
        raise typer.BadParameter(message, param_hint="--from")
    return question


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


def _show(explanation: Explanation) -> None:
    from pointsman.cli.explain_text import lay_out, plain_text  # noqa: PLC0415 (as above)

    if sys.stdout.isatty():
        lay_out(explanation)
    else:
        typer.echo(plain_text(explanation))
