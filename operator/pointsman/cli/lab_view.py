"""A tour on a terminal, or as plain text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.status import Status

    from pointsman.lab.steps import Bars, Found, Result, Step, Table

_WIDTH: Final = 30
"""Characters of the longest bar."""

_PLAIN_WIDTH: Final = 140
"""Characters a line where there is no terminal to ask."""


class Silent:
    """Watches a tour and says nothing."""

    def begin(self, number: int, title: str, does: str) -> None:
        """Say nothing."""

    def end(self, step: Step) -> None:
        """Say nothing."""


class View:
    """Shows a tour: with colours and a spinner on a terminal, else as plain lines."""

    def __init__(self, *, plain: bool, stderr: bool = False) -> None:
        """Show it on standard output, or on standard error when that one is for machines."""
        self._live = (sys.stderr if stderr else sys.stdout).isatty() and not plain
        if self._live:
            self._console = Console(stderr=stderr)
        else:
            self._console = Console(stderr=stderr, width=_PLAIN_WIDTH, no_color=True, force_terminal=False)
        self._status: Status | None = None

    def begin(self, number: int, title: str, does: str) -> None:
        """Show what is being done."""
        self._console.print(Text.assemble((f"{number:>2}. ", "dim"), (title, "bold"), (f": {does}", "")))
        if self._live:
            self._status = self._console.status(Text(does, "dim"))
            self._status.start()

    def end(self, step: Step) -> None:
        """Show what came of it."""
        self.close()
        self._console.print(Padding(Group(*self._lines(step)), (0, 0, 0, 4), expand=False))
        self._console.print()

    def close(self) -> None:
        """Stop what moves, and show the cursor again."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def note(self, words: str) -> None:
        """Show one line beside the tour."""
        self._console.print(Text(words, "dim"))

    def verdict(self, result: Result) -> None:
        """Show how all of it came out."""
        wrong = [step.title for step in result.steps if not step.found.good]
        if result.good:
            says = f"PASSED: all {len(result.steps)} steps came out as they have to, in {result.seconds:.1f} s"
        else:
            says = f"FAILED: {', '.join(wrong)} ({len(wrong)} of {len(result.steps)} steps)"
        words = Text(says, "bold green" if result.good else "bold red")
        self._console.print(Panel(words, expand=False, border_style=words.style) if self._live else words)

    def look_around(self, lines: Iterable[tuple[str, str]]) -> None:
        """Say what can be done with a lab that stays up: pairs of what it is for, and what to type."""
        grid = Grid.grid(padding=(0, 2))
        for label, what in lines:
            grid.add_row(Text(label, "dim"), Text(what, "cyan", overflow="fold"))
        self._console.print(Text("The lab stays up:", "bold"), Padding(grid, (0, 0, 0, 4), expand=False), sep="\n")
        self._console.print()

    def _lines(self, step: Step) -> list[Grid | Text]:
        found = step.found
        mark = ("ok ", "bold green") if found.good else ("FAILED ", "bold red")
        lines: list[Grid | Text] = [Text.assemble(mark, found.says, (f"  ({step.seconds:.1f} s)", "dim"))]
        if found.bars:
            lines.append(self._bars(found))
        if found.table is not None and found.table.rows:
            lines.append(_grid(found.table))
        lines += [Text(note, "dim") for note in found.notes]
        return lines

    def _bars(self, found: Found) -> Grid:
        grid = Grid.grid(padding=(0, 2))
        longest = max((number for bars in found.bars for number in bars.counts.values()), default=0) or 1
        for bars in found.bars:
            for label, place, number in _labelled(bars):
                bar = ("\u2588" if self._live else "#") * round(_WIDTH * number / longest)
                grid.add_row(Text(label, "dim"), place, Text(bar, "cyan"), str(number))
        return grid


def _labelled(bars: Bars) -> list[tuple[str, str, int]]:
    """Put the label before the first bar alone."""
    return [(bars.label if index == 0 else "", *item) for index, item in enumerate(bars.counts.items())]


def _grid(table: Table) -> Grid:
    grid = Grid(*table.headings, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for row in table.rows:
        grid.add_row(*(Text(cell, _style(cell), overflow="fold") for cell in row))
    return grid


def _style(cell: str) -> str:
    return {"WRONG": "bold red", "ok": "green"}.get(cell, "")
