"""Parts of rules, written as ``iptables-save`` prints them, so that rules can be compared as text."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.iptables.names import MARK_MASQUERADE, MARK_OFF_CLUSTER
from pointsman.model.address import family_of
from pointsman.model.plan import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pointsman.model.plan import Family

LOCAL_SOURCE: Final = "-m addrtype --src-type LOCAL"
LOCAL_DESTINATION: Final = "-m addrtype --dst-type LOCAL"
LOOPBACK: Final[Mapping[Family, str]] = {IPV4: "127.0.0.0/8", IPV6: "::1/128"}
RECENT_MASK: Final[Mapping[Family, str]] = {
    IPV4: "255.255.255.255",
    IPV6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED: Final = re.compile(r"""(["'\\])""")


class Pods(msgspec.Struct, frozen=True):
    """The networks of this cluster's pods of one family, in the form that rules need.

    Attributes:
        sources: a match of the source for each network; "" for everything.
        strangers: the match of a source that is no pod, as far as one match says it.
        mark: the chain that asks for masquerading a source that is no pod; "" when there are no strangers.
        networks: the networks as text.
    """

    sources: tuple[str, ...]
    strangers: str
    mark: str
    networks: tuple[str, ...]


def pods_of(family: Family, cidrs: Iterable[str]) -> Pods:
    """Work out how pods of one family are told from others. Where no network is known, nobody is a stranger."""
    networks = tuple(network_text(cidr) for cidr in cidrs if family_of(cidr) == family)
    sources = tuple(source(network) for network in networks)
    if not networks or "" in sources:
        return Pods(sources, "", "", networks)
    if len(networks) == 1:
        return Pods(sources, f"! {sources[0]}", MARK_MASQUERADE, networks)
    return Pods(sources, "", MARK_OFF_CLUSTER, networks)


def source(network: str) -> str:
    """Match a source in a network, which is written by `network_text`."""
    return "" if network.endswith("/0") else f"-s {network} "


def destination(network: str) -> str:
    """Match a destination in a network, which is written by `network_text`."""
    return "" if network.endswith("/0") else f"-d {network} "


def network_text(network: str) -> str:
    """Write a network or an address as the C library does, which differs from RFC 5952 where IPv4 is embedded."""
    address, slash, prefix = network.partition("/")
    return f"{address_text(address)}/{prefix if slash else 128 if ':' in address else 32}"


def address_text(address: str) -> str:
    """Write an address as the C library does."""
    if ":" not in address:
        return address
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))


def comment(text: str) -> str:
    """Match everything, and tell people what the rule is for."""
    return f"-m comment --comment {quoted(text)}"


def quoted(text: str) -> str:
    """Quote a word as ``iptables-save`` does."""
    return text if _BARE.fullmatch(text) else f'"{escaped(text)}"'


def escaped(text: str) -> str:
    """Escape a part of a quoted word as ``iptables-save`` does."""
    return _ESCAPED.sub(r"\\\1", text)
