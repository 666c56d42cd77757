"""What every source of objects offers to the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from pointsman.model.objects import Kind, ObjectKey
from pointsman.model.parse import Object
from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Change(msgspec.Struct, frozen=True):
    """One object that came, changed, or went (`obj` is None)."""

    key: ObjectKey
    obj: Object | None


class Batch(msgspec.Struct, frozen=True):
    """Changes that belong together.

    Attributes:
        changes: in order; the last one for a key counts.
        complete: with this batch the source has told everything that it had at its start.
        problems: everything that is wrong in the source now (not only what is new), or None for "as before".
        versions: the newest resourceVersion that the source has told of, by kind, as of this batch; for kinds that
            have news. Sources without an API server have none.
    """

    changes: tuple[Change, ...]
    complete: bool = True
    problems: tuple[Problem, ...] | None = None
    versions: Mapping[Kind, int] = {}


class Source(Protocol):
    """Where objects come from: a directory of manifests, or an API server."""

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then every change, until cancelled.

        Raises:
            SourceError: the source cannot go on (its directory is gone, access is refused).
        """
        ...


class SourceError(Exception):
    """The source cannot go on; the message says why and what to do."""
