"""What the tiers share: a test that needs what a machine lacks is skipped, loudly, and fails in CI."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pointsman.lab import records
from pointsman.lab.features import missing

if TYPE_CHECKING:
    from collections.abc import Callable

_LACKS = "this machine lacks "


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): names of pointsman.lab.features that the test needs")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()) if report.longrepr]
    reasons = Counter(reason.partition(_LACKS)[2] for reason in skipped if _LACKS in reason)
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests DID NOT RUN, {_LACKS}{reason}", red=True)


@pytest.fixture(scope="session")
def swept() -> None:
    """Remove what crashed runs have left, so that it does no harm to this one."""
    records.sweep()


@pytest.fixture(scope="session")
def require() -> Callable[[str], None]:
    """Ask for a feature by its name in `pointsman.lab.features`: without it skip, and fail in CI."""

    def ask(feature: str) -> None:
        if reason := missing(feature):
            do_without(reason)

    return ask


def do_without(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, and {_LACKS}{reason}", pytrace=False)
    pytest.skip(_LACKS + reason)
