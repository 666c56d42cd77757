"""``pointsman trace``: what becomes of a connection on this node: by the plan, and by what the kernel holds of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, Timeout  # noqa: TC001 (typer reads them)
from pointsman.cli.explain import Destination, Source, parse_destination
from pointsman.cli.live import OptionalFiles, origin_of
from pointsman.cli.loading import ConfigFile, LoadError, MoreFiles, NodeName, report
from pointsman.cli.output import Output, show_json
from pointsman.model.address import canonical_address

if TYPE_CHECKING:
    from pointsman.agent.connections import Connections
    from pointsman.cli.trace_text import Trace

_NO_MODE: Final = "no mode of Pointsman holds anything in this kernel: no agent has run here"
_SEVERAL: Final = "{} hold something; {} is looked at, name another one by --mode (one that was in force drains)"


def command(
    more: MoreFiles = None,
    *,
    node_name: NodeName,
    source: Source,
    destination: Destination,
    filename: OptionalFiles = None,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    timeout: Timeout = 60.0,
    config: ConfigFile = None,
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="The mode to look at, in place of the one in force.", show_default="")
    ] = "",
    agent: Annotated[
        str,
        typer.Option(metavar="IP:PORT", help="Where the agent's metrics are (its --metrics-address); '' for nowhere."),
    ] = "127.0.0.1:10249",
    output: Output = "text",
) -> None:
    """Say what becomes of a connection on this node, as `explain` does, and what its kernel holds for it.

    That is: the frontend as the mode in force has it, its counters, and the connections of this client to it that are
    tracked now. No packet is sent. Objects come from -f, or from the API server, as the agent reads them. The exit
    status is 0 whatever is found, 1 when it could not be found out, 2 when the question makes no sense.
    """
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.cli.live import look  # noqa: PLC0415 (as above)
    from pointsman.cli.trace_kernel import trace_kernel  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    _check(source, destination)
    origin = origin_of(
        [*(filename or ()), *(more or ())], kubeconfig, context, server, in_cluster=in_cluster, timeout=timeout
    )
    try:
        check_rights()
        counted, notes = _ask_agent(agent), list[str]()
        chosen = mode or (counted.mode if counted is not None else _mode_in_kernel(notes))
        live = look(origin, node_name, config, chosen)
        found = trace_kernel(live, canonical_address(source), parse_destination(destination), counted, notes)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    except (AgentError, LoadError, DataplaneError, OSError) as error:
        typer.echo(f"pointsman trace: {error}", err=True)
        raise typer.Exit(1) from error
    report(live.problems)
    _show(found, output)


def _check(source: str, destination: str) -> None:
    """Refuse what is no address before anything is read."""
    for text, flag, read in ((source, "--from", canonical_address), (destination, "--to", parse_destination)):
        try:
            read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=flag) from error


def _ask_agent(agent: str) -> Connections | None:
    """Ask the agent which mode is in force and what it has counted; None when there is none."""
    from pointsman.cli.top_client import AgentClient, NoAnswer  # noqa: PLC0415 (as above)
    from pointsman.process.listen import parse_address  # noqa: PLC0415 (as above)

    try:
        address = parse_address(agent, "--agent")
    except ValueError as error:
        raise typer.BadParameter(f"{agent!r}: write IP:PORT or [IPv6]:PORT", param_hint="--agent") from error
    if address is None:
        return None
    try:
        return AgentClient(address).connections()
    except NoAnswer:
        return None


def _mode_in_kernel(notes: list[str]) -> str:
    """Return the mode that holds something in the kernel, the one that most likely decides where several do; or ""."""
    from pointsman.api.names import MODES  # noqa: PLC0415 (as above)
    from pointsman.dataplane.leftovers import held_by  # noqa: PLC0415 (as above)

    found = [mode for mode in MODES if held_by(mode)]
    if not found:
        notes.append(_NO_MODE)
        return ""
    # Connections that IPVS carries are why it may still be there; rules of the other modes go at once.
    chosen = next((mode for mode in found if mode != "ipvs"), found[0])
    if len(found) > 1:
        notes.append(_SEVERAL.format(" and ".join(f"mode {mode}" for mode in found), chosen))
    return chosen


def _show(found: Trace, output: str) -> None:
    from pointsman.cli.explain_text import lay_out, plain_text  # noqa: PLC0415 (as above)
    from pointsman.cli.trace_text import text  # noqa: PLC0415 (as above)

    if output == "json":
        show_json(found)
        return
    if sys.stdout.isatty():
        lay_out(found.explanation)
    else:
        typer.echo(plain_text(found.explanation))
    typer.echo(text(found), nl=False)
