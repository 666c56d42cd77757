"""Changes of a node's mode under load: who notices (docs/changing-modes.md); those of `ipvs` are in the vm tier."""

from __future__ import annotations

from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.iptables import IptablesDataplane
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.dataplane.protocol import DataplaneError
from pointsman.dataplane.userspace import UserspaceDataplane
from pointsman.lab.network import Network
from pointsman.lab.servers import Servers
from pointsman.lab.traffic import Load
from pointsman.lab.waiting import wait_until
from pointsman.model.plan import Plan, UserspaceSettings
from support.dataplanes import open_dataplane
from support.latest import Latest
from support.mode_changes import SERVICE, VIP, ChangingNode, Flows, Lines, changing_node, expect, slices_at
from support.proxied import SETTINGS, answer, vip
from support.steady import steady

from .conftest import lay_ground

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane, Written
    from pointsman.lab.network import Host

    from .conftest import Ground

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(600)]

WAY = ("nftables", "iptables", "nftables", "userspace", "iptables", "userspace", "nftables")


@contextmanager
def grounded() -> Iterator[ChangingNode]:
    with Network() as network, Servers() as servers, changing_node(lay_ground(network, servers)) as made:
        yield made


@pytest.fixture(scope="module")
def _node() -> Iterator[Latest[ChangingNode]]:
    with Latest[ChangingNode]() as made:
        yield made


@pytest.fixture
def node(_needs: None, _node: Latest[ChangingNode]) -> ChangingNode:
    """A node that all changes are made on, one after the other: what drains meanwhile is a part of it."""
    return _node.get("node", grounded)


@pytest.mark.parametrize(("before", "after"), list(pairwise(WAY)))
def test_nobody_notices_a_change(
    node: ChangingNode, before: Mode, after: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.put_in_force(before)
    expect(node.change(after, connections=100), before, after, capsys)


class UnluckyNftables(NftablesDataplane):
    """Writes the whole plan, and then fails: it decides already."""

    def adopt(self, plan: Plan) -> Written:
        super().adopt(plan)
        raise BUSY


class UnluckyIptables(IptablesDataplane):
    """As `UnluckyNftables`."""

    def adopt(self, plan: Plan) -> Written:
        super().adopt(plan)
        raise BUSY


class UnluckyUserspace(UserspaceDataplane):
    """As `UnluckyNftables`; clients come to its proxy before it fails, and those that ended are soon forgotten."""

    def adopt(self, plan: Plan) -> Written:
        settings = msgspec.structs.replace(plan.settings, userspace=UserspaceSettings(udp_idle_timeout=5.0))
        super().adopt(msgspec.structs.replace(plan, settings=settings))
        wait_until(lambda: self.carried() > 0, "a client that comes to the proxy", patience=60, pause=0.001)
        raise BUSY


BUSY = DataplaneError("the second family is busy")
UNLUCKY: Mapping[Mode, Callable[[], Dataplane]] = {
    "nftables": UnluckyNftables,
    "iptables": UnluckyIptables,
    "userspace": UnluckyUserspace,
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("iptables", "nftables"),
        ("userspace", "nftables"),
        ("nftables", "iptables"),
        ("userspace", "iptables"),
        ("nftables", "userspace"),
        ("iptables", "userspace"),
    ],
)
def test_nobody_notices_a_change_that_fails_half_way(ground: Ground, before: Mode, after: Mode) -> None:
    with changing_node(ground, {after: UNLUCKY[after]}) as node:
        node.put_in_force(before)
        held = steady(lambda: listed_on(ground))
        outcomes = []
        seen = node.watch(lambda: outcomes.append(node.ask_for(after)))
        expect(seen, before, after)
        (facts,) = [outcome.facts for outcome in outcomes]
        assert (facts.mode, facts.wanted, facts.why) == (before, after, f"{after}: the second family is busy")
        if after == "userspace":
            assert set(facts.draining) == {"userspace"}, "it serves what came to it meanwhile"
            wait_until(lambda: node.draining() == {}, "its connections end", patience=30, pause=0.1)
        assert steady(lambda: listed_on(ground)) == held, "nothing of the other one is left"


def listed_on(ground: Ground) -> list[str]:
    """Return our tables and chains with their rules, without counters; routes to the node itself, and listeners."""
    run = ground.node.namespace.run
    tables = [each for each in run("nft", "-s", "list", "ruleset").split("table ") if "pointsman" in each[:20]]
    saved = [run("xtables-nft-multi", f"{command}-save") for command in ("iptables", "ip6tables")]
    return [
        *(line for table in tables for line in table.splitlines() if "counter packets" not in line),
        *(line for each in saved for line in each.splitlines() if line.startswith(("-A", ":KUBE", ":POINTSMAN"))),
        *(run("ip", family, "route", "show", "table", "local") for family in ("-4", "-6")),
        *sorted(run("ss", "-Hltn").splitlines()),
    ]


class Slow(NftablesDataplane):
    """Carries connections as long as it is told to."""

    carries = True

    def retire(self, limit: float) -> None:
        del limit

    def carried(self) -> int:
        return int(self.carries)


def test_a_mode_that_comes_back_while_it_drains_loses_nothing(ground: Ground) -> None:
    opened: list[Slow] = []

    def open_slow() -> Slow:
        opened.append(Slow())
        return opened[-1]

    with changing_node(ground, {"nftables": open_slow}) as node:
        node.put_in_force("nftables")
        expect(node.change("iptables"), "nftables", "iptables")
        assert node.draining() == {"nftables": 1}
        expect(node.change("nftables"), "iptables", "nftables")
        assert node.draining() == {}
        expect(node.change("iptables"), "nftables", "iptables")
        opened[-1].carries = False
        assert node.draining() == {}
        assert "table ip pointsman " not in ground.node.namespace.run("nft", "list", "ruleset")


@pytest.mark.parametrize("after", ["nftables", "iptables"])
def test_clients_of_the_proxy_that_drains_follow_their_service(ground: Ground, after: Mode) -> None:
    """UDP clients, which send from one port all the time, leave a backend that leaves, and a Service that goes."""
    leaver, *others = ground.pods
    with changing_node(ground) as node:
        node.put_in_force("userspace")
        with (
            Lines(ground.client, VIP[4], 80, node.free_ports(6)) as lines,
            Flows(ground.client, VIP[4], 80, node.free_ports(6)) as four,
            Flows(ground.client, VIP[6], 80, node.free_ports(6)) as six,
        ):
            node.put_in_force(after)
            for flows in (four, six):
                flows.rest()
            silence(leaver)
            node.sync(*slices_at(others))
            for flows in (four, six):
                assert "web-1" in flows.servers
                stayed = [(a, b) for a, b in zip(flows.servers, flows.ask(), strict=True) if a != "web-1"]
                assert all(a == b for a, b in stayed), "who has a backend keeps it"
                assert {"", "web-1"}.isdisjoint(flows.ask())
            assert "userspace" in node.draining()
            node.remove(SERVICE)
            assert [*four.ask(0.1), *six.ask(0.1)] == [""] * 12
            assert lines.alive() == 6, "established connections go on, also to a backend that has left"


def silence(pod: Host) -> None:
    """Let a pod get no datagram any more, and say nothing about it."""
    hook = "{ type filter hook input priority 0; }"
    rules = f"add table inet t; add chain inet t input {hook}; add rule inet t input udp dport 80 drop"
    pod.namespace.run("nft", rules)


def test_a_mode_that_comes_and_goes_refuses_nobody(ground: Ground) -> None:
    """Packets are half-way through its rules at any moment of it; the mode below answers them."""
    servers = [ground.servers.start(pod, 9000, address=pod.address()) for pod in ground.pods[:2]]
    plan = Plan({vip(): msgspec.structs.replace(answer(servers), exclusive=True)}, SETTINGS)
    below, above = open_dataplane(ground.node, "iptables"), open_dataplane(ground.node, "nftables")
    with closing(below), closing(above):
        below.adopt(plan)
        with Load(ground.client, vip().address, 80, pause=0, timeout=5) as load:
            for _ in range(100):
                above.adopt(plan)
                above.cleanup()
    assert load.spread().failures == []
