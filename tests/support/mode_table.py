"""Where the modes differ: the table of docs/modes.md, which people and tests read."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman.api.names import MODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.api.names import Mode

PAGE = Path(__file__).parents[2] / "docs/modes.md"


def difference(name: str) -> Mapping[Mode, str]:
    """Return what a row of the table says of each mode, without the marks of Markdown."""
    return rows()[name]


@functools.cache
def rows() -> Mapping[str, Mapping[Mode, str]]:
    """Return the table: by the row's anchor, then by mode."""
    found: dict[str, Mapping[Mode, str]] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        row = re.match(r'\| <a id="([a-z-]+)"></a>', line)
        if row:
            cells = [cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")]
            found[row[1]] = dict(zip(MODES, cells[1:], strict=False))
    return found
