"""Another program empties our tables while the agent runs: real connections come back within a second."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Held
from support.agents import Supervised, seconds_until, server_now, supervised
from support.manifests import service, slices
from support.promptness import kept, seconds_until_mended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}
REPAIRS = {
    "flush table": ("flush table ip pointsman", "flush table ip6 pointsman"),
    "delete table": ("delete table ip pointsman", "delete table ip6 pointsman"),
    "flush ruleset": ("flush ruleset",),
    "delete an element": (
        "delete element ip pointsman services { 10.96.0.1 . tcp . 80 }",
        "delete element ip6 pointsman services { fd00:10:96::1 . tcp . 80 }",
    ),
    "insert a rule": ("insert rule ip pointsman dispatch drop", "insert rule ip6 pointsman dispatch drop"),
}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        for number in range(20):
            ips = f"10.96.0.{number + 1}", f"fd00:10:96::{number + 1:x}"
            made.write(f"{number}.json", service(f"s{number}", *ips), *slices(f"s{number}", *ground.pods))
        made.start()
        # As little as an agent can have written, that is nothing: it has to hear of others all the same.
        made.agent.kill()
        made.start()
        assert made.syncs()[-1] == (0, 0)
        yield made


def nft(node: Supervised, *commands: str) -> None:
    for command in commands:
        node.ground.node.namespace.run("nft", command)


def test_it_is_mended_within_a_second(node: Supervised, capsys: pytest.CaptureFixture[str]) -> None:
    client, took = node.ground.client, {}

    def is_mended() -> bool:
        return all(server_now(client, address) for address in VIP.values())

    with Held(client, VIP[4], 80, count=50) as held:
        for name, commands in REPAIRS.items():
            took[name] = kept(1, partial(seconds_until_mended, partial(nft, node, *commands), is_mended))
        assert held.broken() == []
    with capsys.disabled():
        print("\nmended after " + ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in took.items()))  # noqa: T201 (a measurement)


def test_changes_of_foreign_tables_lead_to_no_sync(node: Supervised) -> None:
    nft(node, "add table inet other", "add set inet other s { type ipv4_addr; }")
    before = len(node.syncs())
    for number in range(10):
        nft(node, f"add element inet other s {{ 192.0.2.{number} }}")
    nft(node, "delete table inet other")
    time.sleep(0.7)
    assert len(node.syncs()) == before
    nft(node, "flush table ip pointsman")
    seconds_until(lambda: bool(server_now(node.ground.client, VIP[4])))
    seconds_until(lambda: len(node.syncs()) > before)
    assert len(node.syncs()) == before + 1


def test_one_that_never_stops_is_outlived(node: Supervised) -> None:
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        nft(node, "flush table ip pointsman")
        time.sleep(0.02)
    seconds_until(lambda: bool(server_now(node.ground.client, VIP[4])))
    node.write("new.json", service("new", "10.96.1.1"), *slices("new", node.ground.pods[0]))
    seconds_until(lambda: server_now(node.ground.client, "10.96.1.1") == "web-1")
