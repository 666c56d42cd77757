"""The rules that do not depend on Services: where packets come from, and what becomes of marked ones."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from pointsman.dataplane.iptables.names import (
    EXTERNAL_SERVICES,
    FILTER,
    FORWARD,
    MARK_MASQUERADE,
    MARK_OFF_CLUSTER,
    NAT,
    NODE_PORTS,
    POSTROUTING,
    PROXY_FIREWALL,
    SERVICES,
    SHARED,
)
from pointsman.dataplane.iptables.words import (
    LOCAL_DESTINATION,
    LOOPBACK,
    comment,
    destination,
    network_text,
    pods_of,
)
from pointsman.model.address import family_of
from pointsman.model.plan import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.iptables.names import Place
    from pointsman.model.plan import Family, NodeSettings

Rules = tuple[str, ...]

LISTS: Final[tuple[Place, ...]] = (
    (NAT, SERVICES),
    (NAT, NODE_PORTS),
    (FILTER, SERVICES),
    (FILTER, EXTERNAL_SERVICES),
    (FILTER, NODE_PORTS),
    (FILTER, PROXY_FIREWALL),
)
"""Chains with a rule for each frontend. Their order is of no importance, but for the last rules (see `ends`)."""

_NODE_PORTS: Final = comment(
    "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
)  # fmt: skip
_NEW: Final = "-m conntrack --ctstate NEW"
_KNOWN: Final = "-m conntrack --ctstate RELATED,ESTABLISHED"
_FIREWALL: Final = comment("kubernetes load balancer firewall")
_PORTALS: Final = comment("kubernetes service portals")
_VISIBLE: Final = comment("kubernetes externally-visible service portals")

JUMPS: Final[Mapping[Place, Rules]] = {
    (NAT, "PREROUTING"): (f"-A PREROUTING {_PORTALS} -j {SERVICES}",),
    (NAT, "OUTPUT"): (f"-A OUTPUT {_PORTALS} -j {SERVICES}",),
    (NAT, "POSTROUTING"): (f"-A POSTROUTING {comment('kubernetes postrouting rules')} -j {POSTROUTING}",),
    (FILTER, "INPUT"): (
        f"-A INPUT {_NEW} {_FIREWALL} -j {PROXY_FIREWALL}",
        f"-A INPUT {_NEW} {_VISIBLE} -j {EXTERNAL_SERVICES}",
    ),
    (FILTER, "FORWARD"): (
        f"-A FORWARD {_NEW} {_FIREWALL} -j {PROXY_FIREWALL}",
        f"-A FORWARD {comment('kubernetes forwarding rules')} -j {FORWARD}",
        f"-A FORWARD {_NEW} {_PORTALS} -j {SERVICES}",
        f"-A FORWARD {_NEW} {_VISIBLE} -j {EXTERNAL_SERVICES}",
    ),
    (FILTER, "OUTPUT"): (
        f"-A OUTPUT {_NEW} {_FIREWALL} -j {PROXY_FIREWALL}",
        f"-A OUTPUT {_NEW} {_PORTALS} -j {SERVICES}",
        # kube-proxy lets the node itself wait for an external address that nobody answers; BEHAVIOUR asks otherwise.
        f"-A OUTPUT {_NEW} {_VISIBLE} -j {EXTERNAL_SERVICES}",
    ),
}
"""How packets get into our chains, in the order of the rules."""

SHARED_RULE: Final = (
    f"-A {SHARED} ! -s 127.0.0.0/8 -d 127.0.0.0/8 {comment('block incoming localnet connections')} "
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)
"""What keeps others out of loopback where the kernel would let them in (kubernetes/kubernetes#90259)."""
SHARED_JUMPS: Final[Mapping[Place, str]] = {
    (FILTER, "INPUT"): f"-A INPUT -j {SHARED}",
    (FILTER, "OUTPUT"): f"-A OUTPUT -j {SHARED}",
}


def guards_loopback(family: Family, settings: NodeSettings) -> bool:
    """Tell whether node ports answer on loopback, so that it must be kept from others; IPv6 never does."""
    return family == IPV4 and settings.iptables.localhost_node_ports


def fixed_chains(family: Family, settings: NodeSettings) -> dict[Place, Rules]:
    """Return the chains whose rules are the same whatever Services there are."""
    mark = f"{1 << settings.iptables.masquerade_bit:#x}"
    marked = f"--mark {mark}/{mark}"
    found: dict[Place, Rules] = {
        (NAT, POSTROUTING): (
            f"-A {POSTROUTING} -m mark ! {marked} -j RETURN",
            # The mark goes, lest a packet that passes again is masqueraded again.
            f"-A {POSTROUTING} -j MARK --set-xmark {mark}/0x0",
            f"-A {POSTROUTING} {comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        ),
        (NAT, MARK_MASQUERADE): (f"-A {MARK_MASQUERADE} -j MARK --set-xmark {mark}/{mark}",),
        (FILTER, FORWARD): (
            *((f"-A {FORWARD} -p tcp -m conntrack --ctstate INVALID -j DROP",) if settings.drop_invalid else ()),
            f"-A {FORWARD} {comment('kubernetes forwarding rules')} -m mark {marked} -j ACCEPT",
            f"-A {FORWARD} {comment('kubernetes forwarding conntrack rule')} {_KNOWN} -j ACCEPT",
        ),
    }
    pods = pods_of(family, settings.pod_cidrs)
    if pods.mark == MARK_OFF_CLUSTER:
        found[NAT, MARK_OFF_CLUSTER] = (
            *(f"-A {MARK_OFF_CLUSTER} {source}-j RETURN" for source in pods.sources),
            f"-A {MARK_OFF_CLUSTER} -j {MARK_MASQUERADE}",
        )
    return found


def ends(family: Family, settings: NodeSettings) -> dict[Place, Rules]:
    """Return the last rules of the chains that have a rule for each frontend: the ways to the node ports."""
    ways = tuple(_ways(family, settings))
    found: dict[Place, Rules] = dict.fromkeys(LISTS, ())
    found[NAT, SERVICES] = tuple(f"-A {SERVICES} {way}" for way in ways)
    found[FILTER, EXTERNAL_SERVICES] = tuple(f"-A {EXTERNAL_SERVICES} {way}" for way in ways)
    return found


def _ways(family: Family, settings: NodeSettings) -> Iterator[str]:
    loopback = LOOPBACK[family]
    spared = not guards_loopback(family, settings)
    for cidr in (cidr for cidr in settings.node_port_cidrs if family_of(cidr) == family):
        match = destination(network_text(cidr))
        if spared:
            if _holds(loopback, cidr):
                continue
            if not match:
                match = f"! -d {loopback} "
            elif _holds(cidr, loopback):
                yield f"-d {loopback} -j RETURN"
        yield f"{match}{_NODE_PORTS} {LOCAL_DESTINATION} -j {NODE_PORTS}"


def _holds(outer: str, inner: str) -> bool:
    wide, narrow = ipaddress.ip_network(outer), ipaddress.ip_network(inner)
    return wide.prefixlen <= narrow.prefixlen and narrow.network_address in wide
