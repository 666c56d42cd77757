"""What a clean-up found and removed, as text for people and as a document for programs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.dataplane.leftovers import Leftover

_MOST: Final = 20
"""So many names are written out; programs get all."""
_HASHED: Final = re.compile(r"(KUBE-[A-Z]+-)[A-Z2-7]{16}")
"""The chain of one Service or endpoint: only how many there are is of interest."""


@dataclass(frozen=True, slots=True)
class Section:
    """What one owner (a mode of ours, or kube-proxy) had in the kernel."""

    owner: str
    found: tuple[Leftover, ...] = ()

    @property
    def removed(self) -> tuple[Leftover, ...]:
        """What is gone, or would be."""
        return tuple(each for each in self.found if not each.kept)

    @property
    def kept(self) -> tuple[Leftover, ...]:
        """What stays."""
        return tuple(each for each in self.found if each.kept)


@dataclass(slots=True)
class Report:
    """All of it.

    Attributes:
        dry_run: nothing was removed.
        complete: everything was looked at.
        sections: what was looked at by then.
    """

    dry_run: bool = False
    complete: bool = False
    sections: list[Section] = field(default_factory=list)


def text(report: Report) -> str:
    """Write a report, one thing a line."""
    return "".join(f"{line}\n" for line in _lines(report))


def as_document(report: Report) -> dict[str, object]:
    """Write a report for programs."""
    return {
        "dryRun": report.dry_run,
        "removed": {section.owner: section.removed for section in report.sections if section.removed},
        "kept": {section.owner: section.kept for section in report.sections if section.kept},
    }


def _lines(report: Report) -> Iterator[str]:
    if report.complete and not any(section.found for section in report.sections):
        yield "nothing to remove"
    for section in report.sections:
        if section.removed:
            yield f"{section.owner}: {'would remove' if report.dry_run else 'removed'}"
            yield from (f"  {_line(each)}" for each in section.removed)
        if section.kept:
            yield f"{section.owner}: left alone"
            yield from (f"  {_line(each)}: {each.kept}" for each in section.kept)


def _line(each: Leftover) -> str:
    where = f"{each.kind} of {each.name}" if each.members and each.name else f"{each.kind} {each.name}".strip()
    members = f": {_listed(each.members)}" if each.members else ""
    return f"{where}{members}" + (f" ({each.detail})" if each.detail else "")


def _listed(members: Iterable[str]) -> str:
    counts = Counter(_HASHED.sub(r"\1…", name) for name in members)
    names = [f"{count:,} {name}" if name.endswith("…") else name for name, count in counts.items()]
    hidden = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {hidden:,} more (-o json has all)" if hidden > 0 else "")
