"""Whose a virtual server, a rule or a route is: ours are found again and repaired, others' are left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.local_routes import LocalRoutes
from pointsman.dataplane.protocol import Written
from pointsman.lab.connections import Refused, connect
from pointsman.model.plan import Answer, IpvsSettings, Plan
from support.proxied import SETTINGS, answer, pool, table_held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman.dataplane.netlink import Refusal
    from pointsman.model.plan import Frontend
    from support.ipvs import IpvsNode

NOTHING: Final = Written()
TABLE: Final = "pointsman-ipvs"
FOREIGN_RULES: Final = """
table inet other {
    set friends { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
    chain input { type filter hook input priority 5; ip saddr @friends counter; }
}
table inet pointsman-ipvs {
    chain input { type filter hook input priority 6; ip saddr 192.0.2.9 drop; }
}
"""
"""The tables of others; one has our name, in a family that is not ours."""


class KilledError(Exception):
    """The agent ends here."""


def filled(node: IpvsNode) -> dict[str, Frontend]:
    """Bring some of everything into the kernel."""
    tcp, tcp6, udp = node.endpoints(3), node.endpoints(3, family=6), node.endpoints(3, "udp")
    found = {
        "cluster": node.vip(),
        "cluster6": node.vip(family=6),
        "udp": node.vip("udp"),
        "external": node.external_ip(),
        "split": node.external_ip(),
        "port": node.node_port(),
    }
    exclusive = msgspec.structs.replace(answer(tcp, (3, 2, 1), scheduler="wrr"), exclusive=True)
    node.put(
        {
            found["cluster"]: exclusive,
            found["cluster6"]: answer(tcp6, scheduler="mh", affinity=600),
            found["udp"]: answer(udp, scheduler="rr"),
            found["external"]: msgspec.structs.replace(answer(tcp, scheduler="sh"), source_ranges=("0.0.0.0/0",)),
            found["split"]: Answer("a/b", "rr", pool(tcp), outside=pool(tcp[:1])),
            found["port"]: msgspec.structs.replace(answer(tcp[1:], scheduler="lc"), masquerade="always"),
        }
    )
    return found


def state(node: IpvsNode) -> list[str]:
    """Return all of ours that the kernel holds, in an order of its own."""
    ours = [line for family in ("ip", "ip6") for line in table_held(node.nft, family, TABLE)]
    routes = [line for family in (4, 6) for line in node.local_routes(family).splitlines()]
    return sorted([*node.saved(), *ours, *routes])


def test_a_restart_finds_what_is_ours_and_writes_nothing(node: IpvsNode) -> None:
    found = filled(node)
    before = state(node)
    lines = [node.line(found[name]) for name in ("cluster", "cluster6", "split", "port") for _ in range(2)]
    for _ in range(2):
        assert node.restart() == NOTHING
    assert state(node) == before
    assert all(line.lives() for line in lines)
    node.put({}, gone=[found["split"]])
    node.put({found["cluster"]: answer(node.endpoints(1), scheduler="rr")})
    assert node.reach(found["cluster"]) == "a"


def no_servers(_socket: IpvsSocket, _messages: list[bytes]) -> list[Refusal]:
    raise KilledError


def half_of_the_servers(
    send: Callable[[IpvsSocket, list[bytes]], list[Refusal]],
) -> Callable[[IpvsSocket, list[bytes]], list[Refusal]]:
    def run(socket: IpvsSocket, messages: list[bytes]) -> list[Refusal]:
        assert len(messages) >= 4
        send(socket, messages[: len(messages) // 2])
        raise KilledError

    return run


def no_routes(*_arguments: object) -> None:
    raise KilledError


@pytest.mark.parametrize("moment", ["before the servers", "between the servers", "before the routes"])
def test_a_change_that_was_cut_off_is_finished_by_the_next_agent(
    node: IpvsNode, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    found = filled(node)
    new, new6 = node.external_ip(), node.external_ip(family=6)
    lines = [node.line(found[name]) for name in ("cluster", "external") for _ in range(3)]
    changed = {
        found["cluster"]: answer(node.endpoints(4)[1:], (1, 5, 2), scheduler="wlc"),
        found["port"]: answer(node.endpoints(1), scheduler="rr"),
        new: answer(node.endpoints(2), scheduler="rr"),
        new6: answer(node.endpoints(2, family=6), scheduler="rr"),
    }
    gone = {found["external"], found["udp"]}
    with monkeypatch.context() as patch:
        if moment == "before the routes":
            patch.setattr(LocalRoutes, "change", no_routes)
        else:
            halved = half_of_the_servers(IpvsSocket.run)
            patch.setattr(IpvsSocket, "run", no_servers if moment == "before the servers" else halved)
        with pytest.raises(KilledError):
            node.put(changed, gone=gone)
    kept = {frontend: each for frontend, each in node.plan.answers.items() if frontend not in gone}
    node.plan = Plan({**kept, **changed}, node.plan.settings)
    written = node.restart()
    assert written.refused == {}
    assert written.added + written.removed > 0
    assert all(line.lives() for line in lines)
    assert isinstance(connect(node.ground.client, found["external"].address, 80), Refused)
    assert set(node.by_client(new, 2).values()) == set(node.by_client(new6, 2).values()) == {"a", "b"}
    assert node.weights(found["cluster"]) == {"a": 0, "b": 1, "c": 5, "d": 2}
    # What drains has an end, and what there is then is what an agent makes of the plan on a node without anything.
    node.tend(SETTINGS.ipvs.graceful_termination + 1)
    assert not node.dataplane.disturbed()
    finished = state(node)
    node.dataplane.cleanup()
    node.restart()
    assert state(node) == finished


def test_other_programs_things_are_left_alone(node: IpvsNode) -> None:
    at, pod = node.ground.node.address(), node.ground.pods[0].address()
    node.dataplane.cleanup()

    def everything() -> list[str]:
        links = [node.ground.node.namespace.run("ip", f"-{f}", "route", "show", "table", "all") for f in (4, 6)]
        return [*node.saved(), *node.nft("-s", "list", "ruleset").splitlines(), *"".join(links).splitlines()]

    bare = everything()
    try:
        node.nft("-f", "-", stdin=FOREIGN_RULES)
        node.ipvsadm(
            "--restore",
            stdin=f"-A -t {at}:9999 -s wlc\n-a -t {at}:9999 -r {pod}:80 -m -w 7\n"
            f"-A -f 7 -s rr -p 60\n-a -f 7 -r {pod}:80 -m -w 1\n-A -u 10.96.9.9:53 -s rr\n",
        )
        node.ground.node.namespace.run(
            "ip", "route", "add", "local", "198.51.103.250", "dev", "lo", "table", "local", "proto", "200"
        )
        before = everything()
        assert len(before) > len(bare)
        node.adopt()
        found = filled(node)
        with_ours = everything()
        assert set(before) - set(with_ours) == set()
        lines = [node.line(msgspec.structs.replace(found["port"], port=9999)) for _ in range(2)]
        assert [line.server for line in lines] == ["web-1"] * 2
        assert node.restart() == NOTHING
        node.put({}, gone=found.values())
        node.dataplane.cleanup()
        assert everything() == before
        assert all(line.lives() for line in lines)
    finally:
        node.ipvsadm("-C")
        for table in ("other", TABLE):
            node.nft("delete", "table", "inet", table)
        node.ground.node.namespace.run("ip", "route", "del", "local", "198.51.103.250", "table", "local")
    assert everything() == bare


@pytest.mark.parametrize("by", ["apply", "adopt"])
def test_an_address_that_another_program_serves_is_refused_by_name(node: IpvsNode, by: str) -> None:
    theirs, ours, pod = node.vip(), node.vip(), node.ground.pods[0].address()
    mine = dict.fromkeys((theirs, ours), answer(node.endpoints(2), scheduler="rr"))
    node.adopt()
    made = f"-A -t {theirs.address}:80 -s lc", f"-a -t {theirs.address}:80 -r {pod}:80 -m -w 3"
    node.ipvsadm("--restore", stdin="\n".join(made) + "\n")
    try:
        if by == "apply":
            written = node.put(mine)
        else:
            node.plan = Plan(mine, SETTINGS)
            written = node.restart()
        ((name, text),) = written.refused.items()
        assert name == f"{theirs.address}:80/tcp"
        assert f"virtual server {name} belongs to another program" in text
        assert "ipvsadm -D" in text
        assert "excludeCIDRs" in text
        assert [line for line in node.saved() if theirs.address in line] == sorted(made)
        assert set(node.by_client(ours, 2).values()) == {"a", "b"}
        # It is still theirs when the Service goes.
        node.put({}, gone=[theirs])
        assert [line for line in node.saved() if theirs.address in line] == sorted(made)
    finally:
        node.ipvsadm("-D", "-t", f"{theirs.address}:80")
    node.plan = Plan(mine, SETTINGS)
    assert node.adopt().refused == {}
    assert set(node.by_client(theirs, 2).values()) == {"a", "b"}


def test_in_excluded_networks_others_come_first_without_a_word(node: IpvsNode) -> None:
    taken, free, pod = node.external_ip(), node.external_ip(), node.ground.pods[0].address()
    node.set(msgspec.structs.replace(SETTINGS, ipvs=IpvsSettings(exclude_cidrs=("198.51.100.0/22",))))
    theirs = [f"-A -t {taken.address}:80 -s lc", f"-a -t {taken.address}:80 -r {pod}:80 -m -w 3"]
    node.ipvsadm("--restore", stdin="\n".join(theirs) + "\n")
    try:
        written = node.put(dict.fromkeys((taken, free), answer(node.endpoints(1), scheduler="rr")))
        assert written.refused == {}
        assert [line for line in node.saved() if taken.address in line] == sorted(theirs)
        assert taken.address not in node.local_routes()
        assert taken.address not in node.nft("list", "table", "ip", TABLE)
        assert node.reach(free) == "a"
        assert node.restart() == NOTHING
    finally:
        node.ipvsadm("-D", "-t", f"{taken.address}:80")
    assert node.adopt().refused == {}
    assert node.reach(taken) == "a"
    # What was made meanwhile is ours, and stays so.
    assert node.restart() == NOTHING
    assert node.reach(taken) == "a"


SERVER_CHANGES: Final = {
    "a virtual server is deleted": "-D -t {cluster}",
    "a virtual server for a mark is deleted": "-D -f {mark}",
    "a scheduler is changed": "-E -t {cluster} -s rr",
    "persistence is switched on": "-E -t {cluster} -s wrr -p 77",
    "a weight is changed": "-e -t {cluster} -r {real} -m -w 7",
    "a real server is deleted": "-d -t {cluster} -r {real}",
    "a real server is added": "-a -t {cluster} -r 192.0.2.77:80 -m -w 5",
    "everything is deleted": "-C",
}
ROUTE_CHANGES: Final = {
    "the network of cluster IPs is removed": "route del local 10.96.0.0/12 dev lo table local",
    "the other network is removed": "-6 route del local fd00:10:96::/112 dev lo table local",
    "an external IP's route is removed": "route del local {external} dev lo table local",
    "a route's source is changed": "route replace local 10.96.0.0/12 dev lo table local proto 112 src 127.0.0.1",
    "a route is added": "route add local 198.51.103.251 dev lo table local proto 112",
}
RULE_CHANGES: Final = {
    "a frontend is removed": "delete element ip {t} frontends {{ {external} . tcp . 80 }}",
    "a mark is removed": "flush map ip {t} marks",
    "an address is added": "add element ip {t} external-ips {{ 192.0.2.77 }}",
    "networks are removed": "flush set ip6 {t} service-cidrs",
    "a chain is flushed": "flush chain ip {t} leftover",
    "a table is deleted": "delete table ip {t}",
    "everything is flushed": "flush ruleset",
}


def test_what_others_changed_is_found_and_repaired(node: IpvsNode) -> None:
    found = filled(node)
    before = state(node)
    (mark,) = (line.split()[2] for line in before if line.startswith("-A -f"))
    first = node.endpoints(1)[0]
    words = {
        "cluster": f"{found['cluster'].address}:80",
        "external": found["external"].address,
        "real": f"{first.address}:{first.port}",
        "mark": mark,
        "t": TABLE,
    }
    kinds: tuple[tuple[Mapping[str, str], Callable[[str], object]], ...] = (
        (SERVER_CHANGES, lambda text: node.ipvsadm(*text.split())),
        (ROUTE_CHANGES, lambda text: node.ground.node.namespace.run("ip", *text.split())),
        (RULE_CHANGES, node.nft),
    )
    assert not node.dataplane.disturbed()
    for changes, change in kinds:
        for what, text in changes.items():
            change(text.format(**words))
            if changes is not RULE_CHANGES:
                assert not node.dataplane.disturbed(), f"IPVS and routes tell nobody, so not at once: {what}"
                node.tend(SETTINGS.sync_period)
            assert node.dataplane.disturbed(), what
            assert node.adopt().refused == {}, what
            # A real server that is not ours drains; it has no connections.
            node.tend(SETTINGS.sync_period)
            assert not node.dataplane.disturbed(), what
            assert node.adopt() == NOTHING, what
        assert state(node) == before, changes
    for name in ("cluster", "cluster6", "external", "split", "port"):
        assert node.reach(found[name])
