"""Values that are written as text in a resource and used as numbers: durations, port ranges, networks.

How they are read and written; `pointsman.api.fields` makes them types of fields.
"""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Final, NamedTuple

from pydantic_core import PydanticCustomError

MAX_PORT: Final = 65535
_UNIT_NANOSECONDS: Final = {
    "h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "µs": 1000, "ns": 1,
}  # fmt: skip
_MAX_NANOSECONDS: Final = 2**63 - 1
"""What Go's time.Duration can hold: 292 years."""
MAX_DURATION_LENGTH: Final = 64
MAX_CIDR_LENGTH: Final = 43
DURATION_PATTERN: Final = r"([0-9]+([.][0-9]*)?(h|ms|m|s|us|µs|ns))+|0"
_DURATION: Final = re.compile(DURATION_PATTERN)
_DURATION_PART: Final = re.compile(r"([0-9]+(?:[.][0-9]*)?)(h|ms|m|s|us|µs|ns)")
PORT_RANGE_PATTERN: Final = r"[0-9]{1,6}([-+][0-9]{1,6})?"
_PORT_RANGE: Final = re.compile(r"([0-9]{1,6})(?:([-+])([0-9]{1,6}))?")
_CIDR_PATTERN: Final = r"[0-9a-fA-F.:]+/(0|[1-9][0-9]{0,2})"
_CIDR: Final = re.compile(_CIDR_PATTERN)

DURATION_ALLOWED: Final = 'numbers with a unit of ns, us, ms, s, m or h, such as "30s", "50ms" or "1h30m"'
PORT_RANGE_ALLOWED: Final = 'ports 1 to 65535, as "30000-32767" or "30000+2767" (first port and how many follow)'
CIDR_ALLOWED: Final = 'a network as "10.0.0.0/8" or "fd00::/64"'


def refuse(value: object, allowed: str, *, field: str = "") -> PydanticCustomError:
    """Build the error for a value that is not allowed.

    Args:
        value: what was written.
        allowed: what may be written, as a noun phrase.
        field: the field that it stands in, where what is validated is more than that field.
    """
    context = {"value": repr(value), "allowed": allowed, "field": field}
    return PydanticCustomError("not_allowed", "{value} is not allowed", context)


def parse_duration(text: str) -> float:
    """Read a duration as Go and Kubernetes write it.

    Returns:
        Seconds, 0 or more.

    Raises:
        ValueError: it is none; negative durations mean nothing here and are refused too.
    """
    if len(text) > MAX_DURATION_LENGTH or _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no duration; allowed: {DURATION_ALLOWED}")
    nanoseconds = sum(int(Decimal(number) * _UNIT_NANOSECONDS[unit]) for number, unit in _DURATION_PART.findall(text))
    if nanoseconds > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r} is too long; allowed: {DURATION_ALLOWED}, 292 years at most")
    return nanoseconds / 1e9


def format_duration(seconds: float) -> str:
    """Write `seconds` as Kubernetes does, in the largest units that fit: ``1h30m``, ``30s``, ``50ms``, ``1.5s``."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds < _UNIT_NANOSECONDS["s"]:
        unit = next((name for name in ("ms", "us", "ns") if nanoseconds >= _UNIT_NANOSECONDS[name]), "s")
        return f"{_plain(nanoseconds, unit)}{unit}"
    hours, rest = divmod(nanoseconds, _UNIT_NANOSECONDS["h"])
    minutes, rest = divmod(rest, _UNIT_NANOSECONDS["m"])
    parts = ((str(hours), "h"), (str(minutes), "m"), (_plain(rest, "s"), "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number != "0")


def _plain(nanoseconds: int, unit: str) -> str:
    """Write a number of units without an exponent and without zeros at the end."""
    number = f"{Decimal(nanoseconds) / _UNIT_NANOSECONDS[unit]:f}"
    return number.rstrip("0").rstrip(".") if "." in number else number


class PortRange(NamedTuple):
    """Ports from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        """Write it as the API server does: ``30000-32767``."""
        return f"{self.low}-{self.high}"

    def holds(self, port: int) -> bool:
        """Tell whether `port` is in the range."""
        return self.low <= port <= self.high

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read ``low-high``, ``low+more`` or a single port, as kube-apiserver's --service-node-port-range does.

        Raises:
            ValueError: it is none of these, or a port is outside 1..65535, or the first is above the last.
        """
        match = _PORT_RANGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no port range; allowed: {PORT_RANGE_ALLOWED}")
        low = int(match[1])
        high = {"-": int(match[3] or 0), "+": low + int(match[3] or 0), None: low}[match[2]]
        if not 1 <= low <= high <= MAX_PORT:
            raise ValueError(f"{text!r} is no port range; allowed: {PORT_RANGE_ALLOWED}, the first not above the last")
        return cls(low, high)


def canonical_cidr(text: str) -> str:
    """Write a network in its one canonical form, host bits cleared.

    Raises:
        ValueError: it is no network, has no prefix length, or is one of IPv4 addresses in IPv6 (the API server refuses
            these too).
    """
    if len(text) > MAX_CIDR_LENGTH or _CIDR.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no network; allowed: {CIDR_ALLOWED}")
    address, _, length = text.partition("/")
    if getattr(ipaddress.ip_address(address), "ipv4_mapped", None) is not None:
        raise ValueError(f"{text!r} holds IPv4 addresses in IPv6; allowed: {CIDR_ALLOWED}")
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
