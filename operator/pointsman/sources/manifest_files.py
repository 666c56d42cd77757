"""Reading a directory of manifests, and what is in force when a file is broken; blocks, knows no time.

What counts as a manifest: regular files (and links to them) that end in ``.yaml``, ``.yml`` or ``.json``, in the
directory and below it. Names that start with a dot or end as editors' backups do are left out, which also leaves out
``..data`` of a mounted ConfigMap: its files are read once, through the links beside it.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.model.parse import Object, key_of, parse
from pointsman.model.problems import Problem
from pointsman.sources.claims import Claims
from pointsman.sources.file_names import shown
from pointsman.sources.protocol import Batch, Change, SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from pointsman.model.objects import ObjectKey
    from pointsman.model.parse import Parsed

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_RACY_NS: Final = 100_000_000
"""A file written within this time of our reading may be written again under the same time stamp; the kernel's
clock for files is coarse (4 to 10 ms, inode_set_ctime_current)."""

_WHOLE: Final = frozenset({"the object", "this document"})
"""What problems say is left out when it is an object as a whole, not one address in it."""

Identity = tuple[int, int]
"""Device and inode."""
_Signature = tuple[int, int, int, int]


class _File(msgspec.Struct, frozen=True):
    """What is known of a file: device, inode, size and time (None: read it again), and what is wrong with it."""

    signature: _Signature | None
    problems: tuple[Problem, ...] = ()


class ManifestFiles:
    """The manifests below one directory.

    Attributes:
        directories: the directories seen by the last scan; when these change, they must be watched anew.
    """

    def __init__(self, directory: Path) -> None:
        self._root = os.fspath(directory)
        self._known: dict[str, _File] = {}
        self._claims = Claims()
        self._problems: tuple[Problem, ...] | None = None
        self.directories: frozenset[Identity] = frozenset()

    def scan(self) -> Batch | None:
        """Look at every file, and read those that are new or changed.

        Returns:
            What changed since the last call of `scan` or `update`, None for nothing; the first time always a batch.

        Raises:
            SourceError: the directory cannot be read, and never could. One that goes away later is a problem, and
                what it said stays in force.
        """
        try:
            found, directories = _walk(self._root)
        except OSError as error:
            if self._problems is None:
                raise SourceError(_unreadable(self._root, error)) from error
            return self._batch([], error)
        self.directories = directories
        changes: list[Change] = []
        for name in self._known.keys() - found.keys():
            changes += self._forget(name)
        for name in sorted(found):
            known = self._known.get(name)
            if known is None or known.signature is None or known.signature != _signature(found[name]):
                changes += self._read(name)
        return self._batch(changes)

    def update(self, paths: Collection[str]) -> Batch | None:
        """Read files again of which it is known that they changed.

        Args:
            paths: as the watch names them. One that is no manifest of ours (a directory, a link to one, a file in
                a hidden directory) may mean anything, and leads to a look at every file.

        Returns:
            As `scan`.
        """
        names = [os.path.relpath(path, self._root) for path in paths]
        isdir = os.path.isdir
        if not all(map(_is_ours, names)) or not isdir(self._root) or any(map(isdir, paths)):
            return self.scan()
        changes: list[Change] = []
        for name in sorted(names):
            changes += self._read(name)
        return self._batch(changes)

    def _read(self, name: str) -> list[Change]:
        path = os.path.join(self._root, name)  # noqa: PTH118 (10,000 files: pathlib costs ten times as much)
        try:
            with open(path, "rb", opener=_open_nonblocking) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return self._forget(name)
                parsed = _parse(file.read(), path)
        except IsADirectoryError:
            return self._forget(name)
        except OSError as error:
            if not os.path.lexists(path):
                return self._forget(name)
            self._known[name] = _File(None, (_unread(path, error),))
            return []
        self._known[name] = _File(_signature(status), parsed.problems)
        return self._claims.replace(path, _in_force(self._claims.of(path), parsed))

    def _forget(self, name: str) -> list[Change]:
        self._known.pop(name, None)
        path = os.path.join(self._root, name)  # noqa: PTH118 (as above)
        return self._claims.replace(path, {}) if self._claims.of(path) else []

    def _batch(self, changes: list[Change], lost: OSError | None = None) -> Batch | None:
        problems = [problem for name in sorted(self._known) for problem in self._known[name].problems]
        problems += self._claims.conflicts()
        if lost is not None:
            problems.append(_gone(self._root, lost))
        before, self._problems = self._problems, tuple(problems)
        if before == self._problems and not changes:
            return None
        return Batch(tuple(changes), problems=self._problems)


def _is_manifest(name: str) -> bool:
    return name.endswith(_SUFFIXES) and not name.startswith((".", "#", "~"))


def _is_ours(relative: str) -> bool:
    *directories, name = relative.split("/")
    return _is_manifest(name) and not any(part.startswith(".") for part in directories)


def _open_nonblocking(path: str, flags: int) -> int:
    # A named pipe must not stop the agent; for regular files the flag means nothing.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _walk(root: str) -> tuple[dict[str, os.stat_result], frozenset[Identity]]:
    """Return the manifests below `root` by their relative names, and the directories; follows links, never round."""
    files: dict[str, os.stat_result] = {}
    seen: set[Identity] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        directory = os.path.join(root, prefix) if prefix else root  # noqa: PTH118 (as in _read)
        try:
            status = os.stat(directory)  # noqa: PTH116 (as in _read)
            if (identity := (status.st_dev, status.st_ino)) in seen:
                continue
            entries = sorted(_entries(directory))
        except OSError:
            if not prefix:
                raise
            continue  # a directory below that went away meanwhile, or that we may not read
        seen.add(identity)
        for name, entry in entries:
            if stat.S_ISDIR(entry.st_mode):
                waiting.append(f"{prefix}{name}/")
            elif _is_manifest(name):
                files[prefix + name] = entry
    return files, frozenset(seen)


def _entries(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """List the entries that may matter: no hidden ones, no pipes and sockets; a dangling link counts as itself."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError:
                status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                yield entry.name, status


def _signature(status: os.stat_result) -> _Signature | None:
    if time.time_ns() - status.st_mtime_ns < _RACY_NS:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _parse(data: bytes, path: str) -> Parsed:
    name = shown(path)
    parsed = parse(data, name)
    if data.strip():
        return parsed
    # Writing in place empties a file first. An empty file therefore says nothing, not "no objects".
    problem = Problem(
        source=name,
        object="",
        field="",
        message="the file is empty",
        remedy="delete the file when its objects shall go",
        dropped="the file's changes",
    )
    return msgspec.structs.replace(parsed, problems=(*parsed.problems, problem), broken=True)


def _in_force(old: Mapping[ObjectKey, Object], parsed: Parsed) -> dict[ObjectKey, Object]:
    """Return what a file says, with the last good form of what is broken in it now."""
    if parsed.broken:
        return dict(old)
    new = {key_of(obj): obj for obj in parsed.objects}
    lost = {problem.object for problem in parsed.problems if problem.dropped in _WHOLE}
    if not old or not (lost or parsed.rejected):
        return new
    rejected = set(parsed.rejected).union(key for key in old if str(key) in lost)
    # A part of which nobody can say which object it is may be any of those that are missing.
    unknown = lost - {str(key) for key in rejected}
    return {key: obj for key, obj in old.items() if key not in new and (unknown or key in rejected)} | new


def _unreadable(root: str, error: OSError) -> str:
    return f"--manifests {shown(root)}: cannot read the directory ({error.strerror}); create it, or name another one"


def _gone(root: str, error: OSError) -> Problem:
    return Problem(
        source=shown(root),
        object="",
        field="",
        message=f"cannot read the directory any more ({error.strerror}); all of its objects stay in force",
        remedy="put the directory back; its files are then read again",
        dropped="the directory's changes",
    )


def _unread(path: str, error: OSError) -> Problem:
    return Problem(
        source=shown(path),
        object="",
        field="",
        message=f"cannot read the file ({error.strerror})",
        remedy="make it readable for the agent, or delete it",
        dropped="the file's changes",
    )
