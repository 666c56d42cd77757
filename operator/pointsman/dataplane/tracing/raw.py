"""What the kernel holds for frontends, in the words of its own tools: ``nft``, ``ipvsadm``, ``iptables-save``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.removal import has_hint, is_ours
from pointsman.dataplane.iptables.saved import parse, target_of
from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.iptables.variant import VARIANTS
from pointsman.dataplane.ipvs import listing
from pointsman.dataplane.ipvs.genl import IpvsSocket
from pointsman.dataplane.ipvs.objects import real_line, server_line
from pointsman.dataplane.ipvs.records import records_of
from pointsman.dataplane.ipvs.rules import SCHEMA as IPVS_SCHEMA
from pointsman.dataplane.netlink import NftSocket
from pointsman.dataplane.nftables.layout import frontend_in
from pointsman.dataplane.nftables.readback import read_held
from pointsman.dataplane.nftables.schema import SCHEMA as NFTABLES_SCHEMA
from pointsman.dataplane.nftables.skeleton import ip_of
from pointsman.dataplane.nftables.structure import read_structure
from pointsman.dataplane.userspace.rules import SCHEMA as USERSPACE_SCHEMA
from pointsman.model.plan import IPV4, NODE_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from pointsman.dataplane.nftables.layout import Layout, Schema
    from pointsman.dataplane.nftables.wire import Elements
    from pointsman.model.plan import Family, Frontend

_OF_FRONTENDS: Final = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|SEP)-")
"""Chains of one Service or endpoint."""
_NODE_PORTS: Final = "KUBE-NODEPORTS"


def raw(mode: str, family: Family, frontends: Collection[Frontend]) -> tuple[str, ...]:
    """Return lines.

    Args:
        mode: the one in force; of one that this module does not know there are none.
        family: IP version of the frontends.
        frontends: as `Dataplane.read` names them.

    Raises:
        OSError, DataplaneError: it can't be read.
    """
    match mode:
        case "nftables":
            return tuple(_elements(NFTABLES_SCHEMA, family, frontends))
        case "ipvs":
            return (*_servers(family, frontends), *_elements(IPVS_SCHEMA, family, frontends))
        case "userspace":
            return tuple(_elements(USERSPACE_SCHEMA, family, frontends))
        case "iptables":
            return tuple(_rules(family, frontends))
        case _:
            return ()


def _held(schema: Schema, family: Family) -> Mapping[str, Elements]:
    wire = NftSocket()
    try:
        return read_held(wire, schema, family) if read_structure(wire, schema, family) is not None else {}
    finally:
        wire.close()


def _elements(schema: Schema, family: Family, frontends: Collection[Frontend]) -> Iterator[str]:
    for name, elements in _held(schema, family).items():
        layout = schema.layouts[family][name]
        owner = _owner(layout, family)
        if owner is None:
            continue
        for key, value in sorted(elements.items()):
            if owner(key) in frontends:
                yield f"{ip_of(family)} {schema.table} {name}: {_text(layout, key, value)}"


def _owner(layout: Layout, family: Family) -> Callable[[bytes], Frontend | None] | None:
    """Return what tells the frontend with which a key begins; None for a set whose keys begin otherwise."""
    if layout.key[1:3] == ("inet_proto", "inet_service"):
        return lambda key: frontend_in(family, "", key)
    if layout.key[:2] == ("inet_proto", "inet_service"):
        return lambda key: frontend_in(family, "node-port-", key)
    return None


def _text(layout: Layout, key: bytes, value: bytes) -> str:
    if layout.data is not None:
        return layout.text(key, value)
    # A verdict: how the kernel encodes it is of no use to people; the key says that the frontend has one.
    return layout.text(key, b"").removesuffix(" : ")


def _servers(family: Family, frontends: Collection[Frontend]) -> Iterator[str]:
    held = _held(IPVS_SCHEMA, family)
    keys = [key for key, frontend in records_of(family, held).items() if frontend in frontends] if held else []
    if not keys or not listing.PATH.exists():
        return
    ipvs = IpvsSocket()
    try:
        servers = ipvs.services()
        for key in keys:
            if key in servers:
                yield f"ipvsadm {server_line(key, servers[key])}"
                for real, counters in sorted(ipvs.dests(key).items()):
                    yield f"ipvsadm {real_line(key, real, counters.weight)}"
    finally:
        ipvs.close()


def _rules(family: Family, frontends: Collection[Frontend]) -> Iterator[str]:
    command = "iptables" if family == IPV4 else "ip6tables"
    for variant in VARIANTS:
        tools = Tools(variant)
        saved = tools.save(family) if tools.is_installed and tools.is_used(family) else ""
        if has_hint(saved):
            for table, chains in parse(saved, is_ours).held.items():
                yield from (f"{command} -t {table} {rule}" for rule in _ways(chains, frontends))


def _ways(chains: Mapping[str, tuple[str, ...]], frontends: Collection[Frontend]) -> Iterator[str]:
    """Follow the rules of frontends from the lists of all to the endpoints, each chain once."""
    first = [
        rule
        for chain, rules in chains.items()
        if not _OF_FRONTENDS.match(chain)
        for rule in rules
        if any(_matches(chain, rule, frontend) for frontend in frontends)
    ]
    yield from first
    waiting, seen = list(map(target_of, first)), set[str]()
    while waiting:
        chain = waiting.pop(0)
        if chain in seen or not _OF_FRONTENDS.match(chain):
            continue
        seen.add(chain)
        rules = chains.get(chain, ())
        yield from rules
        waiting += map(target_of, rules)


def _matches(chain: str, rule: str, frontend: Frontend) -> bool:
    if f" -p {frontend.protocol} " not in rule or not re.search(rf" --dport {frontend.port}\b", rule):
        return False
    if frontend.address == NODE_PORT:
        return chain == _NODE_PORTS
    return f" -d {frontend.address}/{32 if frontend.family == IPV4 else 128} " in rule
