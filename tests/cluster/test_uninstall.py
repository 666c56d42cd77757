"""`helm uninstall`: nothing is left on any node, or everything stays in force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.api.permissions import AGENT, OPERATOR, UNINSTALLER
from pointsman.lab.traffic import Answered, Load, connect
from support.audit import refused, unused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.containers.cluster import ContainerCluster

    from .conftest import Web

CRDS = {"nodeproxies.pointsman.dev", "proxyconfigs.pointsman.dev"}


@pytest.fixture
def again(web: Web) -> Iterator[None]:
    """Leave Pointsman installed."""
    yield
    web.ground.release.install()


def rules(cluster: ContainerCluster) -> dict[str, str]:
    return {name: node.host.namespace.run("nft", "list", "tables") for name, node in cluster.nodes.items()}


def objects(cluster: ContainerCluster) -> set[str]:
    """Name all that the chart and the operator made."""
    kinds = (
        "clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies,"
        "validatingadmissionpolicybindings,crds,proxyconfigs,nodeproxies"
    )
    names = cluster.plane.kubectl("get", kinds, "-o", "name").split()
    return {name.rpartition("/")[2] for name in names if "pointsman" in name}


@pytest.mark.usefixtures("again")
def test_nothing_is_left(web: Web) -> None:
    cluster = web.ground.cluster
    assert all("pointsman" in tables for tables in rules(cluster).values())
    web.ground.release.uninstall()
    assert rules(cluster) == dict.fromkeys(cluster.nodes, "")
    kept = CRDS | set(cluster.nodes)  # custom resources are kept, with what nodes have last said
    cluster.wait_until(lambda: objects(cluster) == kept, lambda: f"{objects(cluster) ^ kept} to go")
    here = "pods,daemonsets,deployments,jobs,services,roles,rolebindings,poddisruptionbudgets,serviceaccounts"
    names = ("-n", "pointsman-system", "get", here, "-o", "name")
    cluster.wait_until(lambda: "pointsman" not in cluster.plane.kubectl(*names), "the operator's Pods to end")
    for node in cluster.nodes.values():
        assert not list(Path(node.data, "pointsman").glob("*"))
    assert unused(cluster, UNINSTALLER) == set()
    for permissions in (UNINSTALLER, AGENT, OPERATOR):
        assert refused(cluster, permissions) == set()
    client = web.clients["node-1"]
    assert not isinstance(connect(client, web.address, 80), Answered)


def test_everything_stays_in_force_when_that_is_asked_for(web: Web) -> None:
    cluster, release = web.ground.cluster, web.ground.release
    release.upgrade({"agent": {"onUninstall": "keep"}})
    client = web.clients["node-2"]
    with Load(client, web.address, 80, pause=0.005) as load:
        release.uninstall()
        load.wait(100)
        assert all("pointsman" in tables for tables in rules(cluster).values())
        release.install()
        load.wait(100)
    assert load.spread().failures == []
