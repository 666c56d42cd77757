"""`pointsman diff` on a node with a real agent: empty in force, and every element that goes is named."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pointsman.cli import live
from pointsman.dataplane.nftables import readback
from pointsman.dataplane.nftables.dataplane import NftablesDataplane
from pointsman.dataplane.userspace.dataplane import UserspaceDataplane
from pointsman.lab.traffic import fetch
from pointsman.model.plan import Answer, Backend, Frontend, Plan, Pool
from support.agents import METRICS_PORT, Supervised, seconds_until, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.dataplane.nftables.change import Held
    from pointsman.dataplane.nftables.layout import Schema
    from pointsman.model.plan import Family

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP, VIP6, NODE_PORT = "10.96.0.80", "fd00:10:96::80", 30080


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        made.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *ground.pods))
        made.write("idle.json", service("idle", "10.96.0.81"))
        made.start()
        yield made


def diff(node: Supervised, *options: str) -> subprocess.CompletedProcess[str]:
    """Compare, with the manifests that the agent follows."""
    words = ("diff", "--node-name", "node-1", "-f", str(node.manifests), *options)
    with node.ground.node.namespace.entered():
        return subprocess.run(
            (sys.executable, "-m", "pointsman", *words), capture_output=True, text=True, check=False
        )  # fmt: skip


def nft(node: Supervised, *words: str) -> str:
    return node.ground.node.namespace.run("nft", *words)


def test_what_is_in_force_has_no_difference(node: Supervised) -> None:
    found = diff(node)
    assert (found.returncode, found.stdout) == (0, "")
    assert found.stderr == "in force: 5 frontends, mode nftables\n"


@pytest.mark.parametrize(
    ("element", "lines"),
    [
        (f"endpoints {{ {VIP} . tcp . 80 . 0:1 }}", [f"  {VIP}:80/tcp", "-   -> 192.168.1.2:80"]),
        (
            f"services {{ {VIP} . tcp . 80 }}",
            [f"- {VIP}:80/tcp", *(f"-   -> {pod}:80" for pod in ("192.168.1.1", "192.168.1.2", "192.168.2.3"))],
        ),
        (
            f"node-port-endpoints {{ tcp . {NODE_PORT} . 0:2 }}",
            [f"  node port {NODE_PORT}/tcp (IPv4)", "-   -> 192.168.2.3:80"],
        ),
    ],
)
def test_an_element_that_goes_is_named_until_it_is_there_again(
    node: Supervised, element: str, lines: list[str]
) -> None:
    node.agent.kill()  # it would repair it
    nft(node, "delete", "element", "ip", "pointsman", *element.split())
    found = diff(node)
    assert (found.returncode, found.stdout.splitlines()) == (1, ["Service test/web:tcp", *lines])
    node.start()
    seconds_until(lambda: not diff(node).stdout)


@pytest.mark.parametrize("kind", [NftablesDataplane, UserspaceDataplane])
def test_a_table_that_changes_while_it_is_read_is_read_anew(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, kind: type[NftablesDataplane | UserspaceDataplane]
) -> None:
    namespace, looks = ground.node.namespace, []
    whole = readback.read_held

    def read_held(wire: NftSocket, schema: Schema, family: Family) -> Held:
        looks.append(family)
        found = whole(wire, schema, family)
        if len(looks) == 1:
            namespace.run("nft", "add table ip beside; delete table ip beside")
        return found

    monkeypatch.setattr(f"{kind.__module__}.read_held", read_held)
    frontend = Frontend(4, VIP, "tcp", 80)
    with namespace.entered(), closing(kind()) as dataplane:
        dataplane.adopt(Plan({frontend: Answer("test/web", "rr", Pool((Backend("192.168.1.1", 80),)))}))
        with pytest.raises(InterruptedError, match="run it again"):
            dataplane.read()
        looks.clear()
        assert live.read_held(dataplane).keys() == {frontend}
        assert looks == [4, 4, 6]
        dataplane.cleanup()


def mode(node: Supervised, name: str) -> None:
    """Have another mode in force."""
    spec = {"mode": name, "priority": 1, "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"]}
    head = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": "wanted"}}
    node.write("config.json", {**head, "spec": spec})
    seconds_until(lambda: fetch(node.ground.node, "127.0.0.1", METRICS_PORT, "/proxyMode")[1].decode() == name)


def of_every_kind(node: Supervised) -> None:
    """Write Services with all that makes plans differ from what modes tell of them."""
    pods = node.ground.pods
    weights = {"metadata": {"name": "web-heavy", "annotations": {"pointsman.dev/weight": "3"}}}
    heavy, drained = next(slices("web", pods[1])), next(slices("web", pods[2]))
    heavy["metadata"] |= weights["metadata"]
    drained["metadata"] |= {"name": "web-drained", "annotations": {"pointsman.dev/weight": "0"}}
    local = service("local", "10.96.0.83", node_port=30083)
    local["spec"] |= {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.7"]}
    guarded = service("guarded", "10.96.0.84", node_port=30084)
    guarded["spec"] |= {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.168.0.0/16"]}
    guarded["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}}
    elsewhere = service("elsewhere", "10.96.0.85")
    elsewhere["spec"]["internalTrafficPolicy"] = "Local"
    web = service("web", VIP, VIP6, node_port=NODE_PORT)
    node.write("web.json", web, *slices("web", pods[0]), heavy, drained)
    node.write("local.json", local, *slices("local", *pods))
    node.write("guarded.json", guarded, *slices("guarded", *pods))
    node.put("elsewhere.json", elsewhere, *slices("elsewhere", pods[2]))


@pytest.mark.parametrize("name", ["nftables", "iptables", "userspace"])
def test_each_mode_is_compared_as_it_tells_what_it_holds(node: Supervised, name: str) -> None:
    of_every_kind(node)
    mode(node, name)
    found = diff(node)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
    assert f"frontends, mode {name}\n" in found.stderr
    assert ("backends are not compared" in found.stderr) == (name == "userspace")
    # As long as the agent has not told anybody, the mode is the one that the configuration asks for.
    before = json.loads(diff(node, "--mode", "nftables" if name != "nftables" else "iptables", "-o", "json").stdout)
    assert before["otherModes"][0]["mode"] == name


def test_a_rule_of_iptables_that_goes_is_named(node: Supervised) -> None:
    mode(node, "iptables")
    node.agent.kill()
    rules = node.ground.node.namespace.run("iptables-save", "-t", "nat").splitlines()
    service_rule = next(rule for rule in rules if rule.startswith("-A KUBE-SERVICES ") and f"-d {VIP}/32" in rule)
    choice = next(rule for rule in rules if rule.startswith("-A KUBE-SVC-") and "--probability" in rule)
    iptables(node, choice)
    assert diff(node).stdout.splitlines() == [
        "Service test/web:tcp", f"  {VIP}:80/tcp", "-   -> 192.168.1.1:80",
        f"  node port {NODE_PORT}/tcp (IPv4)", "-   -> 192.168.1.1:80",
    ]  # fmt: skip
    iptables(node, service_rule)
    assert f"- {VIP}:80/tcp" in diff(node).stdout.splitlines()
    node.start()
    seconds_until(lambda: not diff(node).stdout)


def test_an_element_of_userspace_that_goes_is_named(node: Supervised) -> None:
    mode(node, "userspace")
    node.agent.kill()
    nft(node, "flush", "map", "ip", "pointsman-userspace", "ports")
    found = diff(node)
    assert found.returncode == 1
    lines = found.stdout.splitlines()
    assert lines[:2] == ["Service test/web:tcp", f"- {VIP}:80/tcp"]
    assert not any("node port" in line for line in lines)
    node.start()
    seconds_until(lambda: not diff(node).stdout)


def iptables(node: Supervised, rule: str) -> None:
    """Delete a rule."""
    node.ground.node.namespace.run("iptables-restore", "--noflush", stdin=f"*nat\n-D{rule[2:]}\nCOMMIT\n")


def test_frontends_that_are_missing_and_unwanted_are_named(node: Supervised) -> None:
    node.agent.kill()
    node.write("idle.json", service("other", "10.96.0.82"))
    found = json.loads(diff(node, "-o", "json").stdout)
    assert (found["mode"], found["inForce"], found["otherModes"]) == ("nftables", False, [])
    states = [(each["service"], each["address"], each["state"]) for each in found["differences"]]
    assert states == [("test/other:tcp", "10.96.0.82", "missing"), ("", "10.96.0.81", "extra")]
    assert diff(node).stdout.splitlines() == [
        "Service test/other:tcp", "- 10.96.0.82:80/tcp", "no Service", "+ 10.96.0.81:80/tcp",
    ]  # fmt: skip


def test_weights_and_pools_of_clients_are_compared_as_the_kernel_holds_them(node: Supervised) -> None:
    drained, heavy = (next(slices("web", pod)) for pod in node.ground.pods[:2])
    for document, name, weight in ((drained, "web-a", "0"), (heavy, "web-b", "6")):
        document["metadata"] |= {"name": name, "annotations": {"pointsman.dev/weight": weight}}
    third = next(slices("web", node.ground.pods[2]))
    third["metadata"] |= {"name": "web-c", "annotations": {"pointsman.dev/weight": "4"}}
    web = service("web", VIP, VIP6, node_port=NODE_PORT)
    web["spec"] |= {"type": "NodePort", "externalTrafficPolicy": "Local"}
    for scheduler in ("random", "rr", "mh"):
        web["metadata"]["annotations"] = {"pointsman.dev/scheduler": scheduler}
        node.put("web.json", web, drained, heavy, third)
        assert diff(node).stdout == ""
    node.agent.kill()
    heavy["metadata"]["annotations"]["pointsman.dev/weight"] = "2"
    web["metadata"]["annotations"] = {"pointsman.dev/scheduler": "rr"}
    node.write("web.json", web, drained, heavy, third)
    assert diff(node).returncode == 1


def test_tables_of_a_mode_that_is_not_in_force_are_a_difference(node: Supervised) -> None:
    nft(node, "add", "table", "ip", "pointsman-ipvs")
    found = diff(node)
    assert found.returncode == 1
    first, *rest = found.stdout.splitlines()
    assert first == "mode ipvs, which is not in force"
    assert rest
    assert all("pointsman-ipvs" in line for line in rest)


def test_a_proxy_that_drains_is_a_note(node: Supervised) -> None:
    mode(node, "userspace")
    with closing(node.ground.client.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)) as held:
        held.settimeout(5)
        held.connect((VIP, 80))
        mode(node, "nftables")
        seconds_until(lambda: diff(node).returncode == 0)
        found = diff(node)
        node.agent.kill()
    assert found.stdout == ""
    assert "mode userspace: its proxy and what leads there, kept for the connections that they carry" in found.stderr
    nft(node, "add", "element", "ip", "pointsman-userspace", "service-cidrs", "{ 10.99.0.0/16 }")
    assert diff(node).returncode == 1, "what decides about connections is a difference"


def test_a_node_without_an_agent_has_everything_missing(ground: Ground, tmp_path: Path) -> None:
    with supervised(ground, tmp_path) as made:
        made.write("web.json", service("web", VIP), *slices("web", ground.pods[0]))
        found = diff(made)
    assert (found.returncode, found.stdout.splitlines()[:2]) == (1, ["Service test/web:tcp", f"- {VIP}:80/tcp"])


def test_a_mode_that_there_is_not_is_an_error(node: Supervised) -> None:
    found = diff(node, "--mode", "nftable")
    assert (found.returncode, found.stdout) == (2, "")
    assert "there is no mode 'nftable' here" in found.stderr
