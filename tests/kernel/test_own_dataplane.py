"""A dataplane and schedulers from another package: the real agent with the example of `docs/extending.md`."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support.agents import Supervised, seconds_until, server_at, supervised
from support.manifests import service, slices
from support.plugins import TOY, installed, metadata
from support.proxied import client_address, give_addresses, reach, unlikely, vip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.manifests import Document

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP, OTHER = "10.96.0.1", "10.96.0.2"
TOY_MODE = "example.com/toy"


@pytest.fixture
def node(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(installed(TOY, tmp_path / "site")))
    with supervised(ground, tmp_path) as made:
        yield made


def config(**spec: object) -> Document:
    wanted = {"priority": 1, "podCIDRs": ["192.168.0.0/16"], "syncPeriod": "500ms", **spec}
    metadata = {"name": "wanted"}
    return {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": metadata, "spec": wanted}


def web(node: Supervised, scheduler: str = "", *, pods: int = 3) -> list[Document]:
    annotations = {"pointsman.dev/scheduler": scheduler} if scheduler else None
    return [service("web", VIP, annotations=annotations), *slices("web", *node.ground.pods[:pods])]


def tables(node: Supervised) -> set[str]:
    lines = node.ground.node.namespace.run("nft", "list", "tables", "ip").splitlines()
    return {line.removeprefix("table ip ") for line in lines}


def everybody(node: Supervised, address: str = VIP) -> set[str]:
    """Connect until each pod has answered."""
    seen: set[str] = set()
    wanted = {pod.name for pod in node.ground.pods}

    def all_seen() -> bool:
        seen.add(server_at(node.ground.client, address))
        return wanted <= seen

    seconds_until(all_seen)
    return seen


def test_a_dataplane_of_ones_own_comes_in_force_and_goes_again(node: Supervised) -> None:
    node.write("web.json", *web(node))
    node.start()
    assert (node.agent.mode(), tables(node)) == ("nftables", {"pointsman"})
    node.write("config.json", config(mode=TOY_MODE))
    seconds_until(lambda: node.agent.mode() == TOY_MODE)
    seconds_until(lambda: tables(node) == {"example-toy"})
    assert everybody(node) == {pod.name for pod in node.ground.pods}
    node.put("web.json", *web(node, pods=1))
    assert {server_at(node.ground.client, VIP) for _ in range(20)} == {node.ground.pods[0].name}
    node.put("other.json", service("other", OTHER), *slices("other", *node.ground.pods))
    assert everybody(node, OTHER) == {pod.name for pod in node.ground.pods}
    node.write("config.json", config(mode="nftables"))
    seconds_until(lambda: node.agent.mode() == "nftables")
    seconds_until(lambda: tables(node) == {"pointsman"})
    assert server_at(node.ground.client, VIP) == node.ground.pods[0].name


def test_commands_of_a_node_know_it(node: Supervised) -> None:
    node.write("web.json", *web(node))
    node.write("config.json", config(mode=TOY_MODE))
    node.start()
    files = ("-f", str(node.manifests), "--node-name", "node-1")
    assert node.run("diff", *files) == ""
    node.agent.kill()
    told = node.run("cleanup")
    assert TOY_MODE in told
    assert tables(node) == set()


def test_what_it_left_is_gone_after_a_start_in_another_mode(node: Supervised) -> None:
    node.write("web.json", *web(node))
    node.write("config.json", config(mode=TOY_MODE))
    node.start()
    assert (node.agent.mode(), tables(node)) == (TOY_MODE, {"example-toy"})
    node.agent.kill()
    node.write("config.json", config(mode="nftables"))
    node.start()
    assert tables(node) == {"pointsman"}


def test_a_node_without_it_falls_back_and_says_what_to_do(node: Supervised) -> None:
    node.write("web.json", *web(node))
    node.write("config.json", config(mode="example.com/other", fallbackModes=[TOY_MODE, "nftables"]))
    node.start()
    assert node.agent.mode() == TOY_MODE
    assert (
        "mode example.com/other is wanted, mode example.com/toy is in force; example.com/other: no dataplane "
        "example.com/other is installed on this node; pip install the package that has it into the agents' image"
    ) in node.log.read_text("utf-8")
    assert everybody(node)


def test_a_scheduler_of_ones_own_has_its_shares_in_real_packets(node: Supervised) -> None:
    node.write("web.json", *web(node, "example.com/favourite"))
    node.start()
    first, second, third = (pod.name for pod in node.ground.pods)
    seen = Counter(server_at(node.ground.client, VIP) for _ in range(800))
    assert not unlikely(seen, {first: 18, second: 1, third: 1})
    elements = node.ground.node.namespace.run("nft", "list", "map", "ip", "pointsman", "endpoints")
    assert elements.count("10.96.0.1 . tcp . 80") == 20
    assert node.run("diff", "-f", str(node.manifests), "--node-name", "node-1") == ""


def test_a_restart_writes_nothing(node: Supervised) -> None:
    schedulers = ("favourite", "by-client", "pairs")
    for number, name in enumerate(schedulers, 1):
        annotations = {"pointsman.dev/scheduler": f"example.com/{name}"}
        documents = [service(name, f"10.96.1.{number}", annotations=annotations), *slices(name, *node.ground.pods)]
        node.write(f"{name}.json", *documents)
    node.start()
    node.agent.kill()
    node.start()
    assert node.syncs()[-1] == (0, 0)


def test_it_is_drawn_in_turn_or_by_the_client(node: Supervised) -> None:
    give_addresses(node.ground)
    node.write("web.json", *web(node, "example.com/pairs"))
    node.start()
    client, names = node.ground.client, [pod.name for pod in node.ground.pods]
    turns = [reach(client, vip()) for _ in range(12)]
    assert "".join(turns) in "".join(name * 2 for name in names) * 4
    node.put("web.json", *web(node, "example.com/by-client"))
    chosen = [reach(client, vip(), source=client_address(number, 4)) for number in range(60)]
    assert set(chosen) == set(names)
    assert [reach(client, vip(), source=client_address(number, 4)) for number in range(60)] == chosen


def test_one_that_is_not_there_is_a_problem_of_the_service(node: Supervised) -> None:
    node.write("web.json", *web(node, "example.com/fastest"))
    node.start()
    assert everybody(node)
    assert (
        'Service test/web: metadata.annotations[pointsman.dev/scheduler]: "example.com/fastest" is not there in mode '
        'nftables, which is in force; "random" is used; pip install the package that has it'
    ) in node.log.read_text("utf-8")


def test_what_cannot_be_used_is_told_at_the_start_and_is_no_crash(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    points = {
        "pointsman.dataplanes": {"example.com/bad": "bad:x"},
        "pointsman.schedulers": {"example.com/bad": "bad:x"},
    }
    metadata(site, "bad", "1.0", points)
    (site / "bad.py").write_text("raise RuntimeError('no hardware')\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(site))
    with supervised(ground, tmp_path) as node:
        node.write("web.json", *web(node, "example.com/bad"))
        node.write("config.json", config(mode="example.com/bad"))
        node.start()
        assert node.agent.mode() == "nftables"
        assert everybody(node)
        log = node.log.read_text("utf-8")
    assert "bad 1.0: entry point example.com/bad: pointsman.schedulers: it cannot be used (RuntimeError: no hard" in log
    assert "the dataplane example.com/bad of bad 1.0 cannot be imported: RuntimeError: no hardware" in log
