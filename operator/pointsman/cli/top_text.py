"""A frame of ``pointsman top``, laid out for a terminal or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pointsman.cli.top_rows import BackendTraffic, ServiceTraffic
from pointsman.model.address import joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pointsman.cli.top_rows import Frame

_FEWEST: Final = 3
"""So many backends of a Service are shown at least, before Services are left out."""
_BESIDE: Final = 3
"""Lines beside the table's rows: the first one, the headings, and the one that says what is left out."""
_BAR: Final = 10
_PARTS: Final = "▏▎▍▌▋▊▉█"
_SHORTEST_BAR: Final = 6
_NARROW: Final = 80


class Shown(msgspec.Struct, frozen=True):
    """What of a Service is shown: its backends, and how many are not."""

    service: ServiceTraffic
    backends: tuple[BackendTraffic, ...]
    left: int = 0


class Cut(msgspec.Struct, frozen=True):
    """What of a frame is shown, and how many Services are not."""

    services: tuple[Shown, ...]
    left: int = 0


def fit(services: tuple[ServiceTraffic, ...], rows: int | None) -> Cut:
    """Choose what is shown in so many rows; None means all.

    A Service takes a row, and one for each backend. Backends are left out first, down to a few; then Services.
    """
    needed = sum(1 + len(service.backends) for service in services)
    if rows is None or needed <= rows:
        return Cut(tuple(Shown(service, service.backends) for service in services))
    most = max(_FEWEST, rows // max(len(services), 1) - 2)
    shown: list[Shown] = []
    room = rows
    for service in services:
        one = _within(service, min(most, room - 1))
        room -= 1 + len(one.backends) + bool(one.left)
        if room < 0:
            break
        shown.append(one)
    return Cut(tuple(shown), len(services) - len(shown))


def _within(service: ServiceTraffic, most: int) -> Shown:
    """Show all backends of a Service by their addresses, or the busiest ones in so many rows, one less than that."""
    if len(service.backends) <= most:
        return Shown(service, service.backends)
    busiest = sorted(service.backends, key=lambda each: (-(each.rate or 0.0), -each.connections, each.address))
    kept = tuple(busiest[: max(most - 1, 0)])
    return Shown(service, kept, len(service.backends) - len(kept))


def lay_out(frame: Frame, console: Console, *, note: str = "") -> RenderableType:
    """Lay a frame out for a console: on a terminal cut to its height, else as it is.

    Args:
        frame: what is shown.
        console: where.
        note: what stands in the first line besides, as that the agent does not answer any more.
    """
    on_terminal = console.is_terminal
    cut = fit(frame.services, console.height - _BESIDE if on_terminal else None)
    lines: list[RenderableType] = [_headline(frame, note)]
    if frame.services:
        lines.append(_table(frame, cut, console))
    else:
        lines.append(Text("no Service of that name is served on this node", "dim"))
    if cut.left or any(shown.left for shown in cut.services):
        lines.append(_left_out(cut))
    return Group(*lines)


def _headline(frame: Frame, note: str) -> Text:
    time = f"{frame.time[11:19]} UTC"
    many = f"{len(frame.services):,} Service port{'s' * (len(frame.services) != 1)}"
    facts = [frame.mode, time, many]
    if frame.seconds:
        facts.append(f"{speed(frame.rate)} connections/s")
    line = Text.assemble((frame.node, "bold"), "  ", "  ".join(facts), no_wrap=True, overflow="ellipsis")
    return line.append(f"  {note}", "bold red") if note else line


def _left_out(cut: Cut) -> Text:
    backends = sum(shown.left for shown in cut.services)
    parts = [f"{number:,} {word}" for number, word in ((cut.left, "Service ports"), (backends, "backends")) if number]
    words = f"{' and '.join(parts)} more (--service, --namespace, --sort)"
    return Text(words, "dim", no_wrap=True, overflow="ellipsis")


def _table(frame: Frame, cut: Cut, console: Console) -> Table:
    on_terminal = console.is_terminal
    with_open = any(service.active is not None for service in frame.services)
    width = console.width if on_terminal else _NARROW
    headings = {"CONNS": 7, "RATE/S": 7} | ({"ACTIVE": 6, "INACT": 6} if with_open else {})
    longest = max(_SHORTEST_BAR, min(width - _NARROW + (_SHORTEST_BAR if with_open else _BAR), 2 * _BAR))
    bars = _Bars(longest, plain=not on_terminal or console.options.ascii_only)
    room = width - sum(headings.values()) - 2 * len(headings) - bars.width - 7
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=on_terminal)
    table.add_column("SERVICE, BACKENDS", no_wrap=True, overflow="ellipsis", ratio=1 if on_terminal else None)
    for heading, characters in headings.items():
        table.add_column(heading, justify="right", no_wrap=True, min_width=characters)
    table.add_column("SHARE", no_wrap=True, min_width=bars.width + 5)
    for shown in cut.services:
        for name, share, *numbers in _rows(shown, bars, room):
            table.add_row(name, *numbers[: len(headings)], share)
    return table


def _rows(shown: Shown, bars: _Bars, room: int) -> Iterator[tuple[Text, ...]]:
    """Return rows: name, share, and numbers."""
    service = shown.service
    name, address = Text(service.title, "bold"), _address(service)
    if len(name) + len(address) + 2 <= room:
        name.append(f"  {address}", "not bold dim")
    yield name, Text(service.scheduler, "dim"), *_numbers(service)
    for backend in shown.backends:
        share = bars.of(backend.share) if backend.weight else Text("drains", "yellow")
        yield Text(f"  {joined(backend.address, backend.port)}"), share, *_numbers(backend)
    if shown.left:
        yield Text(f"  {shown.left:,} more", "dim"), Text(), *(Text() for _ in range(4))


def _numbers(traffic: ServiceTraffic | BackendTraffic) -> tuple[Text, Text, Text, Text]:
    rate = Text(speed(traffic.rate), "green" if traffic.rate else "")
    return Text(amount(traffic.connections)), rate, Text(amount(traffic.active)), Text(amount(traffic.inactive))


def _address(service: ServiceTraffic) -> str:
    """Say where a Service is reached: at its first address, and at how many more."""
    first, *more = service.frontends
    where = f"{joined(first.address, first.port)}/{service.protocol}"
    return f"{where} +{len(more)}" if more else where


def amount(number: int | None) -> str:
    """Write a number in seven characters; a dash where it is not known."""
    if number is None:
        return "-"
    if number < 1_000_000:  # noqa: PLR2004 (as long as it fits)
        return f"{number:,}"
    units = ("M", "G", "T", "P", "E")
    power = min((len(str(number)) - 7) // 3, len(units) - 1)
    return f"{number / 1000 ** (power + 2):.4g}{units[power]}"


def speed(rate: float | None) -> str:
    """Write a number a second as short, with a fraction as long as it fits."""
    if rate is None or rate >= 9_999.95:  # noqa: PLR2004 (ten thousand, rounded)
        return amount(None if rate is None else round(rate))
    return f"{rate:,.1f}"


class _Bars:
    """Draws shares as bars of so many characters."""

    def __init__(self, width: int, *, plain: bool) -> None:
        self.width = width
        self._plain = plain

    def of(self, share: float) -> Text:
        """Draw one, with its number behind it."""
        if self._plain:
            bar = "#" * round(self.width * share)
        else:
            full, part = divmod(round(self.width * share * len(_PARTS)), len(_PARTS))
            bar = _PARTS[-1] * full + (_PARTS[part - 1] if part else "")
        return Text.assemble((bar.ljust(self.width), "cyan"), f"{share:5.0%}")
