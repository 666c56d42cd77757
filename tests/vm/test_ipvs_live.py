"""What changes on a living virtual server of the mode `ipvs`, while connections are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pointsman.dataplane.ipvs.entries import key_of
from support.proxied import answer, client_address, reach

if TYPE_CHECKING:
    from pointsman.model.plan import Frontend
    from support.ipvs import IpvsNode

HELD = 500


def counted(node: IpvsNode, frontend: Frontend) -> int:
    """Read how many connections IPVS has counted; it brings the number up to date each two seconds."""
    return node.dataplane.traffic()[frontend].connections


def test_a_change_of_scheduler_breaks_none_of_500_connections(node: IpvsNode) -> None:
    frontend, servers = node.vip(), node.endpoints(3)
    node.put({frontend: answer(servers, (1, 2, 3), scheduler="rr")})
    lines = [node.line(frontend) for _ in range(HELD)]
    node.wait_for(
        lambda: counted(node, frontend) == HELD,
        lambda: f"all connections counted, not {counted(node, frontend)} of {HELD}",
    )
    for scheduler, flags in (("lc", ()), ("mh", ("mh-port",)), ("mh", ()), ("sh", ("sh-port",)), ("wrr", ())):
        wanted = answer(servers, (1, 2, 3), scheduler=scheduler)
        node.put({frontend: msgspec.structs.replace(wanted, scheduler_flags=flags)})
        (line,) = (line for line in node.saved() if line.startswith("-A"))
        assert f"-s {scheduler}" in line
        assert all(flag in line for flag in flags)
        assert node.weights(frontend) == {"a": 1, "b": 2, "c": 3}
    # The counter of a virtual server that is made anew begins at 0.
    assert counted(node, frontend) == HELD
    assert sum(counts.active for counts in node.seen(frontend).values()) == HELD
    assert sum(line.lives() for line in lines) == HELD
    turns = "".join(reach(node.ground.client, frontend) for _ in range(6))
    assert sorted(turns) == sorted("abbccc")


def test_a_client_stays_for_as_long_as_affinity_says(node: IpvsNode) -> None:
    frontend, servers = node.vip(), node.endpoints(3)
    node.put({frontend: answer(servers, scheduler="rr", affinity=300)})
    clients = [client_address(number) for number in range(6)]
    first = {source: reach(node.ground.client, frontend, source=source) for source in clients}
    assert len(set(first.values())) == 3
    for source, server in first.items():
        assert {reach(node.ground.client, frontend, source=source) for _ in range(3)} == {server}
    # One whose server left is free at once.
    left = first[clients[0]]
    node.put({frontend: answer([s for s in servers if s.name != left], scheduler="rr", affinity=300)})
    assert reach(node.ground.client, frontend, source=clients[0]) != left


def test_affinity_is_switched_with_connections_held(node: IpvsNode) -> None:
    frontend, servers = node.vip(), node.endpoints(2)
    node.put({frontend: answer(servers, scheduler="rr")})
    lines = [node.line(frontend) for _ in range(4)]
    for affinity, said in ((300, "-p 300"), (60, "-p 60"), (None, "")):
        node.put({frontend: answer(servers, scheduler="rr", affinity=affinity)})
        (line,) = (line for line in node.saved() if line.startswith("-A"))
        assert said in line
        assert ("-p" in line) == (affinity is not None)
        assert all(line.lives() for line in lines)
    assert {reach(node.ground.client, frontend) for _ in range(4)} == {"a", "b"}


def test_a_new_agent_writes_nothing_and_breaks_nothing(node: IpvsNode) -> None:
    frontend, servers = node.vip(), node.endpoints(2)
    six, sticky = node.vip(family=6), node.vip()
    node.put(
        {
            frontend: msgspec.structs.replace(answer(servers, scheduler="mh"), scheduler_flags=("mh-port",)),
            sticky: answer(servers, scheduler="rr", affinity=300),
            six: answer(node.endpoints(2, family=6), scheduler="lc", affinity=60),
            node.node_port(): answer(servers, scheduler="rr"),
        }
    )
    line, before = node.line(frontend), node.saved()
    written = node.restart()
    assert (written.added, written.removed, written.refused) == (0, 0, {})
    assert node.saved() == before
    assert line.lives()
    assert key_of(frontend) in node.servers()
    node.tend(60)
    assert not node.dataplane.disturbed()
