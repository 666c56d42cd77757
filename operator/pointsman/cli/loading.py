"""Reading manifests that are named on the command line, for commands that only look."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.api.names import Mode
    from pointsman.api.proxyconfig import NodeConfiguration
    from pointsman.model.parse import Object
    from pointsman.model.problems import Problem
    from pointsman.policy.planner import Planner

Files = Annotated[
    list[Path],
    typer.Option(
        "--filename", "-f", metavar="FILE", help="Manifest (YAML or JSON), directory of them, or - for standard input."
    ),
]
MoreFiles = Annotated[
    list[Path] | None, typer.Argument(metavar="FILE", help="More of them, so that -f *.yaml works.", show_default=False)
]


def node_name_of(text: str) -> str:
    """Refuse an empty name, as of a variable that is not set: no endpoint would count as this node's."""
    if not text.strip():
        raise typer.BadParameter("it is empty; write the name of the node's Node object")
    return text


NodeName = Annotated[str, typer.Option(metavar="NAME", help="Name of the node.", callback=node_name_of)]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the ProxyConfig to use, whatever the manifests have.")
]

_MODE = "spec.mode"
_SUFFIXES = (".yaml", ".yml", ".json")


class LoadError(Exception):
    """A file cannot be used at all; the message says which, why, and what to do."""


def load(
    files: Iterable[Path], node_name: str, config: Path | None, *, mode: Mode | None = None
) -> tuple[Planner, tuple[Problem, ...]]:
    """Read manifests and plan what they say for one node.

    Args:
        files: files, directories (with those below them), or ``-`` for standard input.
        node_name: the node.
        config: file with the ProxyConfig to use, or None for those among the manifests.
        mode: the dataplane to plan for; None for the one that the configuration asks for, on a node that has it.

    Returns:
        The planner, and everything that is wrong with the objects.

    Raises:
        LoadError: a file cannot be read, no file has an object, or `config` holds no valid ProxyConfig.
    """
    from pointsman.agent.entry_points import find_own  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.api.schedulers import schedulers_of  # noqa: PLC0415 (as above)
    from pointsman.policy.planner import Planner  # noqa: PLC0415 (as above)

    own = find_own()
    planner = Planner(
        node_name, config=config_of(config) if config is not None else None, own_schedulers=own.schedulers
    )
    problems = (*own.problems, *put_files(planner, files))
    planner.resolve()
    chosen = mode or planner.config.mode
    # What a mode of somebody's own has, only its node can say: all that is asked for is taken for good.
    planner.use(chosen, schedulers_of(chosen) or ("random", *sorted(planner.wanted_schedulers())))
    planner.take()
    return planner, (*problems, *problems_of(planner, mode))


def problems_of(planner: Planner, mode: str | None) -> tuple[Problem, ...]:
    """Return what is wrong with the objects; that a mode was named which nobody's configuration asks for is nothing.

    Args:
        planner: after `take`.
        mode: the mode that was named on the command line, or "" or None.
    """
    return tuple(problem for problem in planner.problems if not mode or problem.field != _MODE)


def put_files(planner: Planner, files: Iterable[Path]) -> tuple[Problem, ...]:
    """Read manifests into a planner; return everything that is wrong with them.

    Raises:
        LoadError: a file cannot be read, or no file has an object.
    """
    problems: list[Problem] = []
    empty = True
    for obj, found in _objects(files):
        problems += found
        if obj is not None:
            empty = False
            planner.put(obj)
    if empty:
        report(problems)
        raise LoadError("no object could be read from what -f names; name manifests of Services and EndpointSlices")
    return tuple(problems)


def config_of(path: Path) -> NodeConfiguration:
    """Read the file of `--config`.

    Raises:
        LoadError: it holds no valid ProxyConfig, or cannot be read.
    """
    from pointsman.agent.startup import AgentError, read_config  # noqa: PLC0415 (as above)

    try:
        return read_config(path)
    except AgentError as error:
        raise LoadError(str(error)) from error


def report(problems: Iterable[Problem]) -> None:
    """Write problems to standard error, one a line."""
    for problem in problems:
        typer.echo(f"pointsman: {problem}", err=True)


def _objects(files: Iterable[Path]) -> Iterator[tuple[Object | None, tuple[Problem, ...]]]:
    from pointsman.model.parse import parse  # noqa: PLC0415 (as above)
    from pointsman.sources.file_names import shown  # noqa: PLC0415 (as above)

    for path in _expand(files):
        parsed = parse(_bytes(path), shown(path))
        yield None, parsed.problems
        for obj in parsed.objects:
            yield obj, ()


def _expand(files: Iterable[Path]) -> Iterator[Path]:
    for path in files:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file() and not _hidden(p, path))
        if not found:
            raise LoadError(f"{path}: no manifest ({', '.join(_SUFFIXES)}) is in this directory")
        yield from found


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _bytes(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror}); name a manifest, a directory or -") from error
