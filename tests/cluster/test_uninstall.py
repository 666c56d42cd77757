"""`helm uninstall`: nothing is left on any node, or everything stays in force."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.api.permissions import AGENT, UNINSTALLER
from pointsman.lab.containers.release import HelmError
from pointsman.lab.traffic import Answered, Load, connect
from support.audit import refused, unused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.containers.cluster import ContainerCluster

    from .conftest import Web

NODE_PROXIES = "/apis/pointsman.dev/v1alpha1/nodeproxies"
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


def ready_of(node_proxy: dict[str, Any]) -> tuple[str, str]:
    return next(
        (each["status"], each["reason"]) for each in node_proxy["status"]["conditions"] if each["type"] == "Ready"
    )


@pytest.mark.usefixtures("again")
def test_an_agent_that_left_its_rules_is_named(web: Web) -> None:
    """It was killed while it should have cleaned up; the release is there until somebody has looked after the node."""
    cluster, release = web.ground.cluster, web.ground.release
    # Short, as it is waited for; long enough for the other agent to clean up.
    release.upgrade({"agent": {"terminationGracePeriodSeconds": 15}})
    pods = cluster.pods("pointsman-system", "app.kubernetes.io/component=agent")
    (pod,) = (pod for pod in pods if pod["spec"]["nodeName"] == "node-1")
    os.kill(cluster.nodes["node-1"].process(pod["metadata"]["uid"], "agent"), signal.SIGSTOP)
    with pytest.raises(HelmError):
        release.uninstall()
    said = cluster.plane.kubectl("-n", "pointsman-system", "logs", "job/pointsman-uninstaller")
    assert "the agents of 1 node: node-1 have ended without removing their rules" in said
    assert {name: bool(tables) for name, tables in rules(cluster).items()} == {"node-1": True, "node-2": False}
    for family in ("ip", "ip6"):
        cluster.nodes["node-1"].host.namespace.run("nft", "delete", "table", family, "pointsman")
    cluster.plane.kubectl("-n", "pointsman-system", "delete", "lease", "pointsman-agent-node-1")
    release.uninstall()


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
    assert {ready_of(proxy) for proxy in cluster.plane.api.get(NODE_PROXIES)["items"]} == {("False", "Removed")}
    assert unused(cluster, UNINSTALLER) == set()
    assert refused(cluster, UNINSTALLER, for_good=True) == set()
    assert refused(cluster, AGENT) == set()  # the operator lives on for a moment when its rights are gone
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
