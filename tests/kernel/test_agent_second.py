"""Two agents on one node would undo each other's work without end: the second one does not start."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import fetch
from support.agents import supervised

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking")


def test_a_second_agent_in_the_same_network_namespace_is_refused(ground: Ground, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pointsman", "agent", "--node-name", "node-1", "--manifests"]
    with supervised(ground, tmp_path) as node:
        node.start()
        with ground.node.namespace.entered():
            second = subprocess.run(
                [*command, str(node.manifests)], capture_output=True, text=True, timeout=60, check=False
            )
        assert second.returncode == 1
        assert second.stderr == ("pointsman agent: another pointsman agent programs this node; stop it first\n"), (
            "nothing but what to do, and no word on standard output"
        )
        assert second.stdout == ""
        assert fetch(ground.node, "127.0.0.1", 10256, "/healthz")[0] == 200, "the first one goes on"
        node.agent.kill()
        node.start()  # the claim went with its process
