"""The nftables half of the mode `userspace`: fixed rules that lead connections to the proxy.

What each chain does and why it hooks where it does is in the README beside this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables.layout import (
    PLACES,
    STRUCTURE,
    Chains,
    Layout,
    Schema,
    address_type,
    frontend_types,
    network_layouts,
    source_ranges_layout,
)
from pointsman.dataplane.nftables.skeleton import has_node_ports, ip_of, key_text, refuse_chain, to_insiders
from pointsman.dataplane.userspace.port import OWN_PRIORITY
from pointsman.model.plan import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.nftables.layout import Place
    from pointsman.model.plan import Family, NodeSettings

TABLE: Final = "pointsman-userspace"

PROXY_ADDRESSES: Final[Mapping[Family, str]] = {4: "169.254.112.112", 6: "fd70:6f69:6e74:736d::1"}
"""Where the proxy listens. A route makes them the node's own; no device has them, and nobody outside a way there."""

_NETWORKS: Final = ("pod-cidrs", "service-cidrs", "node-port-cidrs", "loopback-cidrs")
"""Sets of networks: few elements, written whole."""

_LOOPBACK: Final[Mapping[Family, str]] = {4: "127.0.0.0/8", 6: "::1/128"}


def networks_of(settings: NodeSettings) -> dict[str, tuple[str, ...]]:
    """Return the networks that belong into each of their sets."""
    return {
        "pod-cidrs": settings.pod_cidrs,
        "service-cidrs": settings.service_cidrs,
        "node-port-cidrs": settings.node_port_cidrs,
        "loopback-cidrs": tuple(_LOOPBACK.values()) if settings.localhost_node_ports else (),
    }


def _layouts(family: Family) -> dict[str, Layout]:
    address, key = address_type(family), frontend_types(family, "")
    found = [layout for place in PLACES for layout in _frontend_layouts(family, place)]
    found += [
        Layout("cluster-ips", f"type {address}", (address,)),
        Layout("guarded", f"type {' . '.join(key)}", key),
        source_ranges_layout(address),
        *network_layouts(address, *_NETWORKS),
        STRUCTURE,
    ]
    return {layout.name: layout for layout in found}


def _frontend_layouts(family: Family, place: Place) -> Iterator[Layout]:
    address, key = address_type(family), frontend_types(family, place)
    frontend = " . ".join(key)
    for name in ("split", "refused", "dropped", "refused-inside", "dropped-inside"):
        yield Layout(f"{place}{name}", f"type {frontend}", key)
    for name in ("ports", "ports-inside"):
        yield Layout(
            f"{place}{name}", f"type {frontend} : {address} . inet_service; counter", key, (address, "inet_service")
        )


def chains(family: Family, *, drop_invalid: bool) -> Chains:
    """Return the fixed chains; those that are jumped to come first. Nothing is forwarded, and so nothing is invalid."""
    del drop_invalid
    ip = ip_of(family)
    found: Chains = {"refuse": refuse_chain(family)}
    for place in PLACES:
        found |= _clients(family, place)
    # A packet may have looked for its Service before a change, and find the address after it: it looks once more.
    found["refuse-others"] = ["jump all-clients", "goto refuse"]
    found["drop-others"] = ["jump all-clients", "drop"]
    found["dispatch"] = [
        f"{key_text(family, '')} @guarded {key_text(family, '')} . {ip} saddr != @source-ranges drop",
        f"{key_text(family, '')} @split goto views",
        "jump all-clients",
        f"{has_node_ports(family)} goto node-port-dispatch",
        f"{ip} daddr @loopback-cidrs fib daddr type local goto node-port-dispatch",
        f"{ip} daddr @cluster-ips fib daddr type != local goto refuse-others",
        f"{ip} daddr @service-cidrs fib daddr type != local goto drop-others",
    ]
    own = f"meta priority {OWN_PRIORITY >> 16:x}:{OWN_PRIORITY & 0xFFFF:x} accept"
    proxy = f"{ip} daddr {PROXY_ADDRESSES[family]}"
    return found | {
        "prerouting": ["type nat hook prerouting priority -100; policy accept;", "goto dispatch"],
        "output": ["type nat hook output priority -100; policy accept;", own, "goto dispatch"],
        "input": [
            "type filter hook input priority 0; policy accept;",
            f"{proxy} ct status dnat accept",
            f"{proxy} goto refuse",
        ],
    }


def _clients(family: Family, place: Place) -> Chains:
    key = key_text(family, place)

    def answer(view: str) -> list[str]:
        return [
            f"{key} @{place}dropped{view} drop",
            f"{key} @{place}refused{view} goto refuse",
            f"dnat to {key} map @{place}ports{view}",
        ]

    inside = f"{place}inside-clients"
    found = {
        f"{place}all-clients": answer(""),
        inside: answer("-inside"),
        f"{place}views": [*to_insiders(family, inside), f"goto {place}all-clients"],
    }
    if place:
        found[f"{place}dispatch"] = [f"{key} @{place}split goto {place}views", f"goto {place}all-clients"]
    return found


SCHEMA: Final = Schema(TABLE, {f: _layouts(f) for f in (IPV4, IPV6)}, chains)
