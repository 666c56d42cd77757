"""The log of a process: lines for people or for machines, and each problem told once."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.model.problems import Problem

LogFormat = Literal["text", "json"]
_LOG: Final = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: time (RFC 3339, UTC), level, logger, message, and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record on one line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


def configure(log_format: LogFormat, *, verbose: bool) -> None:
    """Send the log of this process to standard error; `verbose` adds what is of use for finding faults."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class ProblemLog:
    """Logs a problem once when it appears, and once when it is gone, for several places where problems come from."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[Problem]] = {}

    def update(self, origin: str, problems: Iterable[Problem]) -> None:
        """Take all problems that there are now at `origin`."""
        now = frozenset(problems)
        before = self._known.get(origin, frozenset())
        self._known[origin] = now
        for problem in sorted(now - before):
            _LOG.warning("%s", problem)
        for problem in sorted(before - now):
            _LOG.info("no longer: %s", problem)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that there are now, each once, sorted."""
        return tuple(sorted({problem for problems in self._known.values() for problem in problems}))
