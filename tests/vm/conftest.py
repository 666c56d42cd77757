"""The ground of the vm tier: a guest with a stock Debian kernel, which has IPVS. One boot runs all tests.

On the host nothing here runs; the tests are collected, run in the guest, and count with what they report there.
See `support.guest_reports`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel.conftest import _needs, ground, network, servers
from support.guest_reports import EVENTS, Host, Sender
from support.ipvs import IpvsNode, Shared, ipvs_node, shared_ground
from support.latest import Latest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["_needs", "ground", "network", "servers"]  # what the kernel tier's tests stand on, here too


def pytest_configure(config: pytest.Config) -> None:
    if descriptor := os.environ.get(EVENTS):
        plugin: object = Sender(config, os.fdopen(int(descriptor), "w", encoding="utf-8"))
    else:
        plugin = Host(config, Path(__file__).parent)
    config.pluginmanager.register(plugin, "pointsman-guest")


@pytest.fixture(scope="session")
def _shared() -> Iterator[Latest[Shared]]:
    with Latest[Shared]() as made:
        yield made


@pytest.fixture
def shared(_needs: None, _shared: Latest[Shared]) -> Shared:
    """A ground that all tests of this tier share; each leaves the node as it was."""
    return _shared.get("ground", shared_ground)


@pytest.fixture
def node(shared: Shared) -> Iterator[IpvsNode]:
    """A node in the mode `ipvs` with an empty plan."""
    with ipvs_node(shared) as made:
        yield made
