"""What a process takes of the machine, as /proc tells (proc(5))."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK: Final = 0.5
"""Seconds over which the machine's work is measured."""
BUSY: Final = 0.15
"""The share of all cores up to which the machine counts as quiet."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system, with that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def memory(pid: int) -> tuple[float, float]:
    """Return MiB of resident memory of a process, now and at its highest."""
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    now, highest = (int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) / 1024 for field in ("VmRSS", "VmHWM"))
    return now, highest


def wait_until_quiet(patience: float) -> float:
    """Wait until the machine does nothing to speak of.

    Args:
        patience: seconds after which it is left as it is.

    Returns:
        The share of all cores that was at work in the end.
    """
    deadline = time.monotonic() + patience
    while (busy := _busy_share()) > BUSY and time.monotonic() < deadline:
        pass
    return busy


def _busy_share() -> float:
    idle, total = _times()
    time.sleep(_LOOK)
    idle_then, total_then = _times()
    return 1 - (idle_then - idle) / max(total_then - total, 1)


def _times() -> tuple[int, int]:
    """Return ticks of all cores together: idle, and all."""
    times = [int(field) for field in Path("/proc/stat").read_text("ascii").partition("\n")[0].split()[1:9]]
    return times[3] + times[4], sum(times)
