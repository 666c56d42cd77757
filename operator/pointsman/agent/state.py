"""The last NodeProxy, kept in a file: a node that starts while no API server answers does what it did before."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import msgspec
import pydantic

from pointsman.api.errors import validation_problems
from pointsman.api.names import API_VERSION
from pointsman.api.nodeproxy import NodeProxy
from pointsman.api.status import NodeProxyStatus
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pointsman.process.clock import Clock

FILE_NAME: Final = "node-proxy.json"
_DRAFT_NAME: Final = f".{FILE_NAME}.new"
_RETRY: Final = 30.0
"""Seconds until a file that could not be written is tried again."""


class StateError(Exception):
    """A state directory cannot be used as it is; `problem` says why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def load(directory: Path, node_name: str) -> NodeProxy | None:
    """Read what an earlier agent kept.

    Args:
        directory: of ``--state-dir``.
        node_name: this node's name; what was kept for another one is of no use here.

    Returns:
        The NodeProxy without its status, or None when none was kept.

    Raises:
        StateError: the directory or the file cannot be read, or does not hold what it should.
    """
    file = directory / FILE_NAME
    try:
        kept = NodeProxy.read(msgspec.json.decode(file.read_bytes()))
    except FileNotFoundError as error:
        _prepare(directory, error)
        return None
    except OSError as error:
        raise StateError(_unusable(file, f"cannot be read ({error.strerror})", "let the agent read it")) from error
    except pydantic.ValidationError as error:
        wrong = "; ".join(map(str, validation_problems(error)))
        raise StateError(_broken(file, f"is no NodeProxy: {wrong}")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(_broken(file, f"is not valid JSON: {error}")) from error
    if kept.name != node_name:
        raise StateError(_broken(file, f"is of node {kept.name}, this node is {node_name}"))
    return without_status(kept)


def _prepare(directory: Path, missing: FileNotFoundError) -> None:
    """Make the directory of a node's first start."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        said = f"cannot be made ({error.strerror})"
        raise StateError(_unusable(directory, said, "create it, or name another one")) from missing


def save(directory: Path, node_proxy: NodeProxy) -> None:
    """Keep a NodeProxy, so that a crash at any moment leaves the old file or the new one; blocks on the disk.

    Raises:
        OSError: it cannot be written.
    """
    draft = directory / _DRAFT_NAME
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as opened:
        os.fchmod(opened.fileno(), 0o600)
        opened.write(_document(node_proxy))
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(directory / FILE_NAME)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget(directory: Path) -> None:
    """Remove what was kept; blocks on the disk.

    Raises:
        OSError: it cannot be removed.
    """
    for name in (FILE_NAME, _DRAFT_NAME):
        (directory / name).unlink(missing_ok=True)


def without_status(node_proxy: NodeProxy) -> NodeProxy:
    """Leave out what is no configuration: two forms that differ in nothing else are then equal."""
    return node_proxy.model_copy(update={"status": NodeProxyStatus()})


class StateKeeper:
    """Writes the file whenever another NodeProxy is in force.

    Args:
        directory: of ``--state-dir``.
        kept: what the file holds.
        on_problems: told what is wrong with the directory now, if anything.
        clock: time.
    """

    def __init__(
        self,
        directory: Path,
        kept: NodeProxy | None,
        on_problems: Callable[[tuple[Problem, ...]], None],
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._kept = kept
        self._wanted = kept
        self._on_problems = on_problems
        self._clock = clock
        self._wake = asyncio.Event()

    def keep(self, node_proxy: NodeProxy | None) -> None:
        """Keep what is in force; returns at once. None, and what is kept already, changes nothing."""
        if node_proxy is not None and node_proxy != self._wanted:
            self._wanted = node_proxy
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; what cannot be written is tried again."""
        while True:
            await self._clock.wait(self._wake, None if self._kept == self._wanted else _RETRY)
            self._wake.clear()
            await self._write()

    async def _write(self) -> None:
        wanted = self._wanted
        if wanted is None or wanted == self._kept:
            return
        try:
            await asyncio.to_thread(save, self._directory, wanted)
        except OSError as error:
            message, remedy = f"cannot be written ({error.strerror})", "create it, and let the agent write there"
            self._on_problems((_unusable(self._directory, message, remedy),))
        else:
            self._kept = wanted
            self._on_problems(())


def _document(node_proxy: NodeProxy) -> bytes:
    metadata = {"name": node_proxy.name, "generation": node_proxy.generation, "uid": node_proxy.uid}
    spec = node_proxy.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    document = {"apiVersion": API_VERSION, "kind": "NodeProxy", "metadata": metadata, "spec": spec}
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _unusable(path: Path, message: str, remedy: str) -> Problem:
    return Problem(
        source="--state-dir",
        object=str(path),
        field="",
        message=message,
        remedy=f"{remedy}, or leave --state-dir out",
        dropped="the configuration for a start without the API server",
    )


def _broken(file: Path, message: str) -> Problem:
    return Problem(
        source="--state-dir",
        object=str(file),
        field="",
        message=message,
        remedy="it is written anew when the API server tells of a NodeProxy; delete it to be rid of this message",
        dropped="the file",
    )
