"""A directory of manifests as a source of objects."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, Self

from pointsman.sources.manifest_files import ManifestFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from watchfiles._rust_notify import RustNotify

    from pointsman.sources.protocol import Batch

_STEP_MS: Final = 20
"""Events are gathered until none comes for this long: long enough for a file that is written in place, short enough
for nobody to notice, and at a cost of less than half a percent of a core."""
_GATHER_MS: Final = 50
"""Events are gathered for this long at most, so that a busy directory is read all the same."""
_GLANCE_MS: Final = 500
"""How often to see whether the directory itself is still the same one."""
_RESCAN: Final = 30.0
"""Seconds between two looks at every file, for what inotify does not tell: network file systems, targets of
links outside of the directory, events that were lost."""


class ManifestSource:
    """Follows the manifests in a directory and below it (see `pointsman.sources.manifest_files`).

    The first batch is all that is there. Files may be written in place or renamed in, directories may be links that
    are exchanged, as the kubelet does with ConfigMaps. A broken file or object keeps its last good form in force and
    is told as a problem until it is mended.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then every change, until cancelled.

        Raises:
            SourceError: the directory cannot be read at the start.
        """
        files = ManifestFiles(self._directory)
        first = await asyncio.to_thread(files.scan)
        if first is not None:
            yield first
        while True:
            async with _Watch(self._directory) as watch, aclosing(_follow(files, watch)) as batches:
                async for batch in batches:
                    yield batch
            # Here the directory is missing, other directories have to be watched, or the watch failed.
            if not watch.works:
                await asyncio.sleep(_GLANCE_MS / 1000)


async def _follow(files: ManifestFiles, watch: _Watch) -> AsyncGenerator[Batch]:
    """Tell changes for as long as `watch` watches the right directories; begins with a look at every file."""
    watched = files.directories
    loop = asyncio.get_running_loop()
    paths: list[str] = []
    scanned = -math.inf
    while True:
        batch = None
        if loop.time() - scanned >= _RESCAN:
            scanned = loop.time()
            batch = await asyncio.to_thread(files.scan)
        elif paths:
            batch = await asyncio.to_thread(files.update, paths)
        if batch is not None:
            yield batch
        if not watch.works or files.directories != watched or watch.moved():
            return
        paths = await watch.events()


class _Watch:
    """Watches one directory and all below it with inotify, in a thread.

    Attributes:
        works: the directory was there when the watch began, and the watch has not failed since.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._identity = _identity(directory)
        self._notify: RustNotify | None = None
        self.works = False

    async def __aenter__(self) -> Self:
        self._notify = await asyncio.to_thread(self._begin)
        self.works = self._notify is not None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._notify is not None:
            self._notify.close()

    async def events(self) -> list[str]:
        """Wait for events, for half a second at most.

        Returns:
            The paths that they name; none when the time is over, or when the watch failed and does not work any more.
        """
        assert self._notify is not None  # noqa: S101 (for the type checker; `works` says so)
        waiting = asyncio.get_running_loop().run_in_executor(None, self._wait, self._notify)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._stop.set()
            await waiting
            raise

    def moved(self) -> bool:
        """Tell whether the directory is not the one any more that is watched."""
        return _identity(self._directory) != self._identity

    def _begin(self) -> RustNotify | None:
        # Imported here: 80 ms that nobody has to wait for before the first sync.
        from watchfiles._rust_notify import (  # noqa: PLC0415 (as the comment says)
            RustNotify,
            WatchfilesRustInternalError,
        )

        try:
            return RustNotify([os.fspath(self._directory)], False, False, 0, True, True)  # noqa: FBT003 (its signature)
        except (OSError, UnicodeEncodeError, WatchfilesRustInternalError):
            return None

    def _wait(self, notify: RustNotify) -> list[str]:
        from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415 (as above)

        found: set[tuple[int, str]] | Literal["signal", "stop", "timeout"]
        try:
            found = notify.watch(_GATHER_MS, _STEP_MS, _GLANCE_MS, self._stop)
        except (OSError, WatchfilesRustInternalError):
            # An event with a name that is not UTF-8, for one. It raises this from now on, and the other events are
            # lost: the next watch begins with a look at every file.
            self.works = False
            return []
        return [] if isinstance(found, str) else [path for _, path in found]


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
