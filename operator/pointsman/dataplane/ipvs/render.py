"""The mode `ipvs` as text: what the agent brings into the kernel, for reading and for ``ipvsadm`` and ``nft``."""

from __future__ import annotations

import ipaddress
import shlex
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.ipvs.entries import Entry, servers
from pointsman.dataplane.ipvs.objects import real_line, server_line
from pointsman.dataplane.ipvs.records import Marks
from pointsman.dataplane.ipvs.rules import SCHEMA
from pointsman.dataplane.ipvs.spots import Places
from pointsman.dataplane.ipvs.table import Table
from pointsman.dataplane.local_routes import PROTOCOL
from pointsman.dataplane.nftables.layout import address_text
from pointsman.dataplane.nftables.render import TextDraft, table_script
from pointsman.model.address import family_of
from pointsman.model.plan import FAMILIES, NODE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.model.plan import Family, Frontend, Plan

_MODULE: Final = "[ -d /proc/sys/net/ipv4/vs ] || modprobe ip_vs"
"""The parameters of IPVS are there once it is loaded, and ``ipvsadm``, which loads it, comes after them."""
_SYSCTLS: Final = (
    "sysctl -w net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1 "
    "net.ipv4.vs.expire_quiescent_template=1"
)


def render(plan: Plan, addresses: Iterable[str] = ()) -> str:
    """Write a plan as a shell script that loads it by ``nft``, ``ip route`` and ``ipvsadm --restore``.

    The agent writes the same, but only what differs from what the kernel holds, and nothing that is another program's.

    Args:
        plan: the node's plan.
        addresses: the node's own addresses, the most important of each family first.
    """
    own = list(addresses)
    places = Places(plan.settings, map(ipaddress.ip_address, own))
    entries = _entries(plan, places)
    lines, routes = ["#!/bin/sh", "set -e", _MODULE, _SYSCTLS, ""], list[str]()
    for family in FAMILIES:
        table, draft = Table(family), TextDraft(SCHEMA, family)
        of_family = {spot: entry for spot, entry in entries.items() if spot.family == family}
        table.accept(table.adoption(of_family, places.settings, SCHEMA.empty(family), draft))
        script = table_script(SCHEMA, family, draft, drop_invalid=plan.settings.drop_invalid)
        lines += ["nft -f - <<'END'", f"{script}END", ""]
        wanted = places.routes(family, (address_text(family, octets) for octets in table.addresses()))
        routes += _route_lines(family, wanted, next(iter(_of_family(own, family)), ""))
    lines += ["ipvsadm --restore <<'END'", *_server_lines(entries), "END", "", *routes, ""]
    return "\n".join(lines)


def _entries(plan: Plan, places: Places) -> dict[Frontend, Entry]:
    marks = {family: Marks(family, {}) for family in FAMILIES}
    found: dict[Frontend, Entry] = {}
    # A frontend at an address of its own comes before a node port there.
    for frontend in sorted(plan.answers, key=lambda frontend: (frontend.address == NODE_PORT, frontend)):
        answer = plan.answers[frontend]
        for spot in places.of(frontend):
            mark = marks[spot.family].take(spot) if answer.outside is not None else 0
            found.setdefault(spot, Entry(answer, spot.address in places.own, mark))
    return found


def _route_lines(family: Family, networks: Iterable[str], source: str) -> Iterator[str]:
    for network in sorted(networks):
        words = ["ip", f"-{family}", "route", "replace", "local", network, "dev", "lo", "table", "local", "proto"]
        yield shlex.join([*words, str(PROTOCOL), *(("src", source) if source else ())])


def _server_lines(entries: dict[Frontend, Entry]) -> Iterator[str]:
    for spot, entry in entries.items():
        for key, wanted in servers(spot, entry):
            yield server_line(key, wanted.server)
            for real, weight in wanted.reals.items():
                yield real_line(key, real, weight)


def _of_family(addresses: Iterable[str], family: Family) -> Iterator[str]:
    return (address for address in addresses if family_of(address) == family)
