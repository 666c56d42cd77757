"""What people are told of a sync: one line, and a problem for each part that the kernel refused."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

from pointsman.model.problems import Problem

if TYPE_CHECKING:
    from pointsman.agent.outcome import Outcome
    from pointsman.agent.pacing import Why

_LOG: Final = logging.getLogger(__name__)
_CAUSES: Final = (
    (errno.EPERM, "the agent needs CAP_NET_ADMIN, and no other program may own its tables (flags owner)"),
    (errno.EAFNOSUPPORT, "the kernel needs nf_tables for this IP version"),
    (errno.EPFNOSUPPORT, "the kernel needs nf_tables for this IP version"),
    (errno.ENOMEM, "the node needs more free memory"),
    (errno.ENOBUFS, "the node needs more free memory"),
    (errno.EBUSY, "another program may refer to the same tables, or change them"),
    (errno.EEXIST, "another program may be changing the same tables"),
    (errno.ENOENT, "another program may be changing the same tables, or the kernel lacks a module"),
)
"""What is likely behind an error of the kernel; it is told for those alone, as a wrong guess misleads."""


def log_sync(outcome: Outcome, why: Why) -> None:
    """Log a sync that the kernel took: a full one always, one of changes for those who want to know (``-v``).

    Args:
        outcome: of the sync.
        why: why it was a full one, if it was, and no other mode came in force.
    """
    written, facts = outcome.written, outcome.facts
    if written is None:
        return
    reason = "another mode came in force" if outcome.switched else why
    _LOG.log(
        _level(reason) if outcome.full else logging.DEBUG,
        "%s in %.1f ms: %d elements added, %d removed; now %d Services, %d ports, %d endpoints (mode %s)%s",
        "full sync" if outcome.full else "sync", outcome.seconds * 1000, written.added, written.removed,
        facts.counts.services, facts.counts.service_ports, facts.counts.endpoints, facts.mode,
        f"; why: {reason}" if outcome.full else "",
    )  # fmt: skip


def _level(why: str) -> int:
    return logging.WARNING if why == "another program changed the tables" else logging.INFO


def refusals(outcome: Outcome) -> list[Problem]:
    """Say what the kernel did not take of a sync."""
    if outcome.written is None:
        return [_refusal("", outcome.error, "the sync; what the kernel held before stays in force")]
    return [_refusal(part, why, "this part of the sync") for part, why in outcome.written.refused.items()]


def _refusal(part: str, why: str, dropped: str) -> Problem:
    return Problem(
        source="kernel",
        object=part,
        field="",
        message=why,
        remedy=_remedy(why),
        dropped=dropped,
    )


def _remedy(why: str) -> str:
    # The dataplane's message ends in the kernel's words; the number behind them is not handed on.
    causes = [cause for number, cause in _CAUSES if os.strerror(number) in why]
    return "it is tried again" + (f"; if it stays: {causes[0]}" if causes else "")
