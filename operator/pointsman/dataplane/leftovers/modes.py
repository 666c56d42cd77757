"""What the modes of Pointsman hold in this node's kernel, for people; nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.names import NAT, is_own
from pointsman.dataplane.iptables.removal import HINT, has_hint
from pointsman.dataplane.iptables.saved import parse
from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.iptables.variant import VARIANTS
from pointsman.dataplane.ipvs.rules import TABLE as IPVS
from pointsman.dataplane.leftovers import virtual_servers
from pointsman.dataplane.leftovers.found import Leftover, many
from pointsman.dataplane.leftovers.kube_proxy import NO_TOOLS, place_of
from pointsman.dataplane.leftovers.nft_tables import find_tables
from pointsman.dataplane.local_routes import PROTOCOL, LocalRoutes
from pointsman.dataplane.nftables.ear import open_wire
from pointsman.dataplane.nftables.layout import TABLE as NFTABLES
from pointsman.dataplane.nftables.presence import has_chain
from pointsman.dataplane.nftables.readback import read_held
from pointsman.dataplane.nftables.structure import read_structure
from pointsman.dataplane.protocol import DataplaneError
from pointsman.dataplane.sysctl import LOCALNET, routes_loopback_for_us
from pointsman.dataplane.userspace.dataplane import ROUTE_PROTOCOL
from pointsman.dataplane.userspace.rules import SCHEMA as USERSPACE_SCHEMA
from pointsman.dataplane.userspace.rules import TABLE as USERSPACE
from pointsman.model.plan import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pointsman.dataplane.netlink import NftSocket
    from pointsman.model.plan import Family


def held_by(mode: str) -> list[Leftover] | None:
    """Look for what a mode holds.

    Returns:
        What there is; None for a mode of which this module knows nothing, as one that is installed beside Pointsman.

    Raises:
        DataplaneError: it can't be read; with the remedy.
    """
    look = _LOOKS.get(mode)
    if look is None:
        return None
    wire = open_wire()
    try:
        return look(wire)
    except OSError as error:
        raise DataplaneError(f"what mode {mode} holds can't be read: {error}; run this as root") from error
    finally:
        wire.close()


def is_known(mode: str) -> bool:
    """Tell whether `held_by` knows a mode."""
    return mode in _LOOKS


def legacy_is_unseen() -> bool:
    """Tell whether the legacy variant of iptables has tables, of whomever, that nothing on this node can list."""
    legacy = Tools("legacy")
    return not legacy.is_installed and any(map(legacy.is_used, FAMILIES))


def proxy_is_empty() -> bool:
    """Tell whether the tables of the mode userspace are there, and lead no connection to its proxy.

    So they are once another mode is in force, as long as the proxy has connections of before.

    Raises:
        DataplaneError: it can't be read; with the remedy.
    """
    wire = open_wire()
    try:
        there = [family for family in FAMILIES if read_structure(wire, USERSPACE_SCHEMA, family) is not None]
        held = [read_held(wire, USERSPACE_SCHEMA, family) for family in there]
    except OSError as error:
        raise DataplaneError(f"what mode userspace holds can't be read: {error}; run this as root") from error
    finally:
        wire.close()
    return bool(held) and not any(elements for found in held for elements in found.values())


def _nftables(wire: NftSocket) -> list[Leftover]:
    return find_tables(wire, NFTABLES)


def _userspace(wire: NftSocket) -> list[Leftover]:
    return [*find_tables(wire, USERSPACE), *_routes(ROUTE_PROTOCOL)]


def _iptables(_wire: NftSocket) -> list[Leftover]:
    found = []
    for variant in VARIANTS:
        tools = Tools(variant)
        for family in FAMILIES:
            if tools.is_installed and tools.is_used(family):
                found += list(_chains(tools, family))
            elif variant == "nft" and has_chain(family, NAT, HINT):
                found.append(Leftover("chains", place_of(variant, family).format(NAT), members=(HINT,), kept=NO_TOOLS))
    if routes_loopback_for_us():
        found.append(Leftover("kernel parameter", LOCALNET, detail="back to 0"))
    return found


def _chains(tools: Tools, family: Family) -> Iterator[Leftover]:
    listing = tools.save(family)
    if not has_hint(listing):
        return
    for table, held in parse(listing, _is_ours).held.items():
        chains = {chain: rules for chain, rules in held.items() if _is_ours(table, chain)}
        detail = many(sum(map(len, chains.values())), "rule")
        place = place_of(tools.variant, family).format(table)
        yield Leftover("chains", place, members=tuple(sorted(chains)), detail=detail)


def _is_ours(table: str, chain: str) -> bool:
    """Tell a chain that goes with the mode; KUBE-FIREWALL may stay, as it is the kubelet's, too."""
    return is_own(table, chain) or chain == HINT


def _ipvs(wire: NftSocket) -> list[Leftover]:
    found = find_tables(wire, IPVS)
    ours = virtual_servers.ours(wire) if found else frozenset()
    there = [key for key in virtual_servers.read_keys() if key in ours] if ours else []
    if there:
        found.append(Leftover("virtual servers", members=virtual_servers.named(there)))
    return [*found, *_routes(PROTOCOL)]


def _routes(protocol: int) -> list[Leftover]:
    routes = LocalRoutes(protocol)
    try:
        found = tuple(network for family in FAMILIES for network in sorted(routes.read(family)))
    finally:
        routes.close()
    return [Leftover("local routes", f"protocol {protocol}", members=found)] if found else []


_LOOKS: Final[Mapping[str, Callable[[NftSocket], list[Leftover]]]] = {
    "nftables": _nftables,
    "ipvs": _ipvs,
    "iptables": _iptables,
    "userspace": _userspace,
}
