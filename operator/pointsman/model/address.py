"""IP addresses and networks in one canonical form each, so that equal text means equal address.

Canonical IPv4 has no leading zeros; canonical IPv6 is RFC 5952 (lower case, the first longest run of zero groups
compressed). An IPv4-mapped IPv6 address is the IPv4 address, as in Kubernetes (``netutils.ParseIPSloppy``).
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pointsman.model.plan import Family

_OCTETS: Final = frozenset(map(str, range(256)))
_GROUP: Final = r"(?:0|[1-9a-f][0-9a-f]{0,3})"
_GROUPS_V6: Final = re.compile(
    rf"{_GROUP}(?::{_GROUP}){{7}}|(?:{_GROUP}(?::{_GROUP}){{0,5}})?::(?:{_GROUP}(?::{_GROUP}){{0,5}})?"
)

_SPECIAL_START: Final = (
    "127.", "169.254.", "224.0.0.", "0.0.0.", "::", "fe8", "fe9", "fea", "feb", "ff02:", "ff12:", "ff32:",
)  # fmt: skip


def family_of(address: str) -> Family:
    """Tell the IP version (4 or 6) of a canonical address or network."""
    return 6 if ":" in address else 4


def joined(address: str, port: int) -> str:
    """Write an address with a port; IPv6 stands in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def canonical_address(text: str) -> str:
    """Write an IP address in its canonical form.

    IPv4 octets with leading zeros are read as decimal, as the API server always did (kubernetes/kubernetes#100895).

    Raises:
        ValueError: it is no IP address, or one with a zone (``fe80::1%eth0``).
    """
    octets = text.split(".")
    if len(octets) == 4 and _OCTETS.issuperset(octets):  # noqa: PLR2004 -- IPv4 has four octets
        return text
    if ":" not in text:
        return _sloppy_ipv4(text, octets)
    return text if _is_plainly_canonical(text) else _compressed_ipv6(text)


def canonical_cidr(text: str) -> str:
    """Write a network in its canonical form: blanks around it ignored, host bits cleared.

    Raises:
        ValueError: it is no network, or has no prefix length.
    """
    address, slash, prefix = text.strip().partition("/")
    if not slash:
        raise ValueError(f"{text!r} has no prefix length")
    canonical = canonical_address(address)
    if not (prefix.isascii() and prefix.isdigit()) or family_of(canonical) != family_of(address):
        raise ValueError(f"{text!r} is no network")
    return str(ipaddress.ip_network((canonical, int(prefix)), strict=False))


def why_special(address: str) -> str:
    """Say why a canonical address can be neither an endpoint nor an external IP, or "" when it can.

    The API server refuses the same ones (ValidateNonSpecialIP), so that no Service leads to the node's own loopback
    or link-local addresses.
    """
    if not address.startswith(_SPECIAL_START):
        return ""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return "the unspecified address"
    if parsed.is_loopback:
        return "a loopback address"
    return "a link-local address" if parsed.is_link_local or parsed.is_multicast else ""


def _sloppy_ipv4(text: str, octets: list[str]) -> str:
    if len(octets) != 4 or not all(octet.isascii() and octet.isdigit() for octet in octets):  # noqa: PLR2004 -- as above
        raise ValueError(f"{text!r} is no IP address")
    return str(ipaddress.IPv4Address(".".join(octet.lstrip("0") or "0" for octet in octets)))


def _is_plainly_canonical(text: str) -> bool:
    """Tell most canonical IPv6 addresses from the rest, which takes the slow way and comes out right too."""
    # With eight groups there are seven colons; with ``::`` inside, at most six groups and so six colons.
    colons = text.count(":")
    if colons > 6 and "::" in text[1:-1]:  # noqa: PLR2004 -- see above
        return False
    zeros_to_judge = "::0" in text or ":0::" in text or ":0:0" in text or text.startswith(("0:", "::ffff:"))
    return not zeros_to_judge and _GROUPS_V6.fullmatch(text) is not None


def _compressed_ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which means nothing on another node")
    parsed = ipaddress.IPv6Address(text)
    return str(parsed.ipv4_mapped or parsed)
