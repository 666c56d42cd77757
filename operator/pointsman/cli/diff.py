"""``pointsman diff``: what the plan wants against what the kernel of this node holds."""

from __future__ import annotations

import sys
import time
from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import TYPE_CHECKING, Final

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, Timeout  # noqa: TC001 (typer reads them)
from pointsman.cli.live import ModeName, OptionalFiles, origin_of, read_held
from pointsman.cli.loading import ConfigFile, LoadError, MoreFiles, NodeName, report
from pointsman.cli.output import Output, fail, show_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.cli.diff_text import Comparison, Elsewhere
    from pointsman.cli.live import Live, Origin
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.model.plan import Backend, Frontend

_DIFFERENT: Final = 1
_FAILED: Final = 2
"""Exit statuses, as diff(1) has them."""
_PAUSE: Final = 1.0
"""Seconds after which a difference from an API server's objects is looked at again: the agent may not have it yet."""
_UNTOLD: Final = (
    "mode {}: the kernel knows the ports of the agent's proxy alone, so that backends are not compared (`pointsman "
    "top` has them), nor is it known whether that agent still runs"
)
_DRAINS: Final = "mode {}: {}, kept for the connections that they carry, without new ones"


def command(
    more: MoreFiles = None,
    *,
    node_name: NodeName,
    filename: OptionalFiles = None,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    timeout: Timeout = 60.0,
    config: ConfigFile = None,
    mode: ModeName = "",
    output: Output = "text",
) -> None:
    """Compare what this node's kernel holds with what it should: frontends, backends, and their weights.

    Objects come from -f, or from the API server, as the agent reads them. A line with - is wanted and not there, one
    with + is there and not wanted; so is what a mode holds that is not in force. The exit status is 0 without a
    difference, 1 with one, 2 when it could not be found out.
    """
    origin = origin_of(
        [*(filename or ()), *(more or ())], kubeconfig, context, server, in_cluster=in_cluster, timeout=timeout
    )
    found = _compare(origin, node_name, config, mode)
    if not found.in_force and origin.access is not None:
        time.sleep(_PAUSE)
        found = _compare(origin, node_name, config, mode)
    _show(found, output)
    if not found.in_force:
        raise typer.Exit(_DIFFERENT)


def _compare(origin: Origin, node_name: str, config: Path | None, mode: str) -> Comparison:
    from pointsman.agent.startup import AgentError, check_rights  # noqa: PLC0415 (`--help` needs none of it)
    from pointsman.cli.live import look  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    try:
        check_rights()
        live = look(origin, node_name, config, mode)
        return _compare_kernel(live, node_name)
    except (AgentError, LoadError, DataplaneError, OSError) as error:
        fail("diff", error, _FAILED)


def _compare_kernel(live: Live, node_name: str) -> Comparison:
    from pointsman.cli.diff_text import Comparison, counted  # noqa: PLC0415 (as above)
    from pointsman.dataplane.node_addresses import device_addresses  # noqa: PLC0415 (as above)
    from pointsman.dataplane.tracing.wanted import wanted  # noqa: PLC0415 (as above)
    from pointsman.model.comparison import compare  # noqa: PLC0415 (as above)

    want = wanted(live.mode, live.planner.plan, device_addresses())
    held, draining = _split(live.mode, _held(live.kernel.dataplanes[live.mode]), want.backends)
    others = tuple(_others(live))
    notes = [_UNTOLD.format(live.mode)] if not want.whole else []
    notes += [_DRAINS.format(live.mode, counted(len(draining)))] if draining else []
    notes += [_kept(each) for each in others if each.drains]
    return Comparison(
        node=node_name,
        mode=live.mode,
        frontends=len(want.backends),
        differences=compare(want, held),
        others=tuple(each for each in others if not each.drains),
        notes=tuple(notes),
        problems=live.problems,
    )


def _kept(other: Elsewhere) -> str:
    from pointsman.cli.diff_text import counted  # noqa: PLC0415 (as above)

    return _DRAINS.format(other.mode, counted(other.frontends) if other.frontends else "its proxy and what leads there")


def _split(
    mode: str, held: Mapping[Frontend, tuple[Backend, ...]], wanted: Mapping[Frontend, tuple[Backend, ...]]
) -> tuple[dict[Frontend, tuple[Backend, ...]], set[Frontend]]:
    """Tell what drains apart: in mode ipvs a frontend that is gone stays as long as it has connections."""
    draining = {frontend for frontend in held.keys() - wanted.keys() if mode == "ipvs" and not held[frontend]}
    return {frontend: backends for frontend, backends in held.items() if frontend not in draining}, draining


def _others(live: Live) -> Iterator[Elsewhere]:
    """Yield what modes hold that are not in force."""
    from pointsman.cli.diff_text import Elsewhere  # noqa: PLC0415 (as above)
    from pointsman.dataplane.leftovers import held_by  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError  # noqa: PLC0415 (as above)

    for mode, opened in live.kernel.dataplanes.items():
        if mode == live.mode:
            continue
        known = held_by(mode)
        if known == []:
            continue  # nothing; and a mode whose kernel module is not loaded is not opened, which would load it
        names = tuple(f"{each.kind} {each.name}".strip() for each in known or ())
        try:
            held = _held(opened)
        except (DataplaneError, OSError):
            # Its kernel module may be gone, and what can be named is there all the same.
            held = {}
        if names or held:
            yield Elsewhere(mode, len(held), names, drains=_drains(mode, held))


def _drains(mode: str, held: Mapping[Frontend, tuple[Backend, ...]]) -> bool:
    """Tell whether a mode that is not in force decides about no new connection, and stays for those that it carries."""
    from pointsman.dataplane.leftovers import proxy_is_empty  # noqa: PLC0415 (as above)

    if mode == "userspace":
        return not held and proxy_is_empty()
    return mode == "ipvs" and bool(held) and not any(held.values())


def _held(opened: Callable[[], Dataplane]) -> Mapping[Frontend, tuple[Backend, ...]]:
    dataplane = opened()
    try:
        return read_held(dataplane)
    finally:
        dataplane.close()


def _show(found: Comparison, output: str) -> None:
    from pointsman.cli.diff_text import as_document, counted, lines  # noqa: PLC0415 (as above)

    report(found.problems)
    if output == "json":
        show_json(as_document(found))
        return
    for line, colour in lines(found):
        typer.echo(typer.style(line, fg=colour) if colour and sys.stdout.isatty() else line)
    for note in found.notes:
        typer.echo(f"pointsman diff: {note}", err=True)
    if found.in_force:
        typer.echo(f"in force: {counted(found.frontends)}, mode {found.mode}", err=True)
