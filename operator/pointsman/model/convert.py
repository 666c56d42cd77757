"""From objects as they are written to the lean ones; each rule of what counts is in one place.

Every function takes the raw object and the notes in which problems go. What is wrong costs as little as it can: an
address, a port, a field; never another object.
"""

from __future__ import annotations

import re
from datetime import datetime
from sys import intern
from typing import TYPE_CHECKING, Final

from pointsman.api.names import MAX_WEIGHT, WEIGHT_ANNOTATION
from pointsman.model.address import canonical_address, canonical_cidr, family_of, why_special
from pointsman.model.raw import HEADLESS_LABEL, PROXY_NAME_LABEL, TRIGGER_TIME_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman.model import raw
    from pointsman.model.notes import Notes
    from pointsman.model.plan import Transport

MAX_PORT: Final = 65535
PORT_REMEDY: Final = "write a whole number from 1 to 65535"
_PROTOCOLS: Final[dict[str | None, Transport]] = {
    None: "tcp", "": "tcp", "TCP": "tcp", "UDP": "udp", "SCTP": "sctp",
}  # fmt: skip
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def good_name(name: str) -> bool:
    """Tell whether `name` can be the name of an object (RFC 1123 subdomain)."""
    return _NAME.fullmatch(name) is not None


def protocol_of(port: raw.Port, field: str, notes: Notes) -> Transport | None:
    """Read a port's protocol; absent is TCP, an unknown one is noted and drops the port."""
    protocol = _PROTOCOLS.get(port.protocol)
    if protocol is None:
        notes.note(f"{field}.protocol", f'"{port.protocol}" is not known', "write TCP, UDP or SCTP", "this port")
    return protocol


def port_number(value: int | None, field: str, notes: Notes, dropped: str = "this port") -> int:
    """Read a port number; 0 stands for one that was noted and left out."""
    if value is not None and 1 <= value <= MAX_PORT:
        return value
    notes.note(field, "is missing" if value is None else f"{value} is no port", PORT_REMEDY, dropped)
    return 0


def address_or_none(text: str | None, field: str, notes: Notes, *, dropped: str = "this address") -> str | None:
    """Read an IP address that may be any; a bad one is noted."""
    try:
        return canonical_address(text or "")
    except ValueError:
        notes.note(field, f'"{text or ""}" is no IP address', "write an IPv4 or IPv6 address", dropped)
        return None


def reachable_or_none(text: str | None, field: str, notes: Notes, *, dropped: str = "this address") -> str | None:
    """Read an IP address that must be neither unspecified nor loopback nor link-local; a bad one is noted."""
    address = address_or_none(text, field, notes, dropped=dropped)
    reason = why_special(address) if address else ""
    if reason:
        notes.note(field, f'"{text}" is {reason}', "write an address that other nodes can reach", dropped)
        return None
    return address


def addresses(values: Iterable[str] | None, field: str, notes: Notes, *, any_kind: bool = False) -> tuple[str, ...]:
    """Read a list of IP addresses, each once.

    Args:
        values: what was written.
        field: path of the list.
        notes: where problems go.
        any_kind: loopback and link-local addresses are good too.
    """
    read = address_or_none if any_kind else reachable_or_none
    found = (read(text, f"{field}[{index}]", notes) for index, text in enumerate(values or ()))
    return tuple(dict.fromkeys(address for address in found if address))


def networks(values: Iterable[str] | None, field: str, notes: Notes) -> tuple[str, ...]:
    """Read a list of networks, each once."""
    found: dict[str, None] = {}
    for index, text in enumerate(values or ()):
        try:
            found[canonical_cidr(text)] = None
        except ValueError:
            notes.note(f"{field}[{index}]", f'"{text}" is no network', network_remedy(text), "this network")
    return tuple(found)


def network_remedy(text: str) -> str:
    """Say how to write a network, with the prefix length that was probably meant."""
    try:
        address = canonical_address(text.strip())
    except ValueError:
        return "write address/length, such as 10.0.0.0/8"
    return f"write {address}/{32 if family_of(address) == 4 else 128} for one address"  # noqa: PLR2004 -- IPv4


def weight_of(metadata: raw.Metadata, notes: Notes) -> int | None:
    """Read the weight annotation; a bad one is noted and counts as absent."""
    text = metadata.annotations.weight if metadata.annotations else None
    return _weight(text, "annotation", notes) if text is not None else None


def pod_weight_of(metadata: raw.Metadata, notes: Notes) -> int | None:
    """Read a Pod's weight: the label, by which an API server can be asked for such Pods alone, or the annotation."""
    text = metadata.labels.weight if metadata.labels else None
    return _weight(text, "label", notes) if text is not None else weight_of(metadata, notes)


def _weight(text: str, where: str, notes: Notes) -> int | None:
    weight = int(text) if text.isascii() and text.isdigit() else MAX_WEIGHT + 1
    if weight <= MAX_WEIGHT:
        return weight
    field = f"metadata.{where}s[{WEIGHT_ANNOTATION}]"
    notes.note(field, f'"{text}" is no weight', f'write a whole number from "0" to "{MAX_WEIGHT}"', f"this {where}")
    return None


def trigger_time_of(metadata: raw.Metadata, notes: Notes) -> float | None:
    """Read when the change that led to these endpoints happened (RFC 3339), as Unix seconds."""
    text = metadata.annotations.trigger_time if metadata.annotations else None
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None:
        return moment.timestamp()
    field = f"metadata.annotations[{TRIGGER_TIME_ANNOTATION}]"
    notes.note(field, f'"{text}" is no time', "write a time such as 2026-01-31T12:00:00Z", "this annotation")
    return None


def not_ours(labels: raw.Labels | None) -> str:
    """Say why labels put an object outside of this proxy's work, or "" (kube-proxy selects by the same labels)."""
    if labels is None:
        return ""
    if labels.proxy_name is not None:
        return f"label {PROXY_NAME_LABEL}={labels.proxy_name} gives it to another Service proxy"
    if labels.headless is not None:
        return f"label {HEADLESS_LABEL} says that it is headless"
    return ""


def interned(text: str | None) -> str:
    """Share equal strings (names of nodes, zones, namespaces, Services): they come by the hundred thousand."""
    return intern(text) if text else ""
