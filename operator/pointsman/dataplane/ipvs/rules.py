"""The nftables half of the mode `ipvs`: fixed rules and sets for masquerading and filtering.

What each chain does and why it hooks where it does is in the README beside this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables import jhash
from pointsman.dataplane.nftables.layout import (
    STRUCTURE,
    Chains,
    Layout,
    Schema,
    address_type,
    frontend_types,
    network_layouts,
    source_ranges_layout,
)
from pointsman.dataplane.nftables.skeleton import (
    each_protocol,
    forward_chain,
    ip_of,
    key_text,
    masquerade_chains,
    refuse_chain,
    to_insiders,
)
from pointsman.model.plan import IPV4, IPV6

if TYPE_CHECKING:
    from pointsman.dataplane.nftables.layout import FieldType
    from pointsman.model.plan import Family, NodeSettings

TABLE: Final = "pointsman-ipvs"

NETWORKS: Final = ("pod-cidrs", "service-cidrs")
"""Sets of networks: few elements, written whole."""

FIRST_MARK: Final = 0x504D_0000
"""Firewall marks of ours are this one and the 65,535 behind it ("PM"). A packet has one only on its way into IPVS."""
MARKS: Final = 0x1_0000

_FRONTEND_SETS: Final = (
    "frontends",
    "guarded",
    "split",
    "refused",
    "dropped",
    "refused-inside",
    "dropped-inside",
    "masquerade-all",
    "masquerade-off-cluster",
    "masquerade-node",
)


def networks_of(settings: NodeSettings) -> dict[str, tuple[str, ...]]:
    """Return the networks that belong into each of their sets."""
    return {"pod-cidrs": settings.pod_cidrs, "service-cidrs": settings.service_cidrs}


def _layouts(family: Family) -> dict[str, Layout]:
    address, key = address_type(family), frontend_types(family, "")
    frontend = " . ".join(key)
    found = [
        *(Layout(name, f"type {frontend}", key) for name in _FRONTEND_SETS),
        Layout("marks", f"type {frontend} : mark", key, ("mark",)),
        Layout("cluster-ips", f"type {address}", (address,)),
        Layout("external-ips", f"type {address}", (address,)),
        Layout("hairpin", f"type {address} . {address}", (address, address)),
        source_ranges_layout(address),
        *network_layouts(address, *NETWORKS),
        _saved_marks(family),
        STRUCTURE,
    ]
    return {layout.name: layout for layout in found}


def _saved_marks(family: Family) -> Layout:
    """Return the map in which packets leave the marks that others gave them.

    The client's IPv6 address is kept as a hash: nft 1.0.6 has too few registers for the rule otherwise.
    """
    client = "ip saddr" if family == IPV4 else "numgen random mod 2"
    kind: FieldType = "ipv4_addr" if family == IPV4 else "number"
    declaration = (
        f"typeof {client} . meta l4proto . th sport : meta mark; flags dynamic,timeout; size 65536; timeout 10s"
    )
    return Layout("saved-marks", declaration, (kind, "inet_proto", "inet_service"), ("mark",))


def chains(family: Family, *, drop_invalid: bool) -> Chains:
    """Return the fixed chains; those that are jumped to come first."""
    found: Chains = {
        "refuse": refuse_chain(family),
        "masquerade-everyone": ["masquerade fully-random"],
        **_before(family),
        **_marking(family),
        **_behind(family),
        **_masquerading(family),
    }
    if drop_invalid:
        found["forward"] = forward_chain()
    return found


def _before(family: Family) -> Chains:
    """Before IPVS: who may not connect, and where nobody answers."""
    ip = ip_of(family)
    key = key_text(family, "")
    return {
        "inside-clients": [f"{key} @dropped-inside drop", f"{key} @refused-inside goto refuse"],
        "outside-clients": [f"{key} @dropped drop", f"{key} @refused goto refuse"],
        "views": [*to_insiders(family, "inside-clients"), "goto outside-clients"],
        "admit": [
            f"{key} @guarded {key} . {ip} saddr != @source-ranges drop",
            f"{key} @split goto views",
            "goto outside-clients",
        ],
        "prerouting": ["type nat hook prerouting priority -100; policy accept;", "goto admit"],
        "output": [
            "type nat hook output priority -100; policy accept;",
            "jump admit",
            f"{key} @split goto mark-inside",
        ],
    }


def _marking(family: Family) -> Chains:
    """Show IPVS the virtual server for clients inside, by a mark that is gone behind it."""
    ip = ip_of(family)
    key = key_text(family, "")
    client = f"{ip} saddr" if family == IPV4 else f"jhash ip6 saddr mod {jhash.LARGEST_MODULUS} seed {jhash.SEED:#x}"
    saved = f"{client} . meta l4proto . th sport"
    again = f"meta mark & {~(MARKS - 1) & 0xFFFF_FFFF:#x} == {FIRST_MARK:#x} goto restore-mark"
    return {
        "save-mark": [f"update @saved-marks {{ {saved} : meta mark }}"],
        "set-mark": [
            "meta mark != 0 jump save-mark",
            f"meta mark set {key} map @marks",
        ],
        "mark-inside": to_insiders(family, "set-mark"),
        "restore-mark": [f"meta mark set {saved} map @saved-marks accept", "meta mark set 0"],
        "input": ["type filter hook input priority 97; policy accept;", f"ct state new {key} @split goto mark-inside"],
        "again-output": ["type filter hook output priority -301; policy accept;", again],
        "again-postrouting": [
            "type filter hook postrouting priority -301; policy accept;",
            again,
        ],
    }


def _behind(family: Family) -> Chains:
    """Behind IPVS: what it did not take has no business at these addresses."""
    ip = ip_of(family)
    first = "ct state { new, untracked } goto leftover"
    return {
        "leftover": [
            f"{ip} daddr @cluster-ips goto refuse",
            f"{ip} daddr @external-ips goto refuse",
            f"{ip} daddr @service-cidrs drop",
        ],
        "leftover-input": ["type filter hook input priority 101; policy accept;", first],
        "leftover-output": ["type filter hook output priority -97; policy accept;", first],
    }


def _masquerading(family: Family) -> Chains:
    ip = ip_of(family)
    original = f"ct original {ip} daddr . meta l4proto . ct original proto-dst"

    return {
        **masquerade_chains(family),
        "served": [
            f"{ip} saddr . {ip} daddr @hairpin goto masquerade-everyone",
            *each_protocol(f"{original} @masquerade-all goto masquerade-everyone"),
            *each_protocol(f"{original} @masquerade-off-cluster goto masquerade-strangers"),
            *each_protocol(f"{original} @masquerade-node goto masquerade-own"),
        ],
        "postrouting": [
            "type nat hook postrouting priority 90; policy accept;",
            *each_protocol(f"{original} @frontends goto served"),
        ],
    }


SCHEMA: Final = Schema(TABLE, {f: _layouts(f) for f in (IPV4, IPV6)}, chains, frozenset({"saved-marks", "structure"}))
