"""``pointsman trace``: what becomes of a connection on this node: by the plan, and by what the kernel holds of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, Timeout  # noqa: TC001 (typer reads them)
from pointsman.cli.explain import Destination, Source, parse_question
from pointsman.cli.live import OptionalFiles, origin_of
from pointsman.cli.loading import ConfigFile, LoadError, MoreFiles, NodeName, report
from pointsman.cli.node import METRICS, agent_address
from pointsman.cli.output import Output, fail, show_json

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.agent.connections import Connections
    from pointsman.cli.explain import Question
    from pointsman.cli.live import Origin
    from pointsman.cli.trace_text import Trace
    from pointsman.model.problems import Problem
    from pointsman.process.listen import Address

_NO_MODE: Final = "no mode of Pointsman holds anything in this kernel: no agent has run here"
_SEVERAL: Final = "{} hold something; {} is looked at, name another one by --mode (one that was in force drains)"


ModeToLookAt = Annotated[
    str, typer.Option(metavar="MODE", help="The mode to look at, in place of the one in force.", show_default="")
]
AgentToAsk = Annotated[
    str,
    typer.Option(metavar="IP:PORT", help="Where the agent's metrics are (its --metrics-address); '' for nowhere."),
]


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
    mode: ModeToLookAt = "",
    agent: AgentToAsk = METRICS,
    output: Output = "text",
) -> None:
    """Say what becomes of a connection on this node, as `explain` does, and what its kernel holds for it.

    That is: the frontend as the mode in force has it, its counters, and the connections of this client to it that are
    tracked now. No packet is sent. Objects come from -f, or from the API server, as the agent reads them. The exit
    status is 0 whatever is found, 1 when it could not be found out, 2 when the question makes no sense.
    """
    question = parse_question(source, destination)
    address = agent_address(agent) if agent else None
    origin = origin_of(
        [*(filename or ()), *(more or ())], kubeconfig, context, server, in_cluster=in_cluster, timeout=timeout
    )
    found, problems = _trace(origin, node_name, config, question, mode=mode, agent=address)
    report(problems)
    _show(found, output)


def _trace(
    origin: Origin, node_name: str, config: Path | None, question: Question, *, mode: str, agent: Address | None
) -> tuple[Trace, tuple[Problem, ...]]:
    """Look; return what was found, and what is wrong with the objects."""
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.cli.live import look  # noqa: PLC0415 (as above)
    from pointsman.cli.trace_kernel import trace_kernel  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_rights()
        counted, notes = _ask_agent(agent), list[str]()
        chosen = mode or (counted.mode if counted is not None else _mode_in_kernel(notes))
        live = look(origin, node_name, config, chosen)
        return trace_kernel(live, question, counted, notes), live.problems
    except (AgentError, LoadError, DataplaneError, OSError) as error:
        fail("trace", error)


def _ask_agent(address: Address | None) -> Connections | None:
    """Ask the agent which mode is in force and what it has counted; None when there is none."""
    from pointsman.cli.top_client import AgentClient, NoAnswer  # noqa: PLC0415 (as above)

    try:
        return AgentClient(address).connections() if address is not None else None
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
