"""Upstream's packet flows on a node that uses the legacy iptables; for the one over nf_tables see test_mode_flows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.network import Network
from pointsman.lab.servers import Servers
from support.iptables import as_kubelet_does
from support.latest import Latest
from support.packet_flows import CONTEXT, Case, Stage, build, configuration, params, serve
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("iptables (legacy)", "connection tracking")


@pytest.fixture(scope="module")
def latest() -> Iterator[Latest[Stage]]:
    with Latest[Stage]() as made:
        yield made


@contextlib.contextmanager
def staged(suite: Case, *, after: bool) -> Iterator[Stage]:
    with Network() as network, Servers() as servers:
        hosts = build(network, suite, "iptables")
        serve(servers, hosts, suite, "iptables")
        node = hosts[CONTEXT["nodeIP"]["IPv4"]]
        node.namespace.sysctl({"net/ipv4/conf/all/route_localnet": "1"})
        as_kubelet_does(node, "legacy")
        with Proxy(node, configuration(suite["config"], "iptables"), mode="iptables") as proxy:
            proxy.put([*suite["objects"]["services"], *suite["objects"]["endpointSlices"]])
            proxy.sync()
            if after:
                proxy.remove(*suite["after"]["delete"])
                proxy.sync()
            dataplane = proxy.dataplane
            assert getattr(dataplane, "variant", "") == "legacy"
            yield Stage(hosts, "iptables")


@pytest.mark.parametrize(("mode", "suite", "after", "case"), list(params("iptables")))
def test_flow(
    latest: Latest[Stage], mode: str, suite: Case, after: bool, case: Case  # noqa: FBT001 - a parameter
) -> None:  # fmt: skip
    stage = latest.get((mode, suite["id"], after), lambda: staged(suite, after=after))
    stage.flow(case).check()
