"""The ground of the control-plane tier: a real etcd, API server and controllers, up once for the whole session.

Runs as root, or as a plain user in namespaces of one's own, as the kernel tier does. The programs are built before
the first test where they are not there yet, with progress on the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.components.build import provide
from pointsman.lab.controlplane.cluster import LiveCluster
from pointsman.lab.controlplane.plane import PROGRAMS, ControlPlane
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODES = ("master", "node01", "node02")
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
def ground(swept: None, require: Callable[[str], None]) -> None:  # noqa: ARG001 - swept first
    """What a control plane needs of the machine."""
    for feature in ("network namespaces", "veth devices", "Go"):
        require(feature)


@pytest.fixture(scope="session")
def control_plane(ground: None) -> Iterator[ControlPlane]:  # noqa: ARG001 - asked for first
    """A bare control plane with a wide node port range; objects that a test makes are its own to remove."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def cluster(ground: None, require: Callable[[str], None]) -> Iterator[LiveCluster]:  # noqa: ARG001 - asked for first
    """A whole cluster on a control plane of its own: NODES with agents, one operator with its webhook.

    Tests share it: one that breaks a part mends it, and removes the objects that it made.
    """
    for feature in ("nftables", "connection tracking"):
        require(feature)
    with ControlPlane() as plane, LiveCluster(plane) as made:
        made.install()
        made.operators.start()
        made.operators.wait_for_webhook()
        made.add_nodes(NODES)
        yield made
