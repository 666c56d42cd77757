"""What `pointsman trace` reads and says, without a kernel."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from typer.testing import CliRunner

from pointsman.agent.connections import Backend as CountedBackend
from pointsman.agent.connections import Connections, CountedFrontend
from pointsman.agent.outcome import Kernel
from pointsman.cli import trace_kernel
from pointsman.cli.app import app
from pointsman.cli.trace_text import HeldBackend, HeldFrontend, Trace, text, told
from pointsman.dataplane.channel import Message
from pointsman.dataplane.leftovers import Leftover
from pointsman.dataplane.netlink import attribute, nested
from pointsman.dataplane.protocol import ServerTraffic, Support, Traffic
from pointsman.dataplane.tracing import raw, tracked
from pointsman.dataplane.tracing.ipvs_connections import IpvsConnection, parse, read_connections
from pointsman.dataplane.tracing.shared import counted_elsewhere
from pointsman.dataplane.tracing.tracked import Tracked
from pointsman.dataplane.userspace.rules import PROXY_ADDRESSES
from pointsman.model.comparison import Wanted, compare
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, Plan, Pool
from pointsman.policy.explain import Connection, Explanation
from pointsman.process.listen import Address
from support.command_line import SENSELESS, said, web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from click.testing import Result

    from pointsman.model.plan import Family, Transport

VIP: Final = Frontend(4, "10.96.0.1", "tcp", 80)
ONE, TWO, THREE = (Backend(f"10.0.0.{number}", 8080) for number in (1, 2, 3))


def entry(
    family: Family, protocol: Transport, *ends: tuple[str, int], state: bytes = b"", seconds: int = 9, status: int = 0xE
) -> Message:
    """Encode an entry as the kernel does: client, destination, who answers, whom that one sees."""
    number = {"tcp": 6, "udp": 17, "sctp": 132}[protocol]
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    first = 1 if family == 4 else 3

    def end(which: int, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
        addresses = (
            attribute(first + at, socket.inet_pton(kind, address))
            for at, (address, _) in enumerate((source, destination))
        )
        ports = (attribute(2 + at, port.to_bytes(2)) for at, (_, port) in enumerate((source, destination)))
        return nested(which, nested(1, *addresses), nested(2, attribute(1, bytes([number])), *ports))

    data = b"".join(
        (
            bytes(4),
            end(1, ends[0], ends[1]),
            end(2, ends[2], ends[3]),
            attribute(3, status.to_bytes(4)),
            nested(4, nested(1 if protocol == "tcp" else 3, attribute(1, state))) if state else b"",
            attribute(7, seconds.to_bytes(4)),
        )
    )
    return Message(data, 0, len(data))


CLIENT, SERVICE, POD, NODE = ("203.0.113.1", 40000), ("10.96.0.1", 80), ("10.0.0.1", 8080), ("172.16.0.1", 1024)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            entry(4, "tcp", CLIENT, SERVICE, POD, NODE, state=b"\3", seconds=86400),
            Tracked(40000, POD, NODE, "ESTABLISHED", 86400, answered=True, assured=True),
        ),
        (
            entry(4, "tcp", CLIENT, SERVICE, SERVICE, CLIENT, state=b"\1", status=8),
            Tracked(40000, SERVICE, CLIENT, "SYN_SENT", 9, answered=False, assured=False),
        ),
        (
            entry(4, "tcp", CLIENT, SERVICE, POD, CLIENT, state=b"\xff", status=0xA),
            Tracked(40000, POD, CLIENT, "", 9, answered=True, assured=False),
        ),
        (entry(4, "tcp", ("203.0.113.2", 40000), SERVICE, POD, NODE, state=b"\3"), None),
        (entry(4, "tcp", CLIENT, ("10.96.0.1", 81), POD, NODE, state=b"\3"), None),
        (entry(4, "udp", CLIENT, SERVICE, POD, NODE), None),
        (entry(6, "tcp", ("fd00::1", 1), ("fd00::2", 80), ("fd00::3", 1), ("fd00::4", 1)), None),
        (Message(bytes(4), 0, 4), None),
    ],
    ids=["masqueraded", "no answer", "unknown state", "other client", "other port", "other protocol", "IPv6", "empty"],
)
def test_an_entry_is_read_when_it_is_of_the_connection(message: Message, expected: Tracked | None) -> None:
    assert tracked._read(message, 4, "tcp", (CLIENT[0], SERVICE)) == expected


def test_entries_of_ipv6_and_of_protocols_without_states() -> None:
    ends = ("2001:db8::1", 7), ("fd00:10:96::1", 53), ("fd00::1", 53), ("2001:db8::1", 7)
    found = tracked._read(entry(6, "udp", *ends), 6, "udp", ("2001:db8::1", ("fd00:10:96::1", 53)))
    assert found == Tracked(7, ("fd00::1", 53), ("2001:db8::1", 7), "", 9, answered=True, assured=True)
    found = tracked._read(entry(4, "sctp", CLIENT, SERVICE, POD, NODE, state=b"\4"), 4, "sctp", (CLIENT[0], SERVICE))
    assert found is not None
    assert found.state == "ESTABLISHED"


IPVS_LISTING: Final = """\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP CB007101 9C40 0A600001 0050 0A000001 1F90 ESTABLISHED     899
TCP CB007101 0000 0A600001 0050 0A000001 1F90 NONE            120
TCP CB007102 9C40 0A600001 0050 0A000001 1F90 ESTABLISHED     899
UDP CB007101 9C41 0A600001 0050 0A000002 1F90 UDP             299
TCP [20010db8000000000000000000000001] 0007 x
TCP 2001:0db8:0000:0000:0000:0000:0000:0001 0007 fd00:0010:0096:0000:0000:0000:0000:0001 0050 \
fd00:0000:0000:0000:0000:0000:0000:0001 1F90 FIN_WAIT        119
"""


def test_connections_of_ipvs_are_chosen_by_client_and_destination(tmp_path: Path) -> None:
    assert parse(IPVS_LISTING, CLIENT[0], *SERVICE, "tcp") == [
        IpvsConnection(0, POD, "NONE", 120),
        IpvsConnection(40000, POD, "ESTABLISHED", 899),
    ]
    assert parse(IPVS_LISTING, CLIENT[0], *SERVICE, "udp") == [IpvsConnection(40001, ("10.0.0.2", 8080), "UDP", 299)]
    assert parse(IPVS_LISTING, "2001:db8::1", "fd00:10:96::1", 80, "tcp") == [
        IpvsConnection(7, ("fd00::1", 8080), "FIN_WAIT", 119)
    ]
    assert read_connections(CLIENT[0], *SERVICE, "tcp", tmp_path / "not loaded") == []


CHAINS: Final = {
    "KUBE-SERVICES": (
        "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A",
        "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 8080 -j KUBE-SVC-B",
        "-A KUBE-SERVICES -d 10.96.0.1/32 -p udp -m udp --dport 80 -j KUBE-SVC-B",
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
    ),
    "KUBE-NODEPORTS": ("-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-A",),
    "KUBE-EXT-A": ("-A KUBE-EXT-A -j KUBE-MARK-MASQ", "-A KUBE-EXT-A -j KUBE-SVC-A"),
    "KUBE-SVC-A": ("-A KUBE-SVC-A -j KUBE-SEP-A",),
    "KUBE-SVC-B": ("-A KUBE-SVC-B -j KUBE-SEP-B",),
    "KUBE-SEP-A": ("-A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.0.0.1:8080",),
    "KUBE-MARK-MASQ": ("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",),
}


def test_rules_are_followed_from_the_frontend_to_its_endpoints() -> None:
    of_service = [CHAINS["KUBE-SERVICES"][0], *CHAINS["KUBE-SVC-A"], *CHAINS["KUBE-SEP-A"]]
    assert list(raw._ways(CHAINS, [VIP])) == of_service
    node_port = Frontend(4, NODE_PORT, "tcp", 30080)
    ways = [*CHAINS["KUBE-NODEPORTS"], *CHAINS["KUBE-EXT-A"], *CHAINS["KUBE-SVC-A"], *CHAINS["KUBE-SEP-A"]]
    assert list(raw._ways(CHAINS, [node_port])) == ways
    assert list(raw._ways(CHAINS, [Frontend(4, "10.96.0.2", "tcp", 80)])) == []


def difference(wanted: Mapping[Frontend, tuple[Backend, ...]], held: Mapping[Frontend, tuple[Backend, ...]]) -> str:
    want = Wanted(wanted, dict.fromkeys(wanted, "default/web"))
    (found,) = compare(want, held)
    return told(found, want, held)


def test_differences_between_plan_and_kernel_are_sentences() -> None:
    assert difference({VIP: (ONE, TWO, THREE)}, {VIP: (ONE, TWO)}) == (
        "10.96.0.1:80/tcp: the plan has 3 backends, the kernel 2: it lacks 10.0.0.3:8080 (weight 1); "
        "run `pointsman diff`"
    )
    assert difference({VIP: (ONE,)}, {VIP: (TWO,)}) == (
        "10.96.0.1:80/tcp: the plan has 1 backend, the kernel 1: it lacks 10.0.0.1:8080 (weight 1) and has besides "
        "10.0.0.2:8080 (weight 1); run `pointsman diff`"
    )
    assert difference({VIP: (ONE,)}, {}) == (
        "the plan has 10.96.0.1:80/tcp for default/web, the kernel has not; run `pointsman diff`"
    )
    node_port = Frontend(6, NODE_PORT, "udp", 30053)
    assert difference({}, {node_port: ()}) == (
        "the kernel has node port 30053/udp (IPv6), the plan has not; run `pointsman diff`"
    )


EXPLANATION: Final = Explanation(Connection(CLIENT[0], *SERVICE, "tcp"), "outside", "forwarded", "because")


def test_a_trace_is_laid_out_for_people() -> None:
    found = Trace(
        EXPLANATION,
        "ipvs",
        kernel=(
            HeldFrontend(
                VIP,
                1234,
                (HeldBackend("10.0.0.1", 8080, 1, 1233, 2, 1), HeldBackend("10.0.0.2", 8080, 0, 1, 0, 0)),
            ),
        ),
        raw=("ipvsadm -A -t 10.96.0.1:80 -s rr",),
        connections=(
            Tracked(40000, POD, NODE, "ESTABLISHED", 899, answered=True, assured=True),
            Tracked(40001, ("10.0.0.2", 8080), CLIENT, "SYN_SENT", 5, answered=False, assured=False),
            Tracked(40002, SERVICE, CLIENT, "", 5, answered=True, assured=False),
        ),
        ipvs_connections=(IpvsConnection(0, POD, "NONE", 120), IpvsConnection(40000, POD, "ESTABLISHED", 899)),
        differences=("something",),
        notes=("something else",),
    )
    assert (
        text(found)
        == """
in the kernel, mode ipvs
  10.96.0.1:80/tcp  1,234 connections so far
    -> 10.0.0.1:8080  weight 1, 1,233 connections, 2 active, 1 inactive
    -- 10.0.0.2:8080  gets nothing new, 1 connection, 0 active, 0 inactive
  ipvsadm -A -t 10.96.0.1:80 -s rr

connections of 203.0.113.1 to 10.96.0.1:80/tcp that are tracked: 3
  port 40000 -> 10.0.0.1:8080  ESTABLISHED, 899 s left, masqueraded as 172.16.0.1:1024
  port 40001 -> 10.0.0.2:8080 (gets no new connections)  SYN_SENT, 5 s left, no answer yet
  port 40002 -> not translated  5 s left

the same in IPVS's own table: 2
  the client itself (affinity) -> 10.0.0.1:8080  NONE, 120 s left
  port 40000 -> 10.0.0.1:8080  ESTABLISHED, 899 s left

difference  something
note        something else
"""
    )


@pytest.mark.parametrize(
    ("mode", "connections", "line"),
    [
        ("userspace", None, "its backends are not known here"),
        ("userspace", 0, "no backend gets new connections"),
        ("ipvs", None, "no backend gets new connections"),
    ],
)
def test_a_proxys_backends_that_nobody_told_are_not_said_to_be_none(
    mode: str, connections: int | None, line: str
) -> None:
    found = Trace(EXPLANATION, mode, kernel=(HeldFrontend(VIP, connections, ()),))
    assert text(found).splitlines()[3] == f"    {line}"


def test_many_connections_are_cut_off_for_people_alone() -> None:
    many = tuple(Tracked(port, POD, CLIENT, "", 1, answered=True, assured=True) for port in range(1, 31))
    found = Trace(EXPLANATION, "nftables", kernel=(HeldFrontend(VIP, None, ()),), connections=many)
    lines = text(found).splitlines()
    assert lines[2:4] == ["  10.96.0.1:80/tcp", "    no backend gets new connections"]
    assert lines[-1] == "  and 10 more (-o json has all)"
    assert len([line for line in lines if line.startswith("  port ")]) == 20
    assert len(json.loads(msgspec.json.encode(found))["connections"]) == 30


@pytest.mark.parametrize(
    ("mode", "answering", "said"),
    [
        ("userspace", (PROXY_ADDRESSES[4], 40001), "(the proxy in the agent)"),
        ("userspace", POD, "(past the proxy, by the mode before)"),
        ("nftables", (PROXY_ADDRESSES[4], 40001), "(the proxy in the agent)"),
    ],
)
def test_who_answers_is_told_by_the_address_whatever_mode_is_in_force(
    mode: str, answering: tuple[str, int], said: str
) -> None:
    held = HeldFrontend(VIP, None, (HeldBackend("10.0.0.1", 8080, 1),))
    found = Trace(EXPLANATION, mode, (held,), connections=(Tracked(1, answering, CLIENT, "", 1, True, False),))  # noqa: FBT003
    assert f"port 1 -> {answering[0]}:{answering[1]} {said}" in text(found)


def test_backends_that_are_counted_elsewhere_have_no_number() -> None:
    node_port, other = Frontend(4, NODE_PORT, "tcp", 30080), Frontend(4, "10.96.0.2", "tcp", 80)
    answer = Answer("default/web", "random", Pool((ONE, TWO)))
    plan = Plan({VIP: answer, node_port: answer, other: Answer("default/other", "random", Pool((ONE,)))})
    there = {("10.0.0.1", 8080): VIP, ("10.0.0.2", 8080): VIP}
    assert counted_elsewhere("iptables", plan, node_port) == there
    for mode, frontend in (("iptables", VIP), ("iptables", other), ("nftables", node_port)):
        assert counted_elsewhere(mode, plan, frontend) == {}
    traffic = Traffic(5, {("10.0.0.1", 8080): ServerTraffic(0, 1), ("10.0.0.2", 8080): ServerTraffic(0, 1)})
    held = trace_kernel._held_frontend(node_port, (ONE, TWO), traffic, Wanted({}, {}), there)
    assert [backend.connections for backend in held.backends] == [None, None]
    lines = text(Trace(EXPLANATION, "iptables", (held,))).splitlines()
    assert lines[2:5] == [
        "  node port 30080/tcp (IPv4)  5 connections so far",
        "    -> 10.0.0.1:8080  weight 1, - connections",
        "    -> 10.0.0.2:8080  weight 1, - connections",
    ]
    assert "of node port 30080/tcp (IPv4) are counted at 10.96.0.1:80/tcp" in trace_kernel._shared(node_port, there)


class FakeDataplane:
    mode = "nftables"

    def support(self) -> Support:
        return Support(available=True, schedulers=("random", "rr"))

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        return {VIP: (ONE,)}

    def traffic(self) -> Mapping[Frontend, Traffic]:
        return {VIP: Traffic(7, {("10.0.0.1", 8080): ServerTraffic(7, 1)})}

    def close(self) -> None:
        pass


class Node:
    """A node whose kernel is a fake.

    Attributes:
        modes: those that hold something in the kernel.
        counted: what the agent says; None when none runs.
    """

    def __init__(self, manifest: Path) -> None:
        self.manifest = manifest
        self.modes = ["nftables"]
        self.counted: Connections | None = None

    def trace(self, *words: str, to: str = "10.96.0.1:80", source: str = "203.0.113.1") -> Result:
        options = ["--node-name", "here", "-f", str(self.manifest), "--from", source, "--to", to]
        return CliRunner().invoke(app, ["trace", *options, *words])

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.trace("-o", "json", *words).stdout)
        return found


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(web("{addresses: [10.0.0.1], nodeName: here}"))
    made = Node(manifest)
    dataplanes = {"nftables": FakeDataplane, "ipvs": FakeDataplane}
    kernel = Kernel(dataplanes, None, None)  # type: ignore[arg-type]
    connection = Tracked(40000, POD, NODE, "ESTABLISHED", 899, answered=True, assured=True)
    monkeypatch.setattr("pointsman.agent.kernel.real_kernel", lambda **_own: kernel)
    monkeypatch.setattr("pointsman.agent.startup.check_rights", lambda: None)
    monkeypatch.setattr("pointsman.cli.trace._ask_agent", lambda _agent: made.counted)
    monkeypatch.setattr(
        "pointsman.dataplane.leftovers.held_by", lambda mode: [Leftover("table", mode)] if mode in made.modes else []
    )
    monkeypatch.setattr("pointsman.cli.trace_kernel.raw", lambda *_question: ())
    monkeypatch.setattr("pointsman.cli.trace_kernel.read_tracked", lambda *_question: [connection])
    monkeypatch.setattr("pointsman.cli.trace_kernel.read_connections", lambda *_question: [])
    return made


def test_without_an_agent_the_kernel_tells_the_mode_and_the_counters(node: Node) -> None:
    found = node.json()
    assert (found["mode"], found["notes"], found["differences"]) == ("nftables", [], [])
    assert found["explanation"]["verdict"] == "forwarded"
    (kernel,) = found["kernel"]
    assert (kernel["connections"], kernel["frontend"]["address"]) == (7, "10.96.0.1")
    assert kernel["backends"] == [
        {"address": "10.0.0.1", "port": 8080, "weight": 1, "connections": 7, "active": None, "inactive": None}
    ]
    assert found["connections"][0]["answering"] == ["10.0.0.1", 8080]


def test_the_agent_knows_its_mode_and_counters(node: Node) -> None:
    drained = CountedBackend("10.0.0.9", 8080, 0, 3, 1, 0)
    backends = (CountedBackend("10.0.0.1", 8080, 1, 39, 2, 1), drained)
    counted = CountedFrontend("default/web", 4, "10.96.0.1", 80, "tcp", "rr", 42, backends)
    node.counted = Connections("here", "ipvs", "now", (counted,))
    found = node.json()
    assert found["mode"] == "ipvs"
    assert found["notes"] == ["mode nftables is asked for (spec.mode), mode ipvs is looked at"]
    (kernel,) = found["kernel"]
    assert kernel["connections"] == 42
    assert [tuple(each.values()) for each in kernel["backends"]] == [
        ("10.0.0.1", 8080, 1, 39, 2, 1),
        ("10.0.0.9", 8080, 0, 3, 1, 0),
    ]
    assert node.json("--mode", "nftables")["kernel"][0]["connections"] == 7, "counters of another mode are of no use"


@pytest.mark.parametrize(
    ("modes", "mode", "note"),
    [
        (["ipvs"], "ipvs", "mode nftables is asked for (spec.mode), mode ipvs is looked at"),
        (["nftables", "ipvs"], "nftables", "mode nftables and mode ipvs hold something; nftables is looked at"),
        ([], "nftables", "no mode of Pointsman holds anything in this kernel"),
    ],
)
def test_the_mode_is_the_one_that_holds_something(node: Node, modes: list[str], mode: str, note: str) -> None:
    node.modes = modes
    found = node.json()
    assert found["mode"] == mode
    (said,) = found["notes"]
    assert said.startswith(note)


@pytest.mark.parametrize(("source", "destination", "words"), SENSELESS)
def test_a_question_that_makes_no_sense_is_refused(node: Node, source: str, destination: str, words: str) -> None:
    result = node.trace(to=destination, source=source)
    assert result.exit_code == 2
    assert words in said(result.stderr)


def test_objects_have_to_come_from_somewhere(node: Node) -> None:
    options = ["--node-name", "here", "--from", "203.0.113.1", "--to", "10.96.0.1:80"]
    result = CliRunner().invoke(app, ["trace", *options])
    assert result.exit_code == 2
    assert "name one source of objects" in said(result.stderr)
    result = CliRunner().invoke(app, ["trace", *options, "-f", str(node.manifest.parent / "missing.yaml")])
    assert result.exit_code == 1
    assert result.stderr.startswith("pointsman trace: ")


@pytest.mark.parametrize("address", [Address("127.0.0.1", 1), None])
def test_no_agent_is_no_error(address: Address | None) -> None:
    from pointsman.cli.trace import _ask_agent  # noqa: PLC0415 - the fixture replaces it for all others

    assert _ask_agent(address) is None


@pytest.mark.parametrize("agent", ["127.0.0.1", "127.0.0.1:0", "::1:80"])
def test_where_no_agent_can_be_is_refused_before_anything_is_read(node: Node, agent: str) -> None:
    result = node.trace("--agent", agent)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write IP:PORT or [IPv6]:PORT" in said(result.stderr)
