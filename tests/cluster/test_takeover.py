"""From kube-proxy to Pointsman on a node in use: both at once do no harm, and kube-proxy's rules can go."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pointsman.lab.components.build import provide
from pointsman.lab.containers.cluster import POD_CIDR
from pointsman.lab.controlplane import commands
from pointsman.lab.daemon import Daemon
from pointsman.lab.traffic import Held, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Web

OTHER_PORTS = ("--healthz-bind-address=127.0.0.1:20256", "--metrics-bind-address=127.0.0.1:20249")


@contextlib.contextmanager
def kube_proxy(web: Web, say: Callable[[str], None]) -> Iterator[None]:
    """Let kube-proxy program node-1, beside Pointsman, and remove its rules as its users do."""
    plane = web.ground.cluster.plane
    host = web.ground.cluster.nodes["node-1"].host
    program = provide(("kube-proxy",), say)["kube-proxy"]
    kubeconfig = plane.user("system:kube-proxy")
    command = commands.kube_proxy(program, kubeconfig, "node-1", mode="nftables", pod_cidr=POD_CIDR)
    daemon = Daemon("kube-proxy", host.namespace, [*command, *OTHER_PORTS], plane.files / "logs/kube-proxy.log")
    daemon.start()
    try:
        daemon.wait_until(
            lambda: web.address in host.namespace.run("nft", "list", "table", "ip", "kube-proxy"),
            "has not programmed the Service",
            patience=60,
        )
        yield
    finally:
        daemon.kill()
    host.namespace.run(str(program), "--cleanup")


def test_kube_proxy_comes_and_goes_beside_pointsman(web: Web, say: Callable[[str], None]) -> None:
    cluster = web.ground.cluster
    host = cluster.nodes["node-1"].host
    host.namespace.run("nft", "add", "table", "ip", "kube-proxy")  # so that there is one to look into
    ways = [(web.clients["node-1"], web.address, 80), (cluster.outside, host.address(), web.node_port)]
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Held(*way, count=20)) for way in ways]
        loads = [stack.enter_context(Load(*way, pause=0.005)) for way in ways]
        with kube_proxy(web, say):
            for load in loads:
                load.wait(100)
        for load in loads:
            load.wait(100)
        assert [each.broken() for each in held] == [[], []]
    assert [load.spread().failures for load in loads] == [[], []]
    assert host.namespace.run("nft", "list", "tables").split("\n")[:-1] == ["table ip pointsman", "table ip6 pointsman"]
