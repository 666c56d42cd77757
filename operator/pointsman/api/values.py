"""Values that are written as text in a resource and used as numbers: durations, port ranges, networks.

Each type carries its JSON schema; the keys ``x-type`` and ``x-allowed`` say the same for people and are what the
reference and error messages show.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_PORT: Final = 65535
_UNIT_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:h|ms|m|s|us|µs|ns))+|0")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?)(h|ms|m|s|us|µs|ns)")
_PORT_RANGE: Final = re.compile(r"([0-9]{1,6})(?:([-+])([0-9]{1,6}))?")

DURATION_ALLOWED: Final = 'numbers with a unit of ns, us, ms, s, m or h, such as "30s", "50ms" or "1h30m"'
PORT_RANGE_ALLOWED: Final = 'ports 1 to 65535, as "30000-32767" or "30000+2767" (first port and how many follow)'
CIDR_ALLOWED: Final = 'a network as "10.0.0.0/8" or "fd00::/64"'
NODE_PORT_ADDRESS_ALLOWED: Final = f"`primary`, `localhost`, `all`, or {CIDR_ALLOWED}"
MAX_UNAVAILABLE_ALLOWED: Final = 'a number of 1 or more, or a share from "1%" to "100%"'


def refuse(value: object, allowed: str) -> PydanticCustomError:
    """Build the error for a value that is not allowed.

    Args:
        value: what was written.
        allowed: what may be written, as a noun phrase.
    """
    return PydanticCustomError("not_allowed", "{value} is not allowed", {"value": repr(value), "allowed": allowed})


def parse_duration(text: str) -> float:
    """Read a duration as Go and Kubernetes write it.

    Returns:
        Seconds, 0 or more.

    Raises:
        ValueError: it is none; negative durations mean nothing here and are refused too.
    """
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no duration; allowed: {DURATION_ALLOWED}")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_duration(seconds: float) -> str:
    """Write `seconds` as Kubernetes does, in the largest units that fit: ``1h30m``, ``30s``, ``50ms``."""
    if seconds == 0:
        return "0s"
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{number:.9g}{unit}" for number, unit in parts if number)


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
        match = _PORT_RANGE.fullmatch(text.strip())
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
        ValueError: it is no network, or has no prefix length.
    """
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length")
    return str(ipaddress.ip_network(text.strip(), strict=False))


def _duration(value: Any, info: ValidationInfo) -> float:  # noqa: ANN401 -- pydantic hands over whatever was written
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            raise refuse(value, DURATION_ALLOWED) from None
    # Documents write text only (as metav1.Duration does); Python code says seconds.
    if info.mode == "json" or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise refuse(value, DURATION_ALLOWED)
    return float(value)


def _port_range(value: Any) -> PortRange:  # noqa: ANN401 -- pydantic hands over whatever was written
    if isinstance(value, PortRange):
        return value
    try:
        return PortRange.parse(value)
    except (ValueError, TypeError, AttributeError):
        raise refuse(value, PORT_RANGE_ALLOWED) from None


def _cidr(value: Any) -> str:  # noqa: ANN401 -- pydantic hands over whatever was written
    try:
        return canonical_cidr(value)
    except (ValueError, TypeError):
        raise refuse(value, CIDR_ALLOWED) from None


def _node_port_address(value: Any) -> str:  # noqa: ANN401 -- pydantic hands over whatever was written
    if value in ("primary", "localhost", "all"):
        return str(value)
    try:
        return canonical_cidr(value)
    except (ValueError, TypeError):
        raise refuse(value, NODE_PORT_ADDRESS_ALLOWED) from None


def _max_unavailable(value: Any) -> int | str:  # noqa: ANN401 -- pydantic hands over whatever was written
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]?%|100%", value):
        return value
    raise refuse(value, MAX_UNAVAILABLE_ALLOWED)


def _text(kind: str, allowed: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "x-type": kind, "x-allowed": allowed})


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    _text("duration", DURATION_ALLOWED),
]
"""Seconds; written as ``30s``."""

PortRangeText = Annotated[
    PortRange,
    BeforeValidator(_port_range),
    PlainSerializer(str, return_type=str),
    _text("port range", PORT_RANGE_ALLOWED),
]
Cidr = Annotated[str, BeforeValidator(_cidr), _text("CIDR", CIDR_ALLOWED)]
NodePortAddress = Annotated[
    str, BeforeValidator(_node_port_address), _text("CIDR or word", NODE_PORT_ADDRESS_ALLOWED)
]  # fmt: skip
MaxUnavailable = Annotated[
    int | str,
    BeforeValidator(_max_unavailable),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "x-type": "number or percentage", "x-allowed": MAX_UNAVAILABLE_ALLOWED}
    ),
]
