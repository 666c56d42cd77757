"""The rules in the kernel: two ways of loading them agree, they can be listed and loaded again, and don't grow."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from pointsman.dataplane.nftables import NftablesDataplane, render
from pointsman.lab.traffic import Answered, connect
from pointsman.model.plan import (
    NODE_PORT,
    Answer,
    Backend,
    Frontend,
    NodeSettings,
    Plan,
    Pool,
    apply,
    difference,
)
from support.ruleset import read_ruleset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.lab.network import Host, Network
    from pointsman.model.plan import Family, Transport

    from .conftest import Ground

SCHEDULERS = ("random", "rr", "wrr", "sh", "dh")
EVERY_SCHEDULER = (*SCHEDULERS, "mh")
"""`mh` has a thousand slots and more for each frontend: nft takes seconds for so many elements."""
FAMILIES: tuple[Family, ...] = (4, 6)
PROTOCOLS: tuple[Transport, ...] = ("tcp", "udp", "sctp")
CLUSTER = {4: "10.96.0.", 6: "fd00:10:96::"}
EXTERNAL = {4: "198.51.100.", 6: "2001:db8:198::"}
PODS = {4: "192.168.1.", 6: "fd00:192:168:1::"}
RANGES = {4: ("10.0.0.0/9", "10.128.0.0/9", "203.0.113.0/25", "203.0.113.7/32"), 6: ("2001:db8:203::/64", "::1/128")}
SETTINGS = NodeSettings(
    ("192.168.0.0/16", "fd00:192:168::/48"),
    ("10.96.0.0/16", "10.97.0.0/17", "fd00:10:96::/112"),
    ("172.16.0.1/32", "fd00:172:16::1/128"),
)

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")


def rich_plan(backends: int = 6, schedulers: Iterable[str] = SCHEDULERS) -> Plan:
    """Make a plan with all schedulers with and without affinity, outside pools, source ranges, weights, families."""
    answers: dict[Frontend, Answer] = {}
    numbers = itertools.count(1)
    for family, scheduler, affinity in itertools.product(FAMILIES, schedulers, (None, 60, 10800)):
        if (scheduler, affinity) in {("mh", None), ("mh", 10800)}:
            continue
        number = next(numbers)
        protocol = PROTOCOLS[number % 3]
        pool = backends_of(family, backends)
        weighted = Pool((Backend(f"{PODS[family]}2", 80, 3), Backend(f"{PODS[family]}3", 80, 0), *pool.backends[-2:]))
        outside = Pool(pool.backends[: number % 3], "drop")
        name = f"test/s{number}"
        cluster_ip = f"{CLUSTER[family]}{number}"
        answers |= {
            Frontend(family, cluster_ip, protocol, 80): Answer(
                name, scheduler, pool, affinity=affinity, masquerade="off-cluster", exclusive=True
            ),
            Frontend(family, cluster_ip, protocol, 81): Answer(name, scheduler, weighted, exclusive=True),
            Frontend(family, NODE_PORT, protocol, 30000 + number): Answer(
                name, scheduler, pool, affinity=affinity, masquerade="always"
            ),
            Frontend(family, NODE_PORT, protocol, 31000 + number): Answer(
                name, scheduler, pool, outside, affinity=affinity, masquerade="node"
            ),
            Frontend(family, f"{EXTERNAL[family]}{number}", protocol, 53): Answer(
                name, scheduler, pool, affinity=affinity, masquerade="always", source_ranges=RANGES[family]
            ),
            Frontend(family, f"{EXTERNAL[family]}{number}", protocol, 54): Answer(
                name, scheduler, weighted, outside, affinity, masquerade="node", source_ranges=RANGES[family][:2]
            ),
            Frontend(family, f"{CLUSTER[family]}{number + 100}", protocol, 80): Answer(
                name, scheduler, Pool((), "drop" if number % 2 else "reject"), affinity=affinity, exclusive=True
            ),
        }
    return Plan(answers, SETTINGS)


def backends_of(family: Family, count: int) -> Pool:
    return Pool(tuple(Backend(f"{PODS[family]}{n}", 8080, local=n % 2 == 0) for n in range(2, 2 + count)))


def plain_plan(services: int) -> Plan:
    """Make a plan of many Services; their numbers of endpoints are 1, 2, 3, 1, 2, 3 ..."""
    answers = {}
    for family, number in itertools.product(FAMILIES, range(services)):
        address = f"10.96.{number // 250}.{number % 250 + 1}" if family == 4 else f"fd00:10:96::{number + 1:x}"
        answer = Answer(f"test/s{number}", "random", backends_of(family, number % 3 + 1), exclusive=True)
        answers[Frontend(family, address, "tcp", 80)] = answer
        answers[Frontend(family, NODE_PORT, "tcp", 30000 + number)] = structs.replace(answer, exclusive=False)
    return Plan(answers, SETTINGS)


class Kernels:
    """Network namespaces to load rules into."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._dataplanes: list[NftablesDataplane] = []

    def new(self, name: str) -> Host:
        host = self._network.client(name)
        self._network.build()
        return host

    def dataplane(self, host: Host) -> NftablesDataplane:
        with host.namespace.entered():
            self._dataplanes.append(NftablesDataplane())
        return self._dataplanes[-1]

    def close(self) -> None:
        for dataplane in self._dataplanes:
            dataplane.close()


@pytest.fixture
def kernels(network: Network) -> Iterator[Kernels]:
    made = Kernels(network)
    yield made
    made.close()


def ruleset(host: Host) -> str:
    return host.namespace.run("nft", "list", "ruleset")


def load(host: Host, script: str) -> None:
    host.namespace.run("nft", "-f", "-", stdin=script)


def test_the_script_and_the_dataplane_load_the_same(kernels: Kernels) -> None:
    plan = rich_plan(schedulers=EVERY_SCHEDULER)
    by_script, by_netlink = kernels.new("script"), kernels.new("netlink")
    load(by_script, render(plan))
    assert not kernels.dataplane(by_netlink).adopt(plan).refused
    expected, found = read_ruleset(ruleset(by_script)), read_ruleset(ruleset(by_netlink))
    assert len(found) > 150
    assert sum(len(block.elements) for block in found.values()) > 10_000
    assert found == expected


def test_changes_lead_to_the_same_rules_as_a_start(kernels: Kernels) -> None:
    before, after = rich_plan(4), rich_plan(7)
    gone = sorted(after.answers)[::5]
    after = Plan({frontend: answer for frontend, answer in after.answers.items() if frontend not in gone}, SETTINGS)
    by_script, by_change = kernels.new("script"), kernels.new("change")
    load(by_script, render(after))
    dataplane = kernels.dataplane(by_change)
    dataplane.adopt(before)
    delta = difference(before, after)
    assert apply(before, delta) == after
    assert not dataplane.apply(delta).refused
    expected, found = read_ruleset(ruleset(by_script)), read_ruleset(ruleset(by_change))
    # Which slot an endpoint has depends on the way; that each has as many as it should does not.
    differing = {name for _, name in found.keys() | expected.keys() if found.get((_, name)) != expected.get((_, name))}
    assert differing <= {"map endpoints", "map node-port-endpoints"}
    assert dataplane.read() == kernels.dataplane(by_script).read()


def test_a_dataplane_takes_over_from_a_script(kernels: Kernels) -> None:
    plan = rich_plan()
    host = kernels.new("script")
    load(host, render(plan))
    before = read_ruleset(ruleset(host))
    dataplane = kernels.dataplane(host)
    assert not dataplane.adopt(plan).refused
    assert read_ruleset(ruleset(host)) == before
    written = dataplane.adopt(plan)
    assert (written.added, written.removed, written.refused) == (0, 0, {})


@pytest.mark.parametrize("plan", [Plan({}), Plan({}, SETTINGS), rich_plan(1)], ids=["nothing", "settings", "few"])
def test_small_plans_are_loaded_alike(kernels: Kernels, plan: Plan) -> None:
    by_script, by_netlink = kernels.new("script"), kernels.new("netlink")
    load(by_script, render(plan))
    assert not kernels.dataplane(by_netlink).adopt(plan).refused
    assert read_ruleset(ruleset(by_netlink)) == read_ruleset(ruleset(by_script))


def test_a_script_is_loaded_over_another_one(kernels: Kernels) -> None:
    once, twice = kernels.new("once"), kernels.new("twice")
    load(once, render(rich_plan(3)))
    load(twice, render(rich_plan(6)))
    load(twice, render(rich_plan(3)))
    assert read_ruleset(ruleset(twice)) == read_ruleset(ruleset(once))


def test_checking_a_script_changes_nothing(kernels: Kernels) -> None:
    host = kernels.new("check")
    host.namespace.run("nft", "-c", "-f", "-", stdin=render(rich_plan()))
    assert ruleset(host) == ""


@pytest.mark.needs("user namespaces")
def test_a_plain_user_can_render_and_check(tmp_path: Path) -> None:
    objects = json.loads((Path(__file__).parents[1] / "vectors/founding_example.json").read_bytes())["objects"]
    manifest = tmp_path / "objects.json"
    manifest.write_text(json.dumps({"kind": "List", "items": [*objects["services"], *objects["endpointSlices"]]}))
    command = [sys.executable, "-m", "pointsman", "render", "-f", str(manifest), "--node-name", "master"]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "10.96.200.75 . tcp . 8080" in script
    check = ["unshare", "--user", "--map-root-user", "--net", "nft", "-c", "-f", "-"]
    done = subprocess.run(check, input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_listing_can_be_loaded_again(kernels: Kernels) -> None:
    first, second = kernels.new("first"), kernels.new("second")
    kernels.dataplane(first).adopt(rich_plan())
    listing = ruleset(first)
    load(second, listing)
    assert read_ruleset(ruleset(second), filled=True) == read_ruleset(listing, filled=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_listing_with_remembered_clients_can_be_loaded_again(
    kernels: Kernels, ground: Ground, family: Family
) -> None:
    first, second = ground.node, kernels.new("second")
    pods = tuple(sorted(Backend(pod.address(family), 80) for pod in ground.pods))
    frontend = Frontend(family, f"{CLUSTER[family]}1", "tcp", 80)
    answer = Answer("test/sticky", "random", Pool(pods), affinity=600, masquerade="off-cluster", exclusive=True)
    kernels.dataplane(first).adopt(Plan({frontend: answer}, SETTINGS))
    assert isinstance(connect(ground.client, frontend.address, 80), Answered)
    listing = ruleset(first)
    table = "ip pointsman" if family == 4 else "ip6 pointsman"
    (client,) = read_ruleset(listing, filled=True)[table, "map affinity"].elements
    assert re.search(r" \. tcp \. 80 timeout 10m expires \w+ : \S+$", client)
    load(second, listing)
    assert read_ruleset(ruleset(second)) == read_ruleset(listing)


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_table_can_be_listed_as_json(kernels: Kernels, family: str) -> None:
    host = kernels.new("json")
    plan = rich_plan()
    kernels.dataplane(host).adopt(plan)
    items = json.loads(host.namespace.run("nft", "-j", "list", "table", family, "pointsman"))["nftables"]
    maps = {item["map"]["name"]: item["map"] for item in items if "map" in item}
    of_family = [frontend for frontend in plan.answers if (frontend.family == 4) == (family == "ip")]
    virtual = [frontend for frontend in of_family if frontend.address != NODE_PORT]
    assert len(maps["services"]["elem"]) == len(virtual)
    assert len(maps["node-port-services"]["elem"]) == len(of_family) - len(virtual)
    assert {item["chain"]["hook"] for item in items if "hook" in item.get("chain", {})} == {
        "prerouting", "output", "input", "postrouting", "forward",
    }  # fmt: skip


def test_rules_do_not_grow_with_the_services(kernels: Kernels) -> None:
    few, many = kernels.new("few"), kernels.new("many")
    kernels.dataplane(few).adopt(plain_plan(10))
    kernels.dataplane(many).adopt(plain_plan(1000))
    small, large = read_ruleset(ruleset(few)), read_ruleset(ruleset(many))
    # Not only their number: every chain, every rule and every verdict map is the same.
    assert {key: block.body for key, block in small.items()} == {key: block.body for key, block in large.items()}
    grown = {name for table, name in small if len(small[table, name].elements) < len(large[table, name].elements)}
    assert grown == {"map services", "map endpoints", "map node-port-services", "map node-port-endpoints",
                     "set cluster-ips"}  # fmt: skip
    assert len(large["ip pointsman", "map services"].elements) == 1000


def test_only_our_tables_are_touched(kernels: Kernels) -> None:
    host = kernels.new("shared")
    load(host, "table ip other { chain c { type nat hook prerouting priority -100; tcp dport 1 counter accept; }; }")
    before = ruleset(host)
    dataplane = kernels.dataplane(host)
    dataplane.adopt(rich_plan())
    dataplane.apply(difference(rich_plan(), plain_plan(10)))
    dataplane.cleanup()
    assert ruleset(host) == before
