"""`pointsman render --mode iptables`: for the founding example, the chains and decisions of the classic listing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from pointsman.cli.app import app
from pointsman.dataplane.iptables import render
from pointsman.model.parse import parse
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, IptablesSettings, NodeSettings, Plan, Pool
from pointsman.policy.planner import Planner
from support.iptables_memory import Fate, Memory, Packet, Tracer
from support.packet_flows import configuration

FOUNDING = json.loads((Path(__file__).parents[1] / "vectors/founding_example.json").read_text())
SIX = Frontend(6, "fd00:96::1", "udp", 53)

# What iptables-save prints of our chains, in the order in which a packet meets them.
LISTING = """\
*nat
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.200.75/32 -p tcp -m comment --comment "default/test-nginx-service cluster IP" \
-m tcp --dport 8080 -j KUBE-SVC-MAU7ERFCJB7QMBT7
-A KUBE-SERVICES -d 10.96.100.80/32 -p tcp -m comment --comment "default/test-nodeport-nginx-service cluster IP" \
-m tcp --dport 8080 -j KUBE-SVC-G2VUPYXWPERNYOKS
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" \
-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/test-nodeport-nginx-service" \
-m tcp --dport 30000 -j KUBE-EXT-G2VUPYXWPERNYOKS
-A KUBE-SVC-MAU7ERFCJB7QMBT7 ! -s 192.168.0.0/16 -d 10.96.200.75/32 -p tcp \
-m comment --comment "default/test-nginx-service cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -m comment --comment "default/test-nginx-service -> 192.168.0.15:80" \
-m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-OGZKJHHGYTKD3UTQ
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -m comment --comment "default/test-nginx-service -> 192.168.1.3:80" \
-j KUBE-SEP-HSRYBKZV7FW6O3LF
-A KUBE-SEP-OGZKJHHGYTKD3UTQ -s 192.168.0.15/32 -m comment --comment "default/test-nginx-service" -j KUBE-MARK-MASQ
-A KUBE-SEP-OGZKJHHGYTKD3UTQ -p tcp -m comment --comment "default/test-nginx-service" \
-m tcp -j DNAT --to-destination 192.168.0.15:80
-A KUBE-SEP-HSRYBKZV7FW6O3LF -s 192.168.1.3/32 -m comment --comment "default/test-nginx-service" -j KUBE-MARK-MASQ
-A KUBE-SEP-HSRYBKZV7FW6O3LF -p tcp -m comment --comment "default/test-nginx-service" \
-m tcp -j DNAT --to-destination 192.168.1.3:80
-A KUBE-EXT-G2VUPYXWPERNYOKS \
-m comment --comment "masquerade traffic for default/test-nodeport-nginx-service external destinations" \
-j KUBE-MARK-MASQ
-A KUBE-EXT-G2VUPYXWPERNYOKS -j KUBE-SVC-G2VUPYXWPERNYOKS
-A KUBE-SVC-G2VUPYXWPERNYOKS ! -s 192.168.0.0/16 -d 10.96.100.80/32 -p tcp \
-m comment --comment "default/test-nodeport-nginx-service cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-G2VUPYXWPERNYOKS -m comment --comment "default/test-nodeport-nginx-service -> 192.168.0.15:80" \
-m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-7GV7E43HFI4VRRCF
-A KUBE-SVC-G2VUPYXWPERNYOKS -m comment --comment "default/test-nodeport-nginx-service -> 192.168.1.3:80" \
-j KUBE-SEP-O45TMXGAOB2HO4YB
-A KUBE-SEP-7GV7E43HFI4VRRCF -s 192.168.0.15/32 \
-m comment --comment "default/test-nodeport-nginx-service" -j KUBE-MARK-MASQ
-A KUBE-SEP-7GV7E43HFI4VRRCF -p tcp -m comment --comment "default/test-nodeport-nginx-service" \
-m tcp -j DNAT --to-destination 192.168.0.15:80
-A KUBE-SEP-O45TMXGAOB2HO4YB -s 192.168.1.3/32 \
-m comment --comment "default/test-nodeport-nginx-service" -j KUBE-MARK-MASQ
-A KUBE-SEP-O45TMXGAOB2HO4YB -p tcp -m comment --comment "default/test-nodeport-nginx-service" \
-m tcp -j DNAT --to-destination 192.168.1.3:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
*filter
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-A KUBE-EXTERNAL-SERVICES \
-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" \
-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-FORWARD -p tcp -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" \
-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
"""


def founding_plan() -> Plan:
    config = configuration({}, "iptables").model_copy(update={"pod_cidrs": ("192.168.0.0/16",)})
    planner = Planner("master", config=config, addresses=("172.16.0.5",), mode="iptables")
    items = [*FOUNDING["objects"]["services"], *FOUNDING["objects"]["endpointSlices"]]
    for obj in parse(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()).objects:
        planner.put(obj)
    planner.take()
    return planner.plan


def loaded(script: str) -> tuple[Memory, Memory]:
    """Load what a script gives to the tools of both families."""
    memories = Memory(), Memory()
    for memory, tool in zip(memories, ("iptables-restore", "ip6tables-restore"), strict=True):
        memory.restore(script.partition(f"\n{tool} --noflush -w 5 <<'END'\n")[2].partition("END\n")[0])
    return memories


def test_the_founding_example() -> None:
    memory, _ = loaded(render(founding_plan()))
    wanted: dict[str, dict[str, list[str]]] = {}
    for line in LISTING.splitlines():
        if line.startswith("*"):
            chains = wanted.setdefault(line[1:], {})
        else:
            chains.setdefault(line.split(" ")[1], []).append(line)
    assert {table: {c: list(r) for c, r in chains.items() if r} for table, chains in memory.held().items()} == wanted


def test_decisions_of_the_founding_example() -> None:
    memory, _ = loaded(render(founding_plan()))
    tracer = Tracer(memory, {"172.16.0.5"})
    both = frozenset(FOUNDING["flows"][0]["endpoints"])
    assert tracer.fate(Packet("192.168.0.7", "10.96.200.75", "tcp", 8080)) == Fate("dnat", both)
    assert tracer.fate(Packet("172.16.0.5", "10.96.200.75", "tcp", 8080)) == Fate("dnat", both, masqueraded=True)
    assert tracer.fate(Packet("203.0.113.7", "172.16.0.5", "tcp", 30000)) == Fate("dnat", both, masqueraded=True)
    assert tracer.fate(Packet("203.0.113.7", "172.16.0.5", "tcp", 30001)) == Fate("none")


def test_both_families() -> None:
    pool = Pool((Backend("fd00:1::1", 53), Backend("fd00:1::2", 53)))
    plan = Plan({SIX: Answer("default/dns:dns", "random", pool, exclusive=True, affinity=60)}, NodeSettings())
    four, six = loaded(render(plan))
    assert not any("dns" in rule for chains in four.tables.values() for rules in chains.values() for rule in rules)
    fate = Tracer(six, set()).fate(Packet("2001:db8::7", "fd00:96::1", "udp", 53))
    assert fate == Fate("dnat", frozenset(("[fd00:1::1]:53", "[fd00:1::2]:53")))


def test_loopback_needs_the_kernels_consent() -> None:
    settings = NodeSettings((), (), ("0.0.0.0/0",), iptables=IptablesSettings(14, localhost_node_ports=True))
    assert "sysctl -w net.ipv4.conf.all.route_localnet=1\n" in render(Plan({}, settings))
    assert "sysctl" not in render(Plan({}, NodeSettings()))


def test_a_shell_reads_it() -> None:
    answer = Answer("default/web", "random", Pool((Backend("10.1.0.1", 80),)))
    text = render(Plan({Frontend(4, NODE_PORT, "tcp", 30080): answer}, NodeSettings()))
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "objects.json"
    items = [*FOUNDING["objects"]["services"], *FOUNDING["objects"]["endpointSlices"]]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    result = CliRunner().invoke(app, ["render", "-f", str(file), "--node-name", "master", "--mode", "iptables"])
    assert result.exit_code == 0, result.output
    memory, _ = loaded(result.stdout)
    tracer = Tracer(memory, {"172.16.0.5"})
    assert tracer.fate(Packet("192.168.0.7", "10.96.200.75", "tcp", 8080)).verdict == "dnat"
