"""The fixed rules: the same text for ten Services and for ten thousand.

What each chain does and why it hooks where it does is in the README beside this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman.dataplane.nftables.layout import (
    OUTSIDE_SLOTS,
    PLACES,
    PROTOCOLS,
    Chains,
    Schema,
)
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.dataplane.nftables.layout import Place
    from pointsman.model.plan import Family

_CROSSED: Final = "drop"
"""What becomes of a packet that looked at one map before a change and at the next one after it, and finds nothing
there: it is sent again by its client. Let through, it would make a connection that is never translated."""


def ip_of(family: Family) -> str:
    """Return nft's word for an address family: the table's family and the header's name."""
    return "ip" if family == IPV4 else "ip6"


def chains(family: Family, *, drop_invalid: bool) -> Chains:
    """Return the fixed chains; those that are jumped to come first."""
    found: Chains = {
        "refuse": refuse_chain(family),
        "masquerade-everyone": ["masquerade fully-random"],
    }
    for place in PLACES:
        found |= _translation(family, place) | _views(family, place)
    found |= _dispatch(family)
    found |= _after_translation(family)
    found |= {
        "prerouting": ["type nat hook prerouting priority -100; policy accept;", "goto dispatch"],
        "output": ["type nat hook output priority -100; policy accept;", "goto dispatch"],
        "input": [
            "type nat hook input priority 90; policy accept;",
            "ct status dnat meta priority set 0 jump remember",
        ],
        "postrouting": [
            "type nat hook postrouting priority 90; policy accept;",
            "ct status dnat meta priority set 0 goto translated",
        ],
    }
    if drop_invalid:
        found["forward"] = forward_chain()
    return found


def refuse_chain(family: Family) -> list[str]:
    """Return the rules that tell a client at once that nobody answers."""
    return [
        "meta l4proto tcp reject with tcp reset",
        f"reject with {'icmp' if family == IPV4 else 'icmpv6'} type port-unreachable",
    ]


def forward_chain() -> list[str]:
    """Return the rules that drop TCP packets which connection tracking calls invalid (kubernetes/kubernetes#74839)."""
    return ["type filter hook forward priority 0; policy accept;", "meta l4proto tcp ct state invalid drop"]


def to_insiders(family: Family, chain: str) -> list[str]:
    """Return the rules that send packets of clients inside the cluster, pods and the node itself, to a chain."""
    return [f"{ip_of(family)} saddr @pod-cidrs goto {chain}", f"fib saddr type local goto {chain}"]


def masquerade_chains(family: Family) -> Chains:
    """Return the chains that say who is masqueraded where not everybody is, in front of `masquerade-everyone`."""
    return {
        "masquerade-strangers": [f"{ip_of(family)} saddr @pod-cidrs accept", "goto masquerade-everyone"],
        "masquerade-own": ["fib saddr type local goto masquerade-everyone", "accept"],
    }


def each_protocol(rest: str) -> list[str]:
    """Return a rule for each protocol: nft 1.0.6 takes `ct original proto-dst` only behind a match of the protocol."""
    return [f"meta l4proto {protocol} {rest}" for protocol in PROTOCOLS]


def key_text(family: Family, place: Place) -> str:
    """Return the expression that a packet's frontend is looked up by."""
    return "meta l4proto . th dport" if place else f"{ip_of(family)} daddr . meta l4proto . th dport"


def has_node_ports(family: Family) -> str:
    """Return the match of addresses on which node ports answer, loopback left aside: the node's own, as configured.

    A cluster IP is no such address, even while it is the node's own: IPVS serves it as long as it drains, and a cache
    of DNS on the node may.
    """
    ip = ip_of(family)
    loopback = "127.0.0.0/8" if family == IPV4 else "::1"
    chosen = f"{ip} daddr != {loopback} {ip} daddr @node-port-cidrs"
    return f"{chosen} {ip} daddr != @cluster-ips fib daddr type local"


def _classify(family: Family, place: Place, source: str, classes: str) -> str:
    """Look the frontend's class up and jump to the class's chain, from which no packet comes back (but see `_crossed`).

    The class is carried from one map to the next in the packet's priority, within one rule: nft's language has no
    other way, and a verdict map of all frontends would be walked by the kernel at every change. Chains that let the
    packet go on set the priority to 0 again.
    """
    key = key_text(family, place)
    return f"meta priority set {key} map @{place}{source} meta priority vmap @{place}{classes}"


def _crossed(family: Family, place: Place) -> str:
    """Drop what comes back from its class's chain: it is new in the very commit that the packet met.

    The kernel reads maps as they are now, and rules as they were when the packet came to the hook, so that a new chain
    is empty to it. Let through, the packet would make a connection that is never translated.
    """
    return f"meta priority set {key_text(family, place)} map @{place}services {_CROSSED}"


def _translation(family: Family, place: Place) -> Chains:
    """Translate to the endpoint in the slot that a class's chain has drawn.

    The slot is in the packet's priority. When it is gone (the draw was for more slots than there are now), the first
    one of the same pool is taken, which goes last.
    """
    dnat = f"dnat to {key_text(family, place)} . meta priority map @{place}endpoints"
    return {
        f"{place}translate": [dnat, f"meta priority set 0 {dnat}", _CROSSED],
        f"{place}translate-outside": [dnat, f"meta priority set {OUTSIDE_SLOTS >> 16}:0 {dnat}", _CROSSED],
    }


def _views(family: Family, place: Place) -> Chains:
    ip = ip_of(family)
    found = {
        f"{place}inside-clients": [_classify(family, place, "inside", "inner-classes"), _CROSSED],
        f"{place}split": [
            *to_insiders(family, f"{place}inside-clients"),
            _classify(family, place, "outside", "inner-classes"),
            _CROSSED,
        ],
    }
    if not place:
        guard = f"{key_text(family, place)} . {ip} saddr != @source-ranges drop"
        found["guard"] = [guard, "goto inside-clients"]
        found["guard-and-split"] = [guard, "goto split"]
    return found


def _dispatch(family: Family) -> Chains:
    ip = ip_of(family)
    # A packet may have looked for its Service before a change, and find the address after it: it looks once more.
    look = [_classify(family, "", "services", "classes"), _crossed(family, "")]
    return {
        "refuse-others": [*look, "goto refuse"],
        "drop-others": [*look, "drop"],
        "node-ports": [_classify(family, "node-port-", "services", "classes"), _crossed(family, "node-port-")],
        "dispatch": [
            *look,
            f"{has_node_ports(family)} goto node-ports",
            f"{ip} daddr @cluster-ips fib daddr type != local goto refuse-others",
            f"{ip} daddr @service-cidrs fib daddr type != local goto drop-others",
        ],
    }


def _after_translation(family: Family) -> Chains:
    ip = ip_of(family)
    keys: Mapping[str, str] = {
        "": f"ct original {ip} daddr . meta l4proto . ct original proto-dst",
        "node-port-": "meta l4proto . ct original proto-dst",
    }

    def masquerade(place: Place) -> list[str]:
        key = keys[place]
        return [
            *each_protocol(f"{key} @{place}masquerade-all goto masquerade-everyone"),
            *each_protocol(f"{key} @{place}masquerade-off-cluster goto masquerade-strangers"),
            *each_protocol(f"{key} @{place}masquerade-node goto masquerade-own"),
        ]

    return {
        **masquerade_chains(family),
        "remember": [
            *each_protocol(f"{keys['']} vmap @affinity-timeouts"),
            *each_protocol(f"{keys['node-port-']} vmap @node-port-affinity-timeouts"),
        ],
        "translated": [
            "jump remember",
            f"{ip} saddr . {ip} daddr @hairpin goto masquerade-everyone",
            *masquerade(""),
            # Neither a cluster IP's port nor what another program translates is a node port, whatever its number.
            f"ct original {ip} daddr @cluster-ips accept",
            f"ct original {ip} daddr != @node-port-cidrs accept",
            *masquerade("node-port-"),
        ],
    }


def declarations(schema: Schema, family: Family) -> list[str]:
    """Return the declaration of every set and map."""
    return [
        f"{'map' if ' : ' in layout.declaration else 'set'} {layout.name} {{ {layout.declaration}; }}"
        for layout in schema.layouts[family].values()
    ]


def table_text(schema: Schema, family: Family, *, drop_invalid: bool) -> str:
    """Return the whole table without elements, for an empty kernel."""
    lines = [f"table {ip_of(family)} {schema.table} {{"]
    lines += [f"\t{line}" for line in declarations(schema, family)]
    for name, rules in schema.chains(family, drop_invalid=drop_invalid).items():
        lines += [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
    return "\n".join([*lines, "}", ""])


def replacement_text(schema: Schema, family: Family, present: frozenset[str], *, drop_invalid: bool) -> str:
    """Return the commands that put the fixed rules in place of whatever the fixed chains hold; elements stay.

    Args:
        schema: the table's.
        family: address family.
        present: fixed chains that are in the kernel now.
        drop_invalid: as in `NodeSettings`.
    """
    wanted = schema.chains(family, drop_invalid=drop_invalid)
    where = f"{ip_of(family)} {schema.table}"
    lines = [f"flush chain {where} {name}" for name in sorted(present)]
    lines += [f"delete chain {where} {name}" for name in sorted(present - wanted.keys())]
    for name, rules in wanted.items():
        hook = f" {{ {rules[0]} }}" if rules[0].startswith("type ") else ""
        lines.append(f"add chain {where} {name}{hook}")
    for name, rules in wanted.items():
        lines += [f"add rule {where} {name} {rule}" for rule in rules if not rule.startswith("type ")]
    return "\n".join([*lines, ""])
