"""`pointsman cleanup` in a real kernel: what kube-proxy left is found and removed, and everything of others stays.

The rules are those that kube-proxy writes, by hand; the control plane tier has a real one.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from pyroute2 import IPSet
from pyroute2.ipset import PortEntry

from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.leftovers import KubeProxy, held_by
from pointsman.dataplane.leftovers.device import Device
from pointsman.dataplane.leftovers.ipsets import Ipsets
from pointsman.lab.namespaces import Namespace, create, new_prefix, remove

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

PLACES: Final[tuple[tuple[str, str], ...]] = tuple(
    (program, variant) for program in ("iptables", "ip6tables") for variant in ("nft", "legacy")
)
OTHERS: Final = """\
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:CNI-HOSTPORT - [0:0]
:KUBE-MARK-DROP - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT
-A POSTROUTING -m mark --mark 0x8/0x8 -j MASQUERADE
-A CNI-HOSTPORT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
-A KUBE-MARK-DROP -j MARK --or-mark 0x8000
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -p tcp -m comment --comment "kubernetes forwarding rules" -m tcp --dport 22 -j ACCEPT
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""
"""kubelet's chains, a CNI plugin's, an administrator's."""
IPTABLES: Final = """\
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-MAU7ERFCJB7QMBT7 - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 30080 -j KUBE-SVC-MAU7ERFCJB7QMBT7
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination {backend}
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m recent --name KUBE-SEP-BBBBBBBBBBBBBBBB --set -j DNAT --to-destination {backend}
-A KUBE-SERVICES -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-MAU7ERFCJB7QMBT7
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -j KUBE-MARK-MASQ
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -m statistic --mode random --probability 0.5 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -j KUBE-SEP-BBBBBBBBBBBBBBBB
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SERVICES -p tcp -m comment --comment "default/none has no endpoints" -m tcp --dport 81 -j REJECT
COMMIT
"""
IPVS: Final = """\
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
COMMIT
*filter
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-I OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-I INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
COMMIT
"""
TABLE: Final = """
table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.1 . tcp . 80 : drop }
    }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
}
table ip6 kube-proxy { chain services { }; }
"""


@pytest.fixture
def node(_needs: None) -> Iterator[Namespace]:
    """A node with others' rules in both variants, and in a table that is called as kube-proxy's in another family."""
    prefix = new_prefix()
    (made,) = create([prefix + "node"])
    try:
        for program, variant in PLACES:
            made.run(f"{program}-{variant}-restore", "--noflush", stdin=OTHERS)
        made.run("nft", "add table inet kube-proxy; add chain inet kube-proxy c; add table ip other")
        yield made
    finally:
        remove([prefix + "node"])


def restore(node: Namespace, text: str, *, program: str, variant: str) -> None:
    backend = "10.0.0.1:80" if program == "iptables" else "[fd00::1]:80"
    node.run(f"{program}-{variant}-restore", "--noflush", stdin=text.replace("{backend}", backend))


def state(node: Namespace) -> list[str]:
    """Return all rules, sets and tables, without counters and times; empty tables' own chains count as nothing."""
    lines: list[str] = []
    for program, variant in PLACES:
        saved = node.run(f"{program}-{variant}-save")
        lines += [f"{program} {variant} {line.split(' [')[0]}" for line in saved.splitlines() if line[0] in ":-"]
    lines = [line for line in lines if not line.endswith(" ACCEPT")]
    with node.entered(), IPSet() as sets:
        lines += sorted(each.get_attr("IPSET_ATTR_SETNAME") for each in sets.list())
    tables = node.run("nft", "list", "tables").splitlines()
    return lines + [line for line in tables if line.split()[-1] not in {"nat", "filter", "mangle"}]


def cleanup(node: Namespace, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        node.run(sys.executable, "-m", "pointsman", "cleanup", "--kube-proxy", "-o", "json", *words)
    )
    return found


def members(found: dict[str, Any], kind: str, name: str = "") -> set[str]:
    """Return what is named as removed."""
    return {
        member
        for each in found["removed"].get("kube-proxy", [])
        if (each["kind"], each.get("name", "")) == (kind, name)
        for member in each["members"]
    }


def test_chains_of_the_mode_iptables_go_from_both_variants_and_families(node: Namespace) -> None:
    before = state(node)
    for program, variant in PLACES:
        restore(node, IPTABLES, program=program, variant=variant)
    full = state(node)
    told = cleanup(node, "--dry-run")
    assert state(node) == full, "a dry run changes nothing"
    done = cleanup(node)
    assert (done["removed"], done["kept"]) == (told["removed"], {})
    for program, variant in PLACES:
        found = members(done, "chains", f"table filter of {program}-{variant}")
        assert found == {
            *("KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS"),
            *("KUBE-PROXY-CANARY", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"),
        }
        assert members(done, "chains", f"table mangle of {program}-{variant}") == {"KUBE-PROXY-CANARY"}
    assert state(node) == before
    assert cleanup(node) == {"dryRun": False, "removed": {}, "kept": {}}


def test_tables_of_the_mode_nftables_go(node: Namespace) -> None:
    before = state(node)
    node.run("nft", "-f", "-", stdin=TABLE)
    done = cleanup(node)["removed"]["kube-proxy"]
    assert [(each["kind"], each["name"], each["detail"]) for each in done] == [
        ("table", "ip kube-proxy", "2 chains, 1 element of 1 set"),
        ("table", "ip6 kube-proxy", "1 chain, 0 elements of 0 sets"),
    ]
    assert state(node) == before


@pytest.fixture
def with_sets(node: Namespace) -> Namespace:
    """A node as the mode ipvs leaves it, as far as that is without IPVS itself."""
    with node.entered(), IPSet() as sets:
        sets.create("KUBE-NODE-PORT-TCP", stype="bitmap:port", bitmap_ports_range=(0, 65535))
        sets.add("KUBE-NODE-PORT-TCP", 30080, etype="port")
        sets.create("KUBE-NODE-PORT-SCTP-HASH", stype="hash:ip,port")
        sets.add("KUBE-NODE-PORT-SCTP-HASH", ("192.0.2.1", PortEntry(30090, protocol=132)), etype="ip,port")
        sets.create("KUBE-CLUSTER-IP", stype="hash:ip,port")
        sets.create("KUBE-OTHERS", stype="hash:ip")
    restore(node, IPVS, program="iptables", variant="nft")
    return node


def test_chains_and_ipsets_of_the_mode_ipvs_go(with_sets: Namespace) -> None:
    done = cleanup(with_sets)
    assert members(done, "ipsets") == {"KUBE-CLUSTER-IP", "KUBE-NODE-PORT-SCTP-HASH", "KUBE-NODE-PORT-TCP"}
    assert "KUBE-IPVS-OUT-FILTER" in members(done, "chains", "table filter of iptables-nft")
    left = state(with_sets)
    assert [line for line in left if "KUBE-" in line and "iptables nft" in line] == [
        *(f"iptables nft :{chain} -" for chain in ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")),
        "iptables nft :KUBE-FIREWALL -",
        "iptables nft -A INPUT -j KUBE-FIREWALL",
        "iptables nft -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        "iptables nft :KUBE-MARK-DROP -",
        "iptables nft -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000",
    ]
    assert "KUBE-OTHERS" in left


def test_node_ports_are_read_from_the_ipsets(with_sets: Namespace) -> None:
    with with_sets.entered():
        sets = Ipsets()
        assert sets.node_ports(sets.names()) == {("tcp", 30080), ("sctp", 30090)}


def test_what_rules_of_others_need_stays_and_is_named(with_sets: Namespace) -> None:
    with_sets.run("iptables-nft", "-t", "nat", "-A", "CNI-HOSTPORT", "-j", "KUBE-MARK-MASQ")
    rule = "*filter\n-A INPUT -m set --match-set KUBE-NODE-PORT-TCP dst -j ACCEPT\nCOMMIT\n"
    with_sets.run("iptables-nft-restore", "--noflush", stdin=rule)
    done = cleanup(with_sets)
    chains, sets = done["kept"]["kube-proxy"]
    assert (chains["members"], chains["kept"]) == (
        ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"],
        "rules of others lead there: -A CNI-HOSTPORT -j KUBE-MARK-MASQ",
    )
    assert (sets["members"], sets["kept"]) == (["KUBE-NODE-PORT-TCP"], "rules of others look into them")
    assert members(done, "ipsets") == {"KUBE-CLUSTER-IP", "KUBE-NODE-PORT-SCTP-HASH"}
    saved = with_sets.run("iptables-nft-save", "-t", "nat")
    assert "-A CNI-HOSTPORT -j KUBE-MARK-MASQ\n" in saved
    assert '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING\n' in saved
    assert ":KUBE-SERVICES" not in saved


def test_a_device_of_another_kind_is_somebody_elses(node: Namespace) -> None:
    node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    node.run("ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    done = cleanup(node)
    assert done["removed"] == {}
    assert [each["name"] for each in done["kept"]["kube-proxy"]] == ["kube-ipvs0"]
    assert "kube-ipvs0" in node.run("ip", "link")


def test_the_device_goes_with_its_addresses(node: Namespace) -> None:
    # A bridge in place of a dummy device, which not every kernel has.
    node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    node.run("ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    node.run("ip", "address", "add", "fd00:10:96::1/128", "dev", "kube-ipvs0")
    node.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    with node.entered():
        device = Device(kind="bridge")
        try:
            assert device.addresses() == {"10.96.0.1", "fd00:10:96::1"}
            assert [each.detail for each in device.find()] == ["2 addresses"]
            device.remove()
            assert device.find() == []
            device.remove()
        finally:
            device.close()
    assert "kube-ipvs0" not in node.run("ip", "link")


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_chains_of_our_mode_iptables_are_told_from_kube_proxys(node: Namespace, variant: str) -> None:
    restore(node, IPTABLES, program="iptables", variant="nft")
    restore(node, IPTABLES, program="iptables", variant="legacy")
    node.run(f"iptables-{variant}", "-t", "nat", "-N", "POINTSMAN-HINT")
    ours, other = f"table nat of iptables-{variant}", {"nft": "legacy", "legacy": "nft"}[variant]
    done = cleanup(node)
    assert members(done, "chains", ours) == {"KUBE-PROXY-CANARY"}
    assert "KUBE-SERVICES" in members(done, "chains", f"table nat of iptables-{other}")
    assert [each["name"] for each in done["kept"]["kube-proxy"]] == [ours]
    said = node.run(sys.executable, "-m", "pointsman", "cleanup", "--dry-run")
    assert f"  chains of {ours}: KUBE-MARK-MASQ, KUBE-NODEPORTS, KUBE-POSTROUTING, 2 KUBE-SEP-…" in said
    assert other not in said
    assert ":KUBE-SERVICES" in node.run(f"iptables-{variant}-save", "-t", "nat")


def test_where_nothing_can_list_chains_that_is_said(node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tools, "is_installed", property(lambda _self: False))
    with node.entered():
        left = KubeProxy()
        found = left.find()
        left.close()
    assert {each.name for each in found} == {f"table … of {program}-{variant}" for program, variant in PLACES}
    assert all("install iptables" in each.kept for each in found)


def test_where_nothing_can_list_chains_of_ours_is_told_by_the_hint(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(Tools, "is_installed", property(lambda _self: False))
    with node.entered():
        assert held_by("iptables") == []
    node.run("iptables-nft", "-t", "nat", "-N", "POINTSMAN-HINT")
    with node.entered():
        (found,) = held_by("iptables") or []
    assert (found.name, found.members) == ("table nat of iptables-nft", ("POINTSMAN-HINT",))
    assert "install iptables" in found.kept


def test_ours_and_kube_proxys_are_removed_apart(node: Namespace) -> None:
    before = state(node)
    node.run("nft", "add table ip pointsman; add chain ip pointsman c; add table ip6 pointsman-ipvs")
    for protocol, network in (("112", "10.96.0.0/12"), ("113", "169.254.112.112/32"), ("114", "192.0.2.0/24")):
        node.run("ip", "route", "add", "local", network, "dev", "lo", "table", "local", "proto", protocol)
    restore(node, IPTABLES, program="iptables", variant="nft")
    cleanup(node)
    tables = node.run("nft", "list", "tables")
    assert "table ip pointsman\n" in tables
    assert "table ip6 pointsman-ipvs\n" in tables
    restore(node, IPTABLES, program="iptables", variant="nft")
    said = node.run(sys.executable, "-m", "pointsman", "cleanup")
    assert said.splitlines() == [
        "nftables: removed",
        "  table ip pointsman (1 chain, 0 elements of 0 sets)",
        "ipvs: removed",
        "  table ip6 pointsman-ipvs (0 chains, 0 elements of 0 sets)",
        "  local routes of protocol 112: 10.96.0.0/12",
        "userspace: removed",
        "  local routes of protocol 113: 169.254.112.112/32",
    ]
    routes = node.run("ip", "route", "show", "table", "local")
    assert "local 192.0.2.0/24 " in routes
    assert "proto 112" not in routes
    assert "proto 113" not in routes
    assert ":KUBE-SERVICES" in node.run("iptables-nft-save", "-t", "nat")
    cleanup(node)
    assert state(node) == before
