"""An agent that is to run in mode `ipvs` on a node that has no IPVS: it goes on in nftables, and says so."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.agent import Agent
from support.agents import Supervised, seconds_until, server_at, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}
LEAST = {"pointsman.dev/scheduler": "lc"}
PARTIAL = 'kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
FELL_BACK = re.compile(r"WARNING mode ipvs is wanted, mode nftables is in force; ipvs: (.+)")


def config(**spec: object) -> dict[str, object]:
    wanted = {"priority": 1, "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"], "syncPeriod": "500ms", **spec}
    metadata = {"name": "wanted"}
    return {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": metadata, "spec": wanted}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    # Where the kernel has IPVS it is of no use here: an agent that cannot switch its connection tracking on leaves it.
    sysctls = tmp_path / "sysctls"
    (sysctls / "net" / "core").mkdir(parents=True)
    with supervised(ground, tmp_path) as made:
        options = ("--manifests", str(made.manifests), "--sysctl-root", str(sysctls))
        made.agent = Agent(ground.node, options, made.log)
        made.write("web.json", service("web", *VIP.values(), annotations=LEAST), *slices("web", *ground.pods))
        made.write("config.json", config(mode="ipvs", scheduler="lc"))
        yield made


def log_of(node: Supervised) -> str:
    return node.log.read_text("utf-8")


def test_it_goes_on_in_nftables_and_says_so(node: Supervised) -> None:
    node.start()
    client = node.ground.client
    assert node.agent.mode() == "nftables"
    assert all(server_at(client, address) for address in VIP.values())
    ((reason),) = FELL_BACK.findall(log_of(node))
    assert re.search(r"modprobe|CAP_NET_ADMIN|CONFIG_IP_VS", reason), "the remedy"
    not_there = '"lc" is not there in mode nftables, which is in force; "random" is used'
    assert f"ProxyConfig wanted: spec.scheduler: {not_there}" in log_of(node)
    assert f"Service test/web: metadata.annotations[pointsman.dev/scheduler]: {not_there}" in log_of(node)
    more = "10.96.0.2"
    node.put("more.json", service("more", more), *slices("more", *node.ground.pods))
    assert server_at(client, more)


def test_it_looks_for_the_wanted_mode_again_and_again_and_disturbs_nobody(node: Supervised) -> None:
    node.start()
    full, partial = node.syncs(), node.metrics().get(PARTIAL, 0.0)
    node.agent.wait_for_sync(time.time() + 1.0)  # nothing changes: what is synced is that it looked
    assert len(FELL_BACK.findall(log_of(node))) == 1, "told once"
    assert (node.syncs(), node.metrics().get(PARTIAL, 0.0)) == (full, partial), "the kernel was not written to"


def test_another_configuration_ends_it_without_a_restart(node: Supervised) -> None:
    node.start()
    node.put("config.json", config(mode="nftables"))
    seconds_until(lambda: "INFO mode nftables is in force, as the configuration says" in log_of(node))
    assert node.agent.mode() == "nftables"
    node.put("config.json", config(mode="example.com/a", fallbackModes=["example.com/b"]))
    seconds_until(lambda: "spec.mode: this node supports none of example.com/a, example.com/b" in log_of(node))
    assert all(server_at(node.ground.client, address) for address in VIP.values())
