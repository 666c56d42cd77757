"""The lab's cluster without its agents: built, changed, left up, removed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab import namespaces, records
from pointsman.lab.cluster import Cluster
from pointsman.lab.namespaces import LabError
from pointsman.lab.traffic import Answered, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFESTS = Path(__file__).parents[2] / "operator/pointsman/lab/manifests"


@pytest.fixture
def cluster(_needs: None) -> Iterator[Cluster]:
    with Cluster(MANIFESTS) as made:
        yield made


def test_everybody_reaches_the_pods_and_is_seen_as_they_are(cluster: Cluster) -> None:
    for origin in (*cluster.nodes.values(), *cluster.client_pods.values(), cluster.outside):
        for address, pod in cluster.pods.items():
            outcome = connect(origin, address, 80)
            assert isinstance(outcome, Answered)
            assert (outcome.server, outcome.seen[0]) == (pod.name, origin.address())


def test_the_agents_directory_is_a_copy(cluster: Cluster) -> None:
    before = (MANIFESTS / "web.yaml").read_bytes()
    cluster.write("web.yaml", b"{}")
    assert (cluster.manifests / "web.yaml").read_bytes() == b"{}"
    assert (MANIFESTS / "web.yaml").read_bytes() == before


def test_an_agent_that_cannot_start_is_reported_with_its_log(cluster: Cluster) -> None:
    agent = cluster.agents["master"]
    agent.daemon.command = [word.replace(str(cluster.manifests), "/nothing-here") for word in agent.daemon.command]
    agent.start()
    with pytest.raises(LabError, match=r"(?s)the agent of master ended with status .*nothing-here"):
        agent.wait_until_ready()


def test_nothing_is_left_behind() -> None:
    with Cluster(MANIFESTS) as cluster:
        prefix, files = cluster.network.prefix, cluster.files
        assert len(namespaces.with_prefix(prefix)) == 10
    assert not namespaces.with_prefix(prefix)
    assert not files.exists()


def test_a_lab_that_is_left_up_answers_until_it_is_removed() -> None:
    with Cluster(MANIFESTS) as cluster:
        cluster.agents = {}
        cluster.keep()
    (kept,) = [lab for lab in records.kept() if lab.prefix == cluster.network.prefix]
    try:
        pod = cluster.pods["192.168.0.15"]
        deadline = time.monotonic() + 5
        while not isinstance(outcome := connect(cluster.outside, pod.address(), 80), Answered):
            assert time.monotonic() < deadline, outcome
            time.sleep(0.05)
        assert outcome.server == "nginx-a"
        assert records.sweep() == []
        assert namespaces.with_prefix(kept.prefix)
    finally:
        records.remove(kept)
    assert not namespaces.with_prefix(kept.prefix)
    assert kept not in records.kept()
    assert not cluster.files.exists()
