"""Names of tables and chains, as kube-proxy gives them (``pkg/proxy/iptables/proxier.go``)."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pointsman.model.plan import Transport

Table = Literal["nat", "filter"]
Place = tuple[Table, str]
"""A table and one of its chains."""
Kind = Literal["SVC", "SVL", "EXT", "FW"]
"""What a Service port's chain is for: all endpoints, this node's endpoints, addresses from outside, source ranges."""

NAT: Final = "nat"
FILTER: Final = "filter"
TABLES: Final[tuple[Table, ...]] = (NAT, FILTER)

SERVICES: Final = "KUBE-SERVICES"
EXTERNAL_SERVICES: Final = "KUBE-EXTERNAL-SERVICES"
NODE_PORTS: Final = "KUBE-NODEPORTS"
POSTROUTING: Final = "KUBE-POSTROUTING"
MARK_MASQUERADE: Final = "KUBE-MARK-MASQ"
MARK_OFF_CLUSTER: Final = "KUBE-MARK-OFF-CLUSTER"
"""The one chain that kube-proxy does not have: it knows one network of pods, a node here may have several."""
FORWARD: Final = "KUBE-FORWARD"
PROXY_FIREWALL: Final = "KUBE-PROXY-FIREWALL"
SHARED: Final = "KUBE-FIREWALL"
"""The kubelet has this chain, too, with the same rule: it is completed, and never taken away."""

_OWN: Final = {
    NAT: frozenset({SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQUERADE, MARK_OFF_CLUSTER}),
    FILTER: frozenset({SERVICES, EXTERNAL_SERVICES, NODE_PORTS, FORWARD, PROXY_FIREWALL}),
}
_PREFIXES: Final = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
_HASHED: Final = 16
_PROBABILITY_UNIT: Final = 1 << 31


def is_own(table: str, chain: str) -> bool:
    """Tell whether a chain is this mode's alone, by its name."""
    return chain in _OWN.get(table, ()) or (table == NAT and chain.startswith(_PREFIXES))


def port_chain(kind: Kind, service_port: str, protocol: Transport, other: str = "") -> str:
    """Name a chain of a Service's port.

    Args:
        kind: what it is for.
        service_port: ``namespace/name`` or ``namespace/name:port``.
        protocol: in lower case.
        other: what tells it from another one of the same kind; kube-proxy never has two.
    """
    return f"KUBE-{kind}-{_hash(f'{service_port}{protocol}{other}')}"


def endpoint_chain(service_port: str, protocol: Transport, endpoint: str, other: str = "") -> str:
    """Name the chain of one endpoint of a Service's port.

    Args:
        service_port: ``namespace/name`` or ``namespace/name:port``.
        protocol: in lower case.
        endpoint: ``address:port``, with an IPv6 address in brackets.
        other: what tells it from another one of the same endpoint; kube-proxy never has two.
    """
    return f"KUBE-SEP-{_hash(f'{service_port}{protocol}{endpoint}{other}')}"


def probability(share: float) -> str:
    """Write how likely a rule of ``statistic`` applies, in ten decimals as kube-proxy does."""
    return f"{share:.10f}"


def saved_probability(share: float) -> str:
    """Write the same as ``iptables-save`` does, which reads it back from the kernel's unit of 2**-31."""
    units = int(float(probability(share)) * _PROBABILITY_UNIT + 0.5)
    return f"{units / _PROBABILITY_UNIT:.11f}"


def _hash(key: str) -> str:
    return base64.b32encode(hashlib.sha256(key.encode()).digest()[:10]).decode()[:_HASHED]
