"""The ground of the cluster tier: a real Kubernetes, up once for the whole session, whose Service proxy is Pointsman.

Its nodes run containerd and kubelet, Pointsman is installed by Helm from this clone's chart and Dockerfile. It needs
the real root user. What is missing is built before the first test, with progress on the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pointsman.lab.components.build import provide
from pointsman.lab.containers import machine
from pointsman.lab.containers.cluster import PROGRAMS, ContainerCluster
from pointsman.lab.containers.images import Images
from pointsman.lab.containers.release import Release, image
from pointsman.lab.namespaces import LabError
from pointsman.lab.network import Host
from pointsman.lab.traffic import Answered, connect
from support.deployed import deployment, ready_pods, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE = Path(__file__).parent
_CLONE = _HERE.parents[1]
NODE_PORT = 30080
NODES = ("node-1", "node-2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests here more time: the first one's brings up the cluster."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build programs and images while no test's timeout is running."""
    wanted = any(_HERE in item.path.parents for item in session.items)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not wanted or session.config.option.collectonly or reporter is None:
        return
    try:
        images = Images(provide((*PROGRAMS, "helm", "kube-proxy"), reporter.write_line), reporter.write_line)
        machine.check()
        images.of_nodes()
        image(images, _CLONE)
    except LabError as error:  # told by the tests that need them
        reporter.write_line(str(error), red=True)


class Ground(msgspec.Struct):
    """A cluster with Pointsman.

    Attributes:
        cluster: the cluster.
        release: Pointsman in it.
    """

    cluster: ContainerCluster
    release: Release


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tell of progress on the terminal, which pytest would hide."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def write(words: str) -> None:
        if reporter is not None:
            reporter.write(f"\ncluster: {words}\n", flush=True)

    return write


@pytest.fixture(scope="session")
def ground(swept: None, require: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Ground]:  # noqa: ARG001 - swept first
    """The cluster; a test that breaks a part mends it, and removes the objects that it made."""
    for feature in ("network namespaces", "veth devices", "nftables", "connection tracking", "Go", "containers"):
        require(feature)
    with ContainerCluster(NODES, say=say) as cluster:
        release = Release(cluster, _CLONE, say=say)
        say("helm install")
        release.install()
        yield Ground(cluster, release)


class Web(msgspec.Struct):
    """A Deployment with a Service, and who connects to it.

    Attributes:
        ground: the cluster.
        address: the Service's cluster IP.
        node_port: of the Service.
        pods: those that answer, when it was made.
        clients: a Pod on each node, by the node's name.
    """

    ground: Ground
    address: str
    node_port: int
    pods: list[dict[str, Any]]
    clients: dict[str, Host]


@pytest.fixture(scope="session")
def web(ground: Ground) -> Iterator[Web]:
    """Four Pods on two nodes that answer behind a Service, and a client Pod on each node."""
    cluster = ground.cluster
    image = ground.release.image.name
    answers = deployment("web", image, replicas=4, ports=("80/tcp", "80/udp"))
    clients = [deployment(f"client-{node}", image, replicas=1, ports=("9/tcp",), node=node) for node in NODES]
    cluster.plane.apply([answers, *clients, service("web", NODE_PORT)])
    pods = ready_pods(cluster, "app=web", 4)
    hosts = {node: cluster.pod_host(ready_pods(cluster, f"app=client-{node}", 1)[0]) for node in NODES}
    address = cluster.plane.api.get("/api/v1/namespaces/default/services/web")["spec"]["clusterIP"]
    for host in hosts.values():
        cluster.wait_until(lambda host=host: isinstance(connect(host, address, 80), Answered), f"{address} to answer")
    yield Web(ground, address, NODE_PORT, pods, hosts)
    names = [f"deployment/{name}" for name in ("web", *(f"client-{node}" for node in NODES))]
    cluster.plane.kubectl("delete", "service/web", *names)
