"""What `pointsman cleanup` finds, says and removes; the kernel is a fake here."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from typer.testing import CliRunner

from pointsman.agent.outcome import Kernel
from pointsman.cli.app import app
from pointsman.cli.cleanup import answers, answers_as_kube_proxy, processes
from pointsman.cli.cleanup_text import Report, Section, as_document, text
from pointsman.dataplane.ipvs.objects import ServerKey
from pointsman.dataplane.leftovers import Leftover, chains, ipsets
from pointsman.dataplane.leftovers import modes as leftover_modes
from pointsman.dataplane.leftovers.virtual_servers import Marks, split
from pointsman.dataplane.protocol import DataplaneError
from support.command_line import said

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TABLE: Final = Leftover("table", "ip pointsman", detail="31 chains, 12 elements of 9 sets")
CHAINS: Final = Leftover("chains", "table nat of iptables-nft", members=("KUBE-SERVICES",))
STAYS: Final = Leftover("chains", "table nat of iptables-nft", members=("KUBE-MARK-MASQ",), kept="others need it")


class Machine:
    """A kernel that holds things; each mode's clean-up takes its own away."""

    def __init__(self) -> None:
        self.held: dict[str, list[Leftover]] = {"nftables": [], "ipvs": []}
        self.plugin_has_traces = False
        self.kube_proxy: list[Leftover] = []
        self.did: list[str] = []
        self.comes_back = False
        self.sysctl_root: Path | None = None
        self.error: Exception | None = None

    def own(self, mode: str) -> list[Leftover] | None:
        found = self.held.get(mode)
        return None if found is None else list(found)

    def kernel(self, sysctl_root: Path, own: object) -> Kernel:
        self.sysctl_root = sysctl_root
        assert own is not None, "packages of others are looked for"
        modes = (*self.held, "example.com/toy")
        openers = {mode: lambda mode=mode: FakeDataplane(self, mode) for mode in modes}
        return Kernel(openers, None, None, self.traces)  # type: ignore[arg-type]

    def traces(self, mode: str) -> bool:
        assert mode == "example.com/toy", "of the others it is known what they hold"
        return self.plugin_has_traces


class FakeDataplane:
    def __init__(self, machine: Machine, mode: str) -> None:
        self.machine, self.mode = machine, mode

    def cleanup(self) -> None:
        if self.machine.error is not None:
            raise self.machine.error
        self.machine.did.append(self.mode)
        if not self.machine.comes_back:
            self.machine.held[self.mode] = []

    def close(self) -> None:
        self.machine.did.append("close")


class FakeKubeProxy:
    machine: Machine

    def find(self) -> list[Leftover]:
        return list(self.machine.kube_proxy)

    def remove(self) -> list[Leftover]:
        self.machine.did.append("kube-proxy")
        return self.find()

    def close(self) -> None:
        pass


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(FakeKubeProxy, "machine", made, raising=False)
    monkeypatch.setattr("pointsman.cli.cleanup.answers", lambda _host, _port: False)
    monkeypatch.setattr("pointsman.cli.cleanup.answers_as_kube_proxy", lambda _host, _port: False)
    monkeypatch.setattr("pointsman.cli.cleanup.processes", lambda _name: [])
    monkeypatch.setattr("pointsman.agent.kernel.real_kernel", made.kernel)
    monkeypatch.setattr("pointsman.agent.startup.check_rights", lambda: None)
    monkeypatch.setattr("pointsman.dataplane.leftovers.held_by", made.own)
    monkeypatch.setattr("pointsman.dataplane.leftovers.legacy_is_unseen", lambda: False)
    monkeypatch.setattr("pointsman.dataplane.leftovers.KubeProxy", FakeKubeProxy)
    return made


def clean(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cleanup", *arguments])


def test_nothing_is_said_to_be_gone_that_was_not_there(machine: Machine) -> None:
    result = clean()
    assert (result.exit_code, result.output, machine.did) == (0, "nothing to remove\n", [])


def test_what_was_there_is_named_and_gone(machine: Machine) -> None:
    machine.held["nftables"] = [TABLE]
    result = clean()
    assert result.exit_code == 0
    assert result.output == "nftables: removed\n  table ip pointsman (31 chains, 12 elements of 9 sets)\n"
    assert machine.did == ["nftables", "close"]
    assert machine.held["nftables"] == []


def test_a_dry_run_says_the_same_and_removes_nothing(machine: Machine) -> None:
    machine.held["nftables"] = [TABLE]
    machine.kube_proxy = [CHAINS]
    result = clean("--dry-run", "--mode", "all", "--kube-proxy")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "nftables: would remove",
        "  table ip pointsman (31 chains, 12 elements of 9 sets)",
        "kube-proxy: would remove",
        "  chains of table nat of iptables-nft: KUBE-SERVICES",
    ]
    assert machine.did == []


def test_one_mode_alone(machine: Machine) -> None:
    machine.held = {"nftables": [TABLE], "ipvs": [Leftover("local routes", "protocol 112", members=("10.96.0.0/12",))]}
    result = clean("--mode", "ipvs")
    assert result.output == "ipvs: removed\n  local routes of protocol 112: 10.96.0.0/12\n"
    assert machine.held["nftables"] == [TABLE]


def test_kube_proxys_alone_leaves_ours_in_force(machine: Machine) -> None:
    machine.held["nftables"] = [TABLE]
    machine.kube_proxy = [CHAINS, STAYS]
    result = clean("--kube-proxy", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "dryRun": False,
        "removed": {
            "kube-proxy": [{"kind": "chains", "name": "table nat of iptables-nft", "members": ["KUBE-SERVICES"]}]
        },
        "kept": {
            "kube-proxy": [
                {
                    "kind": "chains",
                    "name": "table nat of iptables-nft",
                    "members": ["KUBE-MARK-MASQ"],
                    "kept": "others need it",
                }
            ]
        },
    }
    assert machine.held["nftables"] == [TABLE]
    assert machine.did == ["kube-proxy"]


def test_a_mode_from_elsewhere_is_asked_to_clean_up_where_it_may_have_left_something(machine: Machine) -> None:
    assert clean("--mode", "example.com/toy").output == "nothing to remove\n"
    machine.plugin_has_traces = True
    result = clean("--mode", "example.com/toy")
    assert result.output == "example.com/toy: removed\n  whatever its own package (example.com/toy) finds\n"
    assert result.exit_code == 0
    assert machine.did == ["example.com/toy", "close"]


def test_what_cannot_be_listed_stays_and_is_told(machine: Machine) -> None:
    machine.held["nftables"] = [TABLE]
    machine.held["iptables"] = [msgspec.structs.replace(STAYS, members=("POINTSMAN-HINT",), kept="install iptables")]
    expected = "iptables: left alone\n  chains of table nat of iptables-nft: POINTSMAN-HINT: install iptables\n"
    result = clean("--dry-run")
    assert (result.exit_code, result.stdout.endswith(expected)) == (1, True)
    result = clean()
    assert (result.exit_code, result.stdout.endswith(expected), result.stderr) == (1, True, "")
    assert machine.did == ["nftables", "close"], "there is nothing to remove it with"
    assert clean("--mode", "nftables").exit_code == 0


def test_tables_of_the_legacy_variant_that_nobody_can_list_are_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    machine.held["iptables"] = []
    monkeypatch.setattr("pointsman.dataplane.leftovers.legacy_is_unseen", lambda: True)
    result = clean("--mode", "iptables")
    assert result.exit_code == 0
    assert "pointsman cleanup: iptables-legacy has tables here, and nothing here can list them" in result.stderr
    assert clean("--mode", "nftables").stderr == ""


def test_an_unknown_mode_is_refused_with_those_that_there_are(machine: Machine) -> None:
    result = clean("--mode", "nftable")
    assert result.exit_code == 2
    assert "write one of all, nftables, ipvs, example.com/toy" in said(result.stderr)
    assert machine.did == []


def test_an_error_is_one_line_behind_what_is_gone_by_then(machine: Machine) -> None:
    machine.held["ipvs"] = [TABLE]
    machine.error = DataplaneError("busy")
    result = clean()
    assert result.exit_code == 1
    assert result.stderr == "pointsman cleanup: busy\n"
    assert machine.did == ["close"]


def test_after_an_error_nothing_is_not_said_to_be_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_mode: str) -> list[Leftover]:
        raise DataplaneError("cannot list it")

    monkeypatch.setattr("pointsman.dataplane.leftovers.held_by", fail)
    result = clean("--mode", "ipvs")
    assert (result.exit_code, result.stdout, machine.did) == (1, "", [])
    assert result.stderr == "pointsman cleanup: cannot list it\n"


def test_what_is_left_alone_is_not_nothing(machine: Machine) -> None:
    machine.held["iptables"] = [STAYS]
    result = clean("--mode", "iptables")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "iptables: left alone"


def test_parameters_are_written_where_sysctl_root_says(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "net" / "core").mkdir(parents=True)
    assert clean("--sysctl-root", str(tmp_path)).exit_code == 0
    assert machine.sysctl_root == tmp_path


def test_a_sysctl_root_without_parameters_is_refused_before_anything_is_removed(
    machine: Machine, tmp_path: Path
) -> None:
    machine.held["nftables"] = [TABLE]
    result = clean("--sysctl-root", str(tmp_path))
    assert (result.exit_code, result.stdout, machine.did) == (1, "", [])
    assert result.stderr.startswith(f"pointsman cleanup: --sysctl-root {tmp_path}: has no net/core")


def test_what_comes_back_is_told(machine: Machine) -> None:
    machine.held["nftables"] = [TABLE]
    machine.comes_back = True
    result = clean()
    assert result.exit_code == 1
    assert "mode nftables has still, or again: table ip pointsman" in result.stderr


def test_beside_an_agent_it_says_that_the_agent_has_to_stop_first(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.cli.cleanup.answers", lambda _host, _port: True)
    machine.held["nftables"] = [TABLE]
    assert "stop the agent first" in clean().stderr
    assert clean("--kube-proxy").stderr == "", "ours stay in force: the agent may run"


def test_a_kube_proxy_that_runs_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.cli.cleanup.processes", lambda name: [42] if name == "kube-proxy" else [])
    assert "kube-proxy runs here (process 42)" in clean("--kube-proxy").stderr
    assert clean().stderr == ""
    assert machine.did == ["kube-proxy"]
    monkeypatch.setattr("pointsman.cli.cleanup.processes", lambda _name: [])
    monkeypatch.setattr("pointsman.cli.cleanup.answers_as_kube_proxy", lambda _host, port: port == 10249)
    assert "kube-proxy runs here (http://127.0.0.1:10249 answers as it does)" in clean("--kube-proxy").stderr


def test_processes_are_found_by_name_in_this_network_namespace(tmp_path: Path) -> None:
    for directory, name, namespace in (("self", "x", "a"), ("7", "kube-proxy", "a"), ("8", "kube-proxy", "b")):
        at = tmp_path / directory / "ns"
        at.mkdir(parents=True)
        (tmp_path / directory / "comm").write_text(f"{name}\n")
        (tmp_path / namespace).touch()
        (at / "net").symlink_to(tmp_path / namespace)
    (tmp_path / "9").mkdir()
    assert processes("kube-proxy", tmp_path) == [7]
    assert processes("kube-proxy", tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("reply", "expected"), [(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", True), (b"SSH-2.0\r\n", False), (b"", False)]
)
def test_whether_an_agent_answers(monkeypatch: pytest.MonkeyPatch, reply: bytes, expected: bool) -> None:  # noqa: FBT001 (of the table)
    monkeypatch.setattr("pointsman.cli.cleanup._PATIENCE", 0.2 if not reply else 10)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        assert answers(*server.getsockname()) is expected
        served.result()
    assert not answers("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [({"/proxyMode": 200}, True), ({"/proxyMode": 200, "/connections": 200}, False), ({}, False)],
    ids=["kube-proxy", "an agent", "another program"],
)
def test_whether_kube_proxy_answers(statuses: dict[str, int], expected: bool) -> None:  # noqa: FBT001 (of the table)
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(server.serve_forever, 0.01)
        assert answers_as_kube_proxy("127.0.0.1", server.server_port) is expected
        server.shutdown()
        served.result()
    assert not answers_as_kube_proxy("127.0.0.1", 1)


def test_many_names_are_counted_for_people_and_whole_for_programs() -> None:
    services = [f"KUBE-SVC-{'A' * 15}{letter}" for letter in "ABCDEFG"]
    servers = [f"10.96.0.{number}:80/tcp" for number in range(30)]
    found = (
        Leftover("chains", "table nat of iptables-nft", members=("KUBE-SERVICES", *services)),
        Leftover("virtual servers", members=tuple(servers)),
    )
    report = Report(sections=[Section("kube-proxy", found)])
    lines = text(report).splitlines()
    assert lines[1] == "  chains of table nat of iptables-nft: KUBE-SERVICES, 7 KUBE-SVC-…"
    assert lines[2].startswith("  virtual servers: 10.96.0.0:80/tcp, ")
    assert lines[2].endswith("10.96.0.19:80/tcp and 10 more (-o json has all)")
    assert as_document(report)["removed"] == {"kube-proxy": found}


NAT: Final = """\
# Generated by iptables-nft-save v1.8.9 (nf_tables)
*nat
:PREROUTING ACCEPT [12:345]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-MAU7ERFCJB7QMBT7 - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -s 192.0.2.1/32 -j DNAT --to-destination 192.0.2.2
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
{more}\
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:80
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "x -j KUBE-NODEPORTS" -j KUBE-SVC-MAU7ERFCJB7QMBT7
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-MAU7ERFCJB7QMBT7 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ
-A KUBE-SVC-MAU7ERFCJB7QMBT7 -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
"""
ALL: Final = (
    "KUBE-MARK-MASQ",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-SEP-AAAAAAAAAAAAAAAA",
    "KUBE-SERVICES",
    "KUBE-SVC-MAU7ERFCJB7QMBT7",
)


def test_chains_of_kube_proxy_go_with_their_jumps_and_nothing_else() -> None:
    removal = chains.removal(NAT.format(more=""), "table {} of iptables-nft")
    detail = "8 rules, 3 jumps to them"
    assert removal.found == (Leftover("chains", "table nat of iptables-nft", members=ALL, detail=detail),)
    lines = removal.script.splitlines()
    assert lines[0] == "*nat"
    assert lines[-1] == "COMMIT"
    assert [line for line in lines if line.startswith("-D")] == [
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    ]
    assert sorted(line[3:] for line in lines if line.startswith("-X")) == list(ALL)
    assert sorted(line[1:].split()[0] for line in lines if line.startswith(":")) == list(ALL)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("-A CNI-HOSTPORT -j KUBE-MARK-MASQ", {"KUBE-MARK-MASQ", "KUBE-POSTROUTING"}),
        ("-A PREROUTING -s 192.0.2.9/32 -j KUBE-NODEPORTS", {"KUBE-NODEPORTS"}),
        ('-A PREROUTING -m comment --comment "mine" -j KUBE-NODEPORTS', {"KUBE-NODEPORTS"}),
        (
            '-A OUTPUT -d 192.0.2.9/32 -m comment --comment "kubernetes service portals" -g KUBE-SVC-MAU7ERFCJB7QMBT7',
            {"KUBE-SVC-MAU7ERFCJB7QMBT7", "KUBE-SEP-AAAAAAAAAAAAAAAA", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"},
        ),
    ],
)
def test_chains_that_rules_of_others_lead_to_stay_whole_and_are_named(rule: str, kept: set[str]) -> None:
    removal = chains.removal(NAT.format(more=f"{rule}\n"), "table {}")
    gone, staying = removal.found
    assert (set(gone.members), gone.kept) == (set(ALL) - kept, "")
    assert (set(staying.members), staying.kept) == (kept, f"rules of others lead there: {rule}")
    lines = removal.script.splitlines()
    assert not any(f"-X {chain}" in lines or f":{chain} - [0:0]" in lines for chain in kept)
    jump = '-D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING'
    assert (jump in lines) is ("KUBE-POSTROUTING" not in kept)
    assert f"-D{rule[2:]}" not in lines


def test_where_our_mode_iptables_is_chains_of_the_same_names_are_its_own() -> None:
    listing = NAT.format(more="-A PREROUTING -j KUBE-LOAD-BALANCER\n").replace(
        ":CNI-", ":POINTSMAN-HINT - [0:0]\n:KUBE-LOAD-BALANCER - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n:CNI-"
    )
    ours, gone, kept = chains.removal(listing, "table {}").found
    assert ours.members == ("KUBE-…",)
    assert ours.kept.startswith("Pointsman's mode iptables is there")
    assert (gone.members, gone.kept) == (("KUBE-PROXY-CANARY",), "")
    assert kept.members == ("KUBE-LOAD-BALANCER",)
    script = chains.removal(listing, "table {}").script
    assert script == "*nat\n:KUBE-PROXY-CANARY - [0:0]\n-X KUBE-PROXY-CANARY\nCOMMIT\n"


@pytest.mark.parametrize(
    ("table", "chain", "expected"),
    [
        ("nat", "KUBE-FIREWALL", True),  # of its mode ipvs
        ("filter", "KUBE-FIREWALL", False),  # kubelet's
        ("nat", "KUBE-MARK-DROP", False),
        ("mangle", "KUBE-PROXY-CANARY", True),
        ("mangle", "KUBE-KUBELET-CANARY", False),
        ("mangle", "KUBE-IPTABLES-HINT", False),
        ("nat", "KUBE-XLB-AAAAAAAAAAAAAAAA", True),
        ("filter", "KUBE-SVC-AAAAAAAAAAAAAAAA", False),
        ("filter", "KUBE-IPVS-OUT-FILTER", True),
        ("raw", "KUBE-SERVICES", False),
        ("nat", "KUBE-ROUTER-X", False),
    ],
)
def test_whose_a_chain_is_is_told_by_its_name_and_table(table: str, chain: str, expected: bool) -> None:  # noqa: FBT001 (of the table)
    assert chains.is_kube_proxys(table, chain) is expected


def test_a_listing_without_kube_proxy_needs_nothing() -> None:
    saved = "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n"
    assert chains.removal(saved, "table {}") == chains.Removal((), "")
    assert chains.removal("", "table {}") == chains.Removal((), "")


def test_virtual_servers_are_told_apart() -> None:
    def tcp(address: str, port: int) -> ServerKey:
        return ServerKey(6 if ":" in address else 4, address, "tcp", port)

    theirs = [tcp("10.96.0.1", 443), tcp("fd00:10:96::1", 443), tcp("192.0.2.1", 30080), tcp("127.0.0.1", 30080)]
    others = [
        tcp("192.0.2.1", 30081),  # no node port of kube-proxy's
        tcp("198.51.100.9", 30080),  # at no address of the node: somebody's load balancer
        ServerKey(4, "192.0.2.1", "udp", 30080),
        ServerKey(4, "", "tcp", 0, 7),
    ]
    ours = tcp("10.96.0.2", 80)
    marks = Marks(
        service_addresses=frozenset({"10.96.0.1", "fd00:10:96::1", "10.96.0.2"}),
        node_ports=frozenset({("tcp", 30080)}),
        node_addresses=frozenset({"192.0.2.1"}),
        ours=frozenset({ours}),
    )
    assert split([*theirs, ours, *others], marks) == (theirs, others)


def test_names_of_ipsets_are_no_longer_than_the_kernel_allows() -> None:
    assert {"KUBE-CLUSTER-IP", "KUBE-6-NODE-PORT-TCP", "KUBE-6-LOAD-BALANCER-SOURCE-CID"} <= ipsets.NAMES
    assert max(map(len, ipsets.NAMES)) == 31


def test_our_tables_are_read_once_for_all_virtual_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [ServerKey(4, f"10.96.0.{number}", "tcp", 80) for number in range(1, 4)]
    reads: list[object] = []

    def read_ours(wire: object) -> frozenset[ServerKey]:
        reads.append(wire)
        return frozenset(keys[:2])

    monkeypatch.setattr(leftover_modes, "open_wire", Wire)
    monkeypatch.setattr(leftover_modes, "find_tables", lambda _wire, _name: [TABLE])
    monkeypatch.setattr(leftover_modes, "LocalRoutes", NoRoutes)
    monkeypatch.setattr(leftover_modes.virtual_servers, "read_keys", lambda: keys)
    monkeypatch.setattr(leftover_modes.virtual_servers, "ours", read_ours)
    assert leftover_modes.held_by("ipvs") == [TABLE, Leftover("virtual servers", members=tuple(map(str, keys[:2])))]
    assert len(reads) == 1


class Wire:
    """A netlink socket that nobody uses."""

    def close(self) -> None:
        """Do nothing."""


class NoRoutes(Wire):
    """A node without local routes of ours."""

    def __init__(self, protocol: int) -> None:
        del protocol

    def read(self, family: int) -> set[str]:
        """There is none."""
        del family
        return set()
