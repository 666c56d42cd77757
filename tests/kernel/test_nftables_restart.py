"""The agent is killed, started again, replaced, stopped: no connection notices."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.traffic import Held, Load
from support.agents import Supervised, server_at, supervised
from support.manifests import service, slices
from support.proxied import generation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.manifests import Document

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

V4, V6, PORT = "10.96.0.1", "fd00:10:96::1", 30080
CONNECTIONS = 1000


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        yield made


def web(node: Supervised, *, pods: int = 3) -> list[Document]:
    return [service("web", V4, V6, node_port=PORT), *slices("web", *node.ground.pods[:pods])]


def many(count: int) -> list[Document]:
    """Make Services of every kind, for there to be something to read back."""
    found: list[Document] = []
    for number in range(count):
        ips = f"10.97.{number >> 8}.{number & 255}", f"fd00:10:96::9:{number:x}"
        kind = number // 5 % 5
        spec: list[dict[str, object]] = [
            {},
            {"sessionAffinity": "ClientIP"},
            {"externalTrafficPolicy": "Local"},
            {"loadBalancerSourceRanges": ["203.0.113.0/24", "10.0.0.0/8"]},
            {},
        ]
        scheduler = ("rr", "wrr", "sh", "dh", "mh")[number % 5]
        found.append(
            service(
                f"s{number}",
                *ips,
                node_port=31000 + number if kind == 2 else 0,
                balancer_ips=[f"198.51.100.{number}"] if kind == 3 else [],
                annotations={"pointsman.dev/scheduler": scheduler} if kind == 4 else None,
                spec=spec[kind],
            )
        )
    return found


def test_nothing_breaks_when_the_agent_is_killed_started_replaced_and_stopped(
    node: Supervised, capsys: pytest.CaptureFixture[str]
) -> None:
    client, pods = node.ground.client, node.ground.pods
    node.write("web.json", *web(node))
    node.start()
    with (
        Held(client, V4, 80, count=CONNECTIONS // 2) as four,
        Held(client, V6, 80, count=CONNECTIONS // 4) as six,
        Held(client, node.ground.node.address(), PORT, count=CONNECTIONS // 4) as port,
        Load(client, V4, 80) as load,
    ):
        lives = (four, six, port)
        node.agent.kill()
        load.wait(50)
        assert [held.broken() for held in lives] == [[], [], []]

        node.start()
        load.wait(50)
        assert [held.broken() for held in lives] == [[], [], []]
        assert node.syncs()[-1] == (0, 0)

        # While it is away, one endpoint leaves, and a Service comes.
        node.agent.kill()
        node.write("web.json", *web(node, pods=2))
        node.write("more.json", service("more", "10.96.0.2"), *slices("more", pods[0]))
        node.start()
        synced = time.monotonic()
        load.wait(50)
        assert [held.broken() for held in lives] == [[], [], []]
        assert server_at(client, "10.96.0.2") == "web-1"

        node.agent.stop()
        load.wait(50)
        assert [held.broken() for held in lives] == [[], [], []]
    assert load.spread().failures == []
    assert load.spread().servers.keys() == {"web-1", "web-2", "web-3"}
    assert load.spread(since=synced).servers.keys() == {"web-1", "web-2"}
    assert "web-3" in four.servers
    with capsys.disabled():
        print(f"\nrestart: {CONNECTIONS} held connections lived on, {len(load.samples)} new ones, none failed")  # noqa: T201 (a measurement)


def test_killed_at_any_moment(node: Supervised) -> None:
    """Wherever a kill comes in between, the next agent finds something that it can go on from."""
    client, pods = node.ground.client, node.ground.pods
    node.write("web.json", *web(node))
    node.start()
    names = [document["metadata"]["name"] for document in many(50)]
    with Load(client, V4, 80) as load, Held(client, V4, 80, count=50) as held:
        for count, pause in enumerate((0.3, 0.35, 0.4, 0.45, 0.5, 0.55)):
            node.agent.kill()
            node.write("many.json", *many(50), *(s for name in names for s in slices(name, *pods[: count % 4])))
            node.agent.start()
            time.sleep(pause)
        node.agent.kill()
        node.start()
        assert held.broken() == []
    assert load.spread().failures == []
    for number in range(50):
        assert server_at(pods[2], f"10.97.0.{number}") in {"web-1", "web-2"}
    node.agent.kill()
    node.start()
    assert node.syncs()[-1] == (0, 0)


def test_a_restart_with_nothing_to_change_writes_nothing(node: Supervised) -> None:
    documents = many(50)
    for document in documents[:40]:
        documents += slices(document["metadata"]["name"], *node.ground.pods)
    node.write("web.json", *web(node), *documents)
    node.start()
    added, removed = node.syncs()[-1]
    assert added > 500
    assert removed == 0
    before = generation(node.ground.node)
    for end in (node.agent.kill, node.agent.stop):
        end()
        node.start()
        assert node.syncs()[-1] == (0, 0)
    # Not one transaction reached the kernel.
    assert generation(node.ground.node) == before


def test_a_restart_after_changes_writes_nothing_either(node: Supervised) -> None:
    """What changes left behind is the same as what a start would have made."""
    pods = node.ground.pods
    node.write("web.json", *web(node))
    node.start()
    names = [document["metadata"]["name"] for document in many(25)]
    for count in (1, 3, 2, 0, 3):
        node.put("many.json", *many(25), *(s for name in names for s in slices(name, *pods[:count])))
    node.put("web.json", *web(node, pods=1))
    before = generation(node.ground.node)
    node.agent.kill()
    node.start()
    assert node.syncs()[-1] == (0, 0)
    assert generation(node.ground.node) == before


def test_cleanup_removes_both_tables_and_nothing_else(node: Supervised) -> None:
    client, namespace = node.ground.client, node.ground.node.namespace
    namespace.run("nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }")
    node.write("web.json", *web(node))
    node.start()
    node.agent.stop()
    assert server_at(client, V4)
    assert "table ip6 pointsman (" in node.run("cleanup")
    assert namespace.run("nft", "list", "tables") == "table inet other\n"
    assert not server_at(client, V4)
    node.run("cleanup")
    node.start()
    assert server_at(client, V4)
