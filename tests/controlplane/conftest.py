"""The ground of the control-plane tier: a real etcd, API server and controllers, up once for the whole session.

Runs as root, or as a plain user in namespaces of one's own, as the kernel tier does. The programs are built before
the first test where they are not there yet, with progress on the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.components.build import provide
from pointsman.lab.controlplane.plane import PROGRAMS, ControlPlane
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ALWAYS = ("network namespaces", "veth devices")
_HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs while no test's timeout is running."""
    wanted = any(_HERE in item.path.parents for item in session.items)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not wanted or session.config.option.collectonly or reporter is None:
        return
    try:
        provide(PROGRAMS, reporter.write_line)
    except LabError as error:  # told by the tests that need them
        reporter.write_line(str(error), red=True)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest, require: Callable[[str], None]) -> None:
    for marker in request.node.iter_markers("needs"):
        for feature in marker.args:
            require(feature)


@pytest.fixture(scope="session")
def control_plane(swept: None, require: Callable[[str], None]) -> Iterator[ControlPlane]:  # noqa: ARG001 - swept first
    """The control plane, with a wide node port range; objects that a test makes are its own to remove."""
    for feature in _ALWAYS:
        require(feature)
    require("Go")
    with ControlPlane() as plane:
        yield plane
