"""The ground of the chart's tests: the real helm, which is built before the first of them where it is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.components.build import provide
from pointsman.lab.namespaces import LabError
from support.charts import Chart

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm while no test's timeout is running."""
    wanted = any(_HERE in item.path.parents for item in session.items)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not wanted or session.config.option.collectonly or reporter is None:
        return
    try:
        provide(("helm",), reporter.write_line)
    except LabError as error:  # told by the tests that need it
        reporter.write_line(str(error), red=True)


@pytest.fixture(scope="session")
def chart(require: Callable[[str], None]) -> Chart:
    """The chart, as helm renders it."""
    require("Go")
    return Chart(provide(("helm",), lambda _: None)["helm"])
