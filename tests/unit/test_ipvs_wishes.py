"""What is wanted at each spot in mode `ipvs`, without a kernel."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from pointsman.dataplane.ipvs.entries import Entry, key_of
from pointsman.dataplane.ipvs.objects import WIDEST, Server, ServerKey
from pointsman.dataplane.ipvs.records import Marks
from pointsman.dataplane.ipvs.servers import Held, Servers
from pointsman.dataplane.ipvs.spots import Places
from pointsman.dataplane.ipvs.table import Table
from pointsman.dataplane.ipvs.wishes import Wishes
from pointsman.dataplane.nftables.layout import address_octets
from pointsman.model.plan import FAMILIES, NODE_PORT, Answer, Backend, Frontend, NodeSettings, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN = "172.16.0.1"
SETTINGS = NodeSettings(service_cidrs=("10.96.0.0/16",), node_port_cidrs=("0.0.0.0/0",))
VIP = Frontend(4, "10.96.0.1", "tcp", 80)
EXTERNAL = Frontend(4, "198.51.100.7", "tcp", 80)
PORT = Frontend(4, NODE_PORT, "tcp", 30080)
POOL = Pool((Backend("192.168.1.1", 80),))
ANSWER = Answer("ns/web", "rr", POOL)
SPLIT = Answer("ns/web", "rr", POOL, outside=POOL)


def wishes(answers: Mapping[Frontend, Answer], settings: NodeSettings = SETTINGS) -> tuple[Wishes, Servers]:
    servers = Servers(lambda: 0.0)
    made = Wishes({family: Table(family) for family in FAMILIES}, servers)
    made.answers = dict(answers)
    made.places = Places(settings, [ipaddress.ip_address(OWN)])
    return made, servers


def hold(servers: Servers, *keys: ServerKey) -> None:
    servers.adopt({key: Held(Server(scheduler="rr", netmask=WIDEST[4]), {}, "tcp") for key in keys})


def wanted(made: Wishes, spot: Frontend, strangers: frozenset[ServerKey] = frozenset()) -> tuple[Entry | None, str]:
    refused: dict[str, str] = {}
    found = made.entries([spot], strangers, refused)
    return found.get(spot), refused.get(str(key_of(spot)), "")


def test_a_node_port_is_at_each_address_of_the_node() -> None:
    made, _ = wishes({PORT: ANSWER})
    (spot,) = made.spots([PORT])
    assert (spot.address, made.source(spot)) == (OWN, PORT)
    assert wanted(made, spot) == (Entry(ANSWER, own=True), "")


def test_what_is_not_in_the_plan_and_not_in_the_kernel_is_not_wanted() -> None:
    made, _ = wishes({})
    assert wanted(made, VIP) == (None, "")
    assert made.take_ended() == {}


def test_a_frontend_that_went_closes_for_as_long_as_its_virtual_server_is_there() -> None:
    made, servers = wishes({})
    hold(servers, key_of(VIP))
    found, _ = wanted(made, VIP)
    assert found is not None
    assert (found.closing, found.silent) == (True, False)
    assert made.take_ended() == {}
    hold(servers)
    assert made.take_ended() == {VIP: None}
    assert made.take_ended() == {}


def test_another_mode_refuses_in_its_place_once_it_has_retired() -> None:
    made, servers = wishes({})
    made.retired = True
    hold(servers, key_of(VIP))
    found, _ = wanted(made, VIP)
    assert found is not None
    assert found.silent


def test_a_mark_is_free_when_the_virtual_server_of_clients_inside_has_ended() -> None:
    made, servers = wishes({EXTERNAL: SPLIT})
    found, _ = wanted(made, EXTERNAL)
    assert found is not None
    main, inside = made.keys(EXTERNAL)
    assert inside.mark == found.mark != 0
    hold(servers, main, inside)
    made.answers = {EXTERNAL: ANSWER}
    assert wanted(made, EXTERNAL) == (Entry(ANSWER, mark=found.mark), "")
    assert made.take_ended() == {}
    hold(servers, main)
    assert made.take_ended() == {EXTERNAL: Entry(ANSWER)}
    assert made.keys(EXTERNAL) == [main]


def test_virtual_servers_of_others_are_told_unless_they_are_left_to_them() -> None:
    strangers = frozenset({key_of(EXTERNAL)})
    made, _ = wishes({EXTERNAL: ANSWER})
    found, why = wanted(made, EXTERNAL, strangers)
    assert found is None
    assert str(key_of(EXTERNAL)) in why
    settings = NodeSettings(ipvs=msgspec.structs.replace(SETTINGS.ipvs, exclude_cidrs=("198.51.100.0/24",)))
    left, _ = wishes({EXTERNAL: ANSWER}, settings)
    assert wanted(left, EXTERNAL, strangers) == (None, "")


def test_without_a_mark_to_be_had_the_frontend_is_told() -> None:
    made, _ = wishes({EXTERNAL: SPLIT})
    made.marks[4] = NoMarks(4, {})
    found, why = wanted(made, EXTERNAL)
    assert found == Entry(SPLIT)
    assert str(key_of(EXTERNAL)) in why


class NoMarks(Marks):
    """All are in use."""

    def take(self, frontend: Frontend) -> int:  # noqa: ARG002 - nobody gets one
        return 0


def test_an_address_that_our_routes_made_local_is_not_the_nodes_own() -> None:
    made, _ = wishes({})
    assert made.was_own(EXTERNAL)
    made.made_local = {4: frozenset({address_octets(4, EXTERNAL.address)}), 6: frozenset()}
    assert not made.was_own(EXTERNAL)


def test_addresses_in_a_network_of_cluster_ips_need_no_route_of_their_own() -> None:
    made, _ = wishes({})
    octets = [address_octets(4, each.address) for each in (VIP, EXTERNAL)]
    assert made.lone_routes(4, octets) == {"198.51.100.7/32"}
    assert made.routes_of(Table(4)) == {"10.96.0.0/16"}
