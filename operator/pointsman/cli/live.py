"""What the agent of this node knows, for commands that look at its kernel: the objects, the plan, the mode in force."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from pointsman.cli.access import access_of
from pointsman.cli.loading import LoadError, config_of, problems_of, put_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pointsman.agent.outcome import Kernel
    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane, Support
    from pointsman.model.plan import Backend, Frontend
    from pointsman.model.problems import Problem
    from pointsman.policy.planner import Planner
    from pointsman.sources.apiserver.access import Access

_READS: Final = 5
"""So often is a kernel read whose tables change meanwhile."""

OptionalFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--filename",
        "-f",
        metavar="FILE",
        help="Manifest (YAML or JSON), directory of them, or - for standard input, in place of an API server.",
    ),
]
ModeName = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="The mode in force; without it the one that the agent reports, or the one that it would choose.",
        show_default=False,
    ),
]


class Live(NamedTuple):
    """What is known of this node.

    Attributes:
        planner: with all objects, and the plan for the mode in force.
        mode: the one in force.
        kernel: the way to the node's kernel.
        problems: everything that is wrong with the objects.
    """

    planner: Planner
    mode: Mode
    kernel: Kernel
    problems: tuple[Problem, ...]


class Origin(NamedTuple):
    """Where objects come from: files, or an API server that has so many seconds to answer."""

    files: Sequence[Path]
    access: Access | None
    timeout: float


def origin_of(
    files: Sequence[Path],
    kubeconfig: Path | None,
    context: str | None,
    server: str | None,
    *,
    in_cluster: bool,
    timeout: float,
) -> Origin:
    """Put the options together.

    Raises:
        typer.BadParameter: they do not name one source of objects.
    """
    if not files:
        if kubeconfig is None and not in_cluster:
            raise typer.BadParameter("name one source of objects: -f FILE, --kubeconfig FILE or --in-cluster")
        return Origin((), access_of(kubeconfig, context, server, in_cluster=in_cluster), timeout)
    if in_cluster or any(option is not None for option in (kubeconfig, context, server)):
        raise typer.BadParameter("-f is in place of an API server; leave out one of the two")
    return Origin(files, None, timeout)


def look(origin: Origin, node_name: str, config: Path | None, mode: str) -> Live:
    """Read the objects as the agent does, and plan for the mode in force on this node.

    Args:
        origin: where objects come from.
        node_name: this node.
        config: file with the ProxyConfig to use until the node has a NodeProxy, or None.
        mode: the mode in force; "" for the one that the node's agent reports in its NodeProxy, or else the one that
            it would choose.

    Raises:
        LoadError: objects cannot be read, or the mode does not work here.
    """
    from pointsman.agent.entry_points import find_own  # noqa: PLC0415 (`--help` needs none of it)
    from pointsman.agent.kernel import real_kernel  # noqa: PLC0415 (as above)
    from pointsman.dataplane.node_addresses import node_addresses  # noqa: PLC0415 (as above)
    from pointsman.policy.planner import Planner  # noqa: PLC0415 (as above)

    own = find_own()
    planner = Planner(
        node_name,
        config=config_of(config) if config is not None else None,
        addresses=node_addresses(),
        own_schedulers=own.schedulers,
    )
    found = put_files(planner, origin.files) if origin.access is None else _put_cluster(planner, origin)
    kernel = real_kernel(own=own.dataplanes)
    planner.resolve()
    in_force, schedulers = _in_force(planner, kernel, mode)
    planner.use(in_force, schedulers)
    planner.take()
    return Live(planner, in_force, kernel, (*own.problems, *found, *problems_of(planner, mode)))


def read_held(dataplane: Dataplane) -> Mapping[Frontend, tuple[Backend, ...]]:
    """Read what the kernel holds, anew when its tables change meanwhile.

    Raises:
        DataplaneError, OSError: it can't be read.
    """
    for _ in range(_READS - 1):
        try:
            return dataplane.read()
        except InterruptedError:
            continue
    return dataplane.read()


def _put_cluster(planner: Planner, origin: Origin) -> tuple[Problem, ...]:
    from pointsman.sources.protocol import SourceError  # noqa: PLC0415 (as above)

    problems: list[Problem] = []
    try:
        asyncio.run(_read_cluster(planner, origin, problems))
    except TimeoutError as error:
        why = "; ".join(map(str, problems)) or "look whether it is the right one, or raise --timeout"
        raise LoadError(f"the API server did not tell all in {origin.timeout:g} s: {why}") from error
    except SourceError as error:
        raise LoadError(str(error)) from error
    return tuple(problems)


async def _read_cluster(planner: Planner, origin: Origin, problems: list[Problem]) -> None:
    """Take in everything that there is; `problems` gets what is wrong, up to the end."""
    from pointsman.sources.apiserver.client import connect  # noqa: PLC0415 (as above)
    from pointsman.sources.apiserver.source import ApiServerSource  # noqa: PLC0415 (as above)

    if origin.access is None:
        return
    async with asyncio.timeout(origin.timeout), connect(origin.access) as client:
        async for batch in ApiServerSource(client, planner.cluster.node_name).batches():
            if batch.problems is not None:
                problems[:] = batch.problems
            for change in batch.changes:
                if change.obj is not None:
                    planner.put(change.obj)
            if batch.complete:
                return


def _in_force(planner: Planner, kernel: Kernel, mode: str) -> tuple[Mode, tuple[str, ...]]:
    """Return the mode in force and the schedulers that the node has there."""
    from pointsman.agent.modes import NoModeError, choose  # noqa: PLC0415 (as above)

    config, reported = planner.config, planner.node_proxy
    told = mode or (reported.status.mode if reported is not None else None)
    if told:
        if told not in kernel.dataplanes:
            raise LoadError(f"there is no mode {told!r} here; it is one of {', '.join(kernel.dataplanes)}")
        found = _support(kernel, told)
        if not found.available:
            raise LoadError(f"mode {told} does not work here: {found.reason}")
        return told, found.schedulers
    try:
        choice = choose(config.mode, config.fallback_modes_in_force(), lambda each: _support(kernel, each))
    except NoModeError as error:
        raise LoadError(str(error)) from error
    return choice.mode, choice.schedulers


def _support(kernel: Kernel, mode: Mode) -> Support:
    from pointsman.agent.modes import why_not_installed  # noqa: PLC0415 (as above)
    from pointsman.dataplane.protocol import DataplaneError, Support  # noqa: PLC0415 (as above)

    if mode not in kernel.dataplanes:
        return Support(available=False, reason=why_not_installed(mode))
    try:
        dataplane = kernel.dataplanes[mode]()
    except (DataplaneError, OSError) as error:
        return Support(available=False, reason=str(error))
    try:
        return dataplane.support()
    finally:
        dataplane.close()
