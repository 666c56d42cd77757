"""Graceful ends: who gets no new connections, who keeps the old ones, and when all of it is gone."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.dataplane.conntrack import Conntrack
from pointsman.dataplane.ipvs.entries import key_of
from pointsman.lab.connections import Answered, Refused, connect, open_socket
from pointsman.model.plan import NODE_PORT, IpvsSettings
from support.proxied import SETTINGS, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pointsman.lab.connections import Outcome
    from pointsman.model.plan import Answer, Family, Frontend
    from support.ipvs import IpvsNode

LIMIT = SETTINGS.ipvs.graceful_termination
NO_LINGER = struct.pack("ii", 0, 0)
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def attempt(node: IpvsNode, frontend: Frontend, source_port: int = 0) -> Outcome:
    address = node.ground.node.address(frontend.family) if frontend.address == NODE_PORT else frontend.address
    return connect(node.ground.client, address, frontend.port, frontend.protocol, source_port=source_port)


def finish(node: IpvsNode, frontend: Frontend, source_port: int) -> str:
    """Connect, let the server close first, and close without a reset; return who it was."""
    with open_socket(node.ground.client, frontend.address, source_port=source_port) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.connect((frontend.address, frontend.port))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        page = b"".join(iter(lambda: sock.recv(4096), b""))
    found: str = msgspec.json.decode(page.rpartition(b"\r\n\r\n")[2])["server"]
    return found


@pytest.mark.parametrize("scheduler", ["rr", "sh", "mh"])
def test_a_weight_of_zero_drains(node: IpvsNode, scheduler: str) -> None:
    frontend, endpoints = node.vip(), node.endpoints(3)
    node.put({frontend: answer(endpoints[:1], scheduler=scheduler)})
    lines = [node.line(frontend) for _ in range(2)]
    node.put({frontend: answer(endpoints, (0, 20, 10), scheduler=scheduler)})
    assert node.weights(frontend) == {"a": 0, "b": 20, "c": 10}
    assert "a" not in node.by_client(frontend).values()
    assert all(line.lives() for line in lines)
    node.tend(LIMIT + 1)
    assert all(line.lives() for line in lines)
    assert node.weights(frontend) == {"a": 0, "b": 20, "c": 10}


@pytest.mark.parametrize("weights", [(0, 1), None], ids=["drained", "gone"])
@pytest.mark.parametrize("end", [attempt, finish], ids=["reset", "finished"])
def test_a_source_port_that_is_used_again_leads_to_no_drained_server(
    node: IpvsNode, weights: tuple[int, int] | None, end: Callable[[IpvsNode, Frontend, int], object]
) -> None:
    """IPVS remembers the old connection for a while; kube-proxy lets it decide (kubernetes/kubernetes#81775)."""
    frontend, endpoints = node.vip(), node.endpoints(2)
    ports = range(21_000, 21_003)
    node.put({frontend: answer(endpoints[:1], scheduler="rr")})
    for port in ports:
        end(node, frontend, port)
    remaining = endpoints if weights else endpoints[1:]
    node.put({frontend: answer(remaining, weights, scheduler="rr")})
    for port in ports:
        outcome = attempt(node, frontend, port)
        assert isinstance(outcome, Answered)
        assert outcome.server == "b"


@FAMILIES
def test_an_endpoint_that_left_keeps_its_connections_to_the_limit(node: IpvsNode, family: Family) -> None:
    frontend, endpoints = node.vip(family=family), node.endpoints(2, family=family)
    node.put({frontend: answer(endpoints, scheduler="rr")})
    lines = [node.line(frontend) for _ in range(4)]
    node.put({frontend: answer(endpoints[1:], scheduler="rr")})
    assert node.weights(frontend) == {"a": 0, "b": 1}
    assert set(node.by_client(frontend, 6).values()) == {"b"}
    node.tend(LIMIT - 1)
    assert all(line.lives() for line in lines)
    assert node.weights(frontend) == {"a": 0, "b": 1}
    node.tend(1)
    assert node.weights(frontend) == {"b": 1}
    assert {line.server for line in lines if line.lives()} == {"b"}


def test_the_limit_is_the_configurations(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(2)
    node.put({frontend: answer(endpoints, scheduler="rr")})
    lines = [node.line(frontend) for _ in range(2)]
    node.set(msgspec.structs.replace(SETTINGS, ipvs=IpvsSettings(graceful_termination=60)))
    node.put({frontend: answer(endpoints[1:], scheduler="rr")})
    node.tend(59)
    assert all(line.lives() for line in lines)
    node.tend(1)
    assert node.weights(frontend) == {"b": 1}


def test_an_endpoint_that_comes_back_is_taken_back(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(2)
    node.put({frontend: answer(endpoints, (3, 1), scheduler="wrr")})
    lines = [node.line(frontend) for _ in range(4)]
    node.put({frontend: answer(endpoints[1:], scheduler="wrr")})
    assert node.weights(frontend) == {"a": 0, "b": 1}
    node.put({frontend: answer(endpoints, (2, 1), scheduler="wrr")})
    assert node.weights(frontend) == {"a": 2, "b": 1}
    node.tend(LIMIT + 1)
    assert all(line.lives() for line in lines)
    assert set(node.by_client(frontend, 3).values()) == {"a", "b"}


def test_what_drains_goes_on_draining_after_a_restart(node: IpvsNode) -> None:
    frontend, gone, endpoints = node.vip(), node.vip(), node.endpoints(2)
    node.put(dict.fromkeys((frontend, gone), answer(endpoints, scheduler="rr")))
    lines = [node.line(each) for each in (frontend, gone) for _ in range(2)]
    node.put({frontend: answer(endpoints[1:], scheduler="rr")}, gone=[gone])
    written = node.restart()
    assert (written.added, written.removed, written.refused) == (0, 0, {})
    node.tend(LIMIT - 1)
    assert all(line.lives() for line in lines)
    assert isinstance(attempt(node, gone), Refused)
    node.tend(1)
    assert node.weights(frontend) == {"b": 1}
    assert key_of(gone) not in node.servers()


def traces(node: IpvsNode, *frontends: Frontend) -> list[str]:
    """Return what of frontends' addresses and ports is in the kernel."""
    family = frontends[0].family
    table = {4: "ip", 6: "ip6"}[family]
    text = node.ipvsadm("-Sn") + node.nft("list", "table", table, "pointsman-ipvs") + node.local_routes(family)
    words = [str(f.port) if f.address == NODE_PORT else f.address for f in frontends]
    return [line.strip() for line in text.splitlines() if any(word in line for word in words)]


@FAMILIES
def test_a_whole_service_ends_gracefully(node: IpvsNode, family: Family) -> None:
    frontends = [node.vip(family=family), node.external_ip(family=family), node.node_port(family=family)]
    node.put(dict.fromkeys(frontends, answer(node.endpoints(2, family=family), scheduler="rr")))
    lines = [node.line(frontend) for frontend in frontends for _ in range(2)]
    assert len(traces(node, *frontends)) >= 4 * len(frontends)
    node.put({}, gone=frontends)
    for frontend in frontends:
        assert isinstance(attempt(node, frontend), Refused)
    node.tend()
    assert all(line.lives() for line in lines)
    node.tend(LIMIT)
    assert traces(node, *frontends) == []
    assert not any(line.lives() for line in lines)
    for frontend in frontends:
        assert not isinstance(attempt(node, frontend), Answered)


def test_a_service_that_comes_back_is_taken_back(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(2)
    node.put({frontend: answer(endpoints, scheduler="rr")})
    lines = [node.line(frontend) for _ in range(2)]
    node.put({}, gone=[frontend])
    node.put({frontend: answer(endpoints, scheduler="lc")})
    node.tend(LIMIT + 1)
    assert all(line.lives() for line in lines)
    assert set(node.by_client(frontend, 4).values()) == {"a", "b"}
    assert node.weights(frontend) == {"a": 1, "b": 1}


def test_scaled_to_zero_refuses_the_new_and_keeps_the_old(node: IpvsNode) -> None:
    frontend, endpoints = node.vip(), node.endpoints(2)
    node.put({frontend: answer(endpoints, scheduler="rr")})
    lines = [node.line(frontend) for _ in range(2)]
    node.put({frontend: answer([], scheduler="rr")})
    assert isinstance(attempt(node, frontend), Refused)
    assert all(line.lives() for line in lines)
    node.put({frontend: answer(endpoints[:1], scheduler="rr")})
    assert node.reach(frontend) == "a"
    assert all(line.lives() for line in lines)


def test_what_has_ended_is_deleted(node: IpvsNode) -> None:
    """The kernel remembers a connection that was reset for ten seconds."""
    frontend, gone, endpoints = node.vip(), node.external_ip(), node.endpoints(2)
    node.put(dict.fromkeys((frontend, gone), answer(endpoints, scheduler="rr")))
    lines = [node.line(each) for each in (frontend, gone) for _ in range(2)]
    node.put({frontend: answer(endpoints[1:], scheduler="rr")}, gone=[gone])
    for _ in range(3):
        node.tend()
    assert node.weights(frontend) == {"a": 0, "b": 1}
    for line in lines:
        line.close()

    def has_ended() -> bool:
        node.tend()
        return node.weights(frontend) == {"b": 1} and not traces(node, gone)

    node.wait_for(has_ended, "the end of what drains")


@pytest.fixture
def conntrack(node: IpvsNode) -> Iterator[Conntrack]:
    with node.ground.node.namespace.entered():
        made = Conntrack()
    with contextlib.closing(made):
        yield made


@pytest.mark.parametrize("origin", ["client", "node"])
@pytest.mark.parametrize(("family", "affinity"), [(4, None), (6, None), (4, 600)])
def test_a_udp_client_with_a_fixed_port_is_served_by_the_next_backend_at_once(
    node: IpvsNode, conntrack: Conntrack, origin: str, family: Family, affinity: int | None
) -> None:
    frontend, endpoints = node.vip("udp", family), node.endpoints(3, "udp", family)
    host = getattr(node.ground, origin)

    def change(found: Answer) -> None:
        """Do as the agent does."""
        node.put({frontend: found})
        conntrack.clean({frontend: found})

    def ask() -> Outcome:
        return connect(host, frontend.address, 80, "udp", source_port=22_000)

    for there, expected in ((0, "a"), (1, "b"), (2, "c"), (0, "a")):
        change(answer(endpoints[there : there + 1], scheduler="rr", affinity=affinity))
        outcomes = [ask() for _ in range(2)]
        assert [getattr(outcome, "server", outcome) for outcome in outcomes] == [expected] * 2
    change(answer([], scheduler="rr", affinity=affinity))
    assert isinstance(ask(), Refused)
    change(answer(endpoints[1:2], scheduler="rr", affinity=affinity))
    outcome = ask()
    assert isinstance(outcome, Answered)
    assert outcome.server == "b"


def test_udp_and_sctp_go_at_once(node: IpvsNode) -> None:
    frontends = [node.vip("udp"), node.vip("sctp"), node.external_ip("udp")]
    for frontend in frontends:
        node.put({frontend: answer(node.endpoints(2, frontend.protocol), scheduler="rr")})
        assert {node.reach(frontend) for _ in range(2)} == {"a", "b"}
        node.put({frontend: answer(node.endpoints(2, frontend.protocol)[1:], scheduler="rr")})
        assert node.weights(frontend) == {"b": 1}
    node.put({}, gone=frontends)
    assert traces(node, *frontends) == []
    for frontend in frontends:
        assert not isinstance(attempt(node, frontend), Answered)
