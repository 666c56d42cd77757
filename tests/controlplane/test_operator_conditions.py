"""The condition `pointsman.dev/Programmed` of Services on live nodes, and agents that give no sign of life."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support.operated import (
    PROXIES,
    SERVICES,
    Record,
    configured,
    names,
    proxy,
    restart_operator,
    said,
    wait_until_complete,
)
from support.scenes import PATIENCE, Document, endpoint_slice, made, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.lab.controlplane.cluster import LiveCluster

PROGRAMMED = "pointsman.dev/Programmed"
QUIET = 6
"""Seconds without a write."""


@contextmanager
def stopped(cluster: LiveCluster, node: str) -> Iterator[None]:
    """Stop an agent where it stands, for a while."""
    daemon = cluster.nodes[node].agent.daemon
    daemon.send(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.send(signal.SIGCONT)


def wait_for(cluster: LiveCluster, name: str, *, seconds: int) -> bool:
    """Wait as users do, with `kubectl wait`; tell whether it came."""
    condition = f"--for=condition={PROGRAMMED}"
    done = cluster.plane.try_kubectl("wait", condition, f"service/{name}", f"--timeout={seconds}s")
    return done.returncode == 0


def held_up(cluster: LiveCluster, name: str) -> bool:
    return said(cluster.plane.api.get(f"{SERVICES}/{name}"), PROGRAMMED) == ("False", "WaitingForNodes")


def is_quiet(cluster: LiveCluster) -> bool:
    """Watch for some seconds; tell whether nobody wrote."""
    records = [Record(cluster, path) for path in (PROXIES, "/api/v1/services")]
    first = records[0].events(seconds=QUIET)
    return not first and not records[1].events()


@pytest.fixture(scope="module")
def conditions(cluster: LiveCluster) -> Iterator[None]:
    with configured(cluster, serviceConditions=True):
        yield


@pytest.mark.usefixtures("conditions")
def test_a_service_waits_for_the_kernel_of_each_ready_node(cluster: LiveCluster) -> None:
    address = cluster.nodes["master"].pod_cidr.replace("0/24", "77")
    with made(cluster, service("waited"), endpoint_slice("waited", address)):
        assert wait_for(cluster, "waited", seconds=30)
        for change in ({"spec": {"ports": [{"name": "http", "port": 81}]}}, {"spec": {"sessionAffinity": "ClientIP"}}):
            with stopped(cluster, "node01"):
                cluster.plane.api.patch(f"{SERVICES}/waited", change)
                cluster.wait_until(lambda: held_up(cluster, "waited"), "the condition to be False", patience=PATIENCE)
                assert not wait_for(cluster, "waited", seconds=2)
            assert wait_for(cluster, "waited", seconds=30)
        with stopped(cluster, "node02"):
            another = endpoint_slice("waited", address, address.replace("77", "78"))
            slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
            cluster.plane.api.patch(f"{slices}/waited", {"endpoints": another["endpoints"]})
            cluster.wait_until(lambda: held_up(cluster, "waited"), "the slice to be waited for", patience=PATIENCE)
        assert wait_for(cluster, "waited", seconds=30)


@pytest.mark.usefixtures("conditions")
def test_nobody_writes_in_a_quiet_cluster_nor_does_a_new_operator(cluster: LiveCluster) -> None:
    with made(cluster, service("quiet")):
        assert wait_for(cluster, "quiet", seconds=30)
        cluster.wait_until(lambda: is_quiet(cluster), "a quiet cluster", patience=2 * PATIENCE)
        proxies, services = Record(cluster, PROXIES), Record(cluster, SERVICES)
        restart_operator(cluster)
        assert names(proxies.events()) == []
        assert names(services.events()) == []
    cluster.operators.publish()
    cluster.operators.wait_for_webhook()


def test_conditions_that_are_turned_off_go_and_others_stay(cluster: LiveCluster) -> None:
    mine: Document = {
        "type": "example.com/Mine",
        "status": "True",
        "reason": "Mine",
        "message": "somebody else's",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }

    def found() -> list[Document]:
        conditions: list[Document] = cluster.plane.api.get(f"{SERVICES}/shared")["status"].get("conditions", [])
        return conditions

    with made(cluster, service("shared")):
        with configured(cluster, serviceConditions=True):
            cluster.plane.api.patch(f"{SERVICES}/shared/status", {"status": {"conditions": [mine]}})
            both = {"example.com/Mine", PROGRAMMED}
            cluster.wait_until(
                lambda: {each["type"] for each in found()} == both, "our condition beside theirs", patience=PATIENCE
            )
            assert wait_for(cluster, "shared", seconds=30)
            assert mine in found()
        cluster.wait_until(lambda: found() == [mine], "our condition to go", patience=PATIENCE)


def test_an_agent_that_falls_silent_is_unknown_until_it_is_heard(cluster: LiveCluster) -> None:
    record = Record(cluster, PROXIES)

    def ready() -> tuple[str, str]:
        return said(proxy(cluster, "node02"), "Ready")

    with stopped(cluster, "node02"):
        took = cluster.wait_until(lambda: ready() == ("Unknown", "AgentSilent"), "the silence", patience=90)
        assert took >= 25, "a Lease lasts 40 s, and had been renewed at most 10 s before the agent stopped"
        row = cluster.plane.kubectl("get", "npx", "node02", "--no-headers").split()
        assert row[:4] == ["node02", "nftables", "Unknown", "AgentSilent"]
        assert said(proxy(cluster, "node01"), "Ready") == ("True", "Programmed")
    cluster.wait_until(lambda: ready() == ("True", "Programmed"), "the agent to be heard", patience=PATIENCE)
    wait_until_complete(cluster)
    silent = [
        event["object"]["metadata"]["name"]
        for event in record.events()
        if said(event["object"], "Ready") != ("True", "Programmed")
    ]
    assert set(silent) == {"node02"}
