"""The table's rows: what is measured, how often, and what it shall come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import admission
import operator_start
import workloads
from objects import Size

if TYPE_CHECKING:
    from collections.abc import Callable


class Target(NamedTuple):
    """A number that is judged: at most `limit`, or at least with `at_least`."""

    key: str
    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Tell whether a measured value is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


class Row(NamedTuple):
    """One measurement.

    Attributes:
        name: how the command line calls it.
        work: how the table calls it.
        run: measures; True for a tenth of the work.
        targets: what is judged.
        repeats: in so many fresh processes; the median of each number counts.
    """

    name: str
    work: str
    run: Callable[[bool], workloads.Numbers]
    targets: tuple[Target, ...]
    repeats: int = 3


def _scaled(size: Size, *, quick: bool) -> Size:
    return Size(size.services // 10, size.endpoints) if quick else size


def _cold(name: str, size: Size, seconds: float, mebibytes: float | None = None) -> Row:
    targets = [Target("seconds", seconds)]
    if mebibytes is not None:
        targets += [Target("MiB", mebibytes), Target("MiB peak", mebibytes)]
    return Row(
        name,
        f"cold start, process start to everything programmed: {size}",
        lambda quick: workloads.cold(_scaled(size, quick=quick)),
        tuple(targets),
    )


_LARGE: Final = Size(44_125, 1)
_COMMON: Final = Size(10_000, 2)
_WIDE: Final = Size(10_000, 10)

ROWS: Final = (
    _cold("cold-10000x2", _COMMON, 2.5, 120),
    _cold("cold-10000x10", _WIDE, 5),
    _cold("cold-44125x1", _LARGE, 6, 250),
    _cold("cold-5000x50", Size(5_000, 50), 12, 500),
    Row(
        "change",
        f"one endpoint changed, slice as JSON to kernel: {_LARGE}",
        lambda quick: workloads.one_change(_scaled(_LARGE, quick=quick), 60 if quick else 600),
        (Target("p50 ms", 3), Target("p99 ms", 20)),
    ),
    Row(
        "held",
        f"changes held on one core: {_COMMON}",
        lambda quick: workloads.held_changes(_scaled(_COMMON, quick=quick), 1 if quick else 5),
        (Target("changes/s", 1000, at_least=True),),
    ),
    Row(
        "restart",
        f"restart with nothing to change: {_WIDE}",
        lambda quick: workloads.restart(_scaled(_WIDE, quick=quick)),
        (Target("seconds", 4), Target("elements written", 0)),
    ),
    Row(
        "connect",
        f"connect through a Service, against direct, in turns: {_COMMON}",
        lambda quick: workloads.connects(_scaled(_COMMON, quick=quick), 500 if quick else 5000),
        (Target("ratio", 1.10),),
    ),
    Row(
        "admission",
        "review of a Service by the webhook, over TLS on loopback: 10,000 Services with node ports",
        lambda quick: admission.reviews(1_000 if quick else 10_000, 500 if quick else 5_000),
        (Target("p50 ms", 5), Target("p99 ms", 20)),
    ),
    Row(
        "operator",
        f"the operator's start on a real API server, process start to a complete picture: {_COMMON}",
        lambda quick: operator_start.start(1_000 if quick else 10_000, 2),
        (Target("seconds", 15), Target("MiB", 300), Target("MiB peak", 300)),
    ),
)
BY_NAME: Final = {row.name: row for row in ROWS}
