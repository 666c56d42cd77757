"""``pointsman top``: what each Service and each backend gets on this node, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from pointsman.cli.node import METRICS, agent_address
from pointsman.cli.output import fail

if TYPE_CHECKING:
    from pointsman.agent.connections import Connections
    from pointsman.cli.top_client import AgentClient
    from pointsman.cli.top_rows import Frame, Wanted

_ANY_WIDTH: Final = 1000
"""Characters a line where there is no terminal: nothing is cut off."""


def command(
    *,
    agent: Annotated[
        str, typer.Option(metavar="IP:PORT", help="Where the agent's metrics are (its --metrics-address).")
    ] = METRICS,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Services of it alone.")] = "",
    service: Annotated[str, typer.Option(metavar="[NAMESPACE/]NAME", help="This Service alone.")] = "",
    sort: Annotated[
        Literal["rate", "connections", "active", "name"], typer.Option(help="What Services are sorted by.")
    ] = "rate",
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1.0, help="From one refresh to the next; the agent counts no faster."),
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show what there is now, and end; no rates are known then.")
    ] = False,
    output: Annotated[
        Literal["text", "json"],
        typer.Option("--output", "-o", help="A table, or one JSON object for each refresh."),
    ] = "text",
) -> None:
    """Show connections of Services and their backends on this node, by the agent's counters; Ctrl-C ends it.

    CONNS are new connections since the kernel has counted them, RATE/S those a second, ACTIVE and INACT the open ones
    (modes ipvs and userspace count them). SHARE is a backend's part of what came since the last refresh, or of
    everything while nothing comes. The exit status is 1 when no agent answers.
    """
    from pointsman.cli.top_client import AgentClient, NoAnswer  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.cli.top_rows import Wanted  # noqa: PLC0415 (as above)

    watch = Watch(AgentClient(agent_address(agent)), Wanted(sort, namespace, service))
    try:
        if once:
            show_frame(watch.refresh(), output, pretty=True)
        elif output == "text" and _on_terminal():
            _watch_on_terminal(watch, interval)
        else:
            _watch_in_pipe(watch, output, interval)
    except KeyboardInterrupt:
        return
    except NoAnswer as error:
        fail("top", error)


def _on_terminal() -> bool:
    return sys.stdout.isatty()


class Watch:
    """Asks an agent again and again, and compares its answers.

    Args:
        client: asks it.
        wanted: what of its answers is wanted.
    """

    def __init__(self, client: AgentClient, wanted: Wanted) -> None:
        self._client = client
        self._wanted = wanted
        self._last: tuple[Connections, Frame] | None = None

    def refresh(self) -> Frame:
        """Ask; return the same frame as before when the agent has not counted since.

        Raises:
            NoAnswer: as `AgentClient.connections`.
        """
        from pointsman.cli.top_rows import compare  # noqa: PLC0415 (as above)

        answer = self._client.connections()
        before, frame = self._last or (None, None)
        if frame is None or before is None or answer.time != before.time:
            frame = compare(answer, before, self._wanted)
            self._last = answer, frame
        return frame


def show_frame(frame: Frame, output: str, *, pretty: bool = False) -> None:
    """Print one frame: a table, or JSON on one line, or `pretty` on several."""
    import msgspec  # noqa: PLC0415 (as above)
    from rich.console import Console  # noqa: PLC0415 (as above)

    from pointsman.cli.top_text import lay_out  # noqa: PLC0415 (as above)

    if output == "json":
        text = msgspec.json.encode(frame)
        typer.echo(msgspec.json.format(text) if pretty else text)
        return
    if _on_terminal():
        console = Console()
        console.print(lay_out(frame, console))
        return
    console = Console(width=_ANY_WIDTH, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(lay_out(frame, console))
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _watch_in_pipe(watch: Watch, output: str, interval: float) -> NoReturn:
    last: Frame | None = None
    while True:
        frame = watch.refresh()
        if frame is not last:
            show_frame(frame, output)
            sys.stdout.flush()
        last = frame
        time.sleep(interval)


def _watch_on_terminal(watch: Watch, interval: float) -> NoReturn:
    """Show frames in place of each other; an agent that ends is waited for, as a new one may come."""
    from rich.console import Console  # noqa: PLC0415 (as above)
    from rich.live import Live  # noqa: PLC0415 (as above)

    from pointsman.cli.top_client import NoAnswer  # noqa: PLC0415 (as above)
    from pointsman.cli.top_text import lay_out  # noqa: PLC0415 (as above)

    console, note = Console(), ""
    frame = watch.refresh()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(lay_out(frame, console, note=note), refresh=True)
            time.sleep(interval)
            try:
                frame, note = watch.refresh(), ""
            except NoAnswer:
                note = "the agent does not answer any more"
