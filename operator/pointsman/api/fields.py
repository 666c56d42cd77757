"""Types of fields in the custom resources.

Each type carries its JSON schema, with the rules that the API server checks; the keys ``x-type`` and ``x-allowed`` say
the same for people and are what the reference and error messages show. Patterns are there for editors and other tools
that know nothing of rules.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from pointsman.api import cel
from pointsman.api.names import MAX_NAME_LENGTH, MODES, OWN_NAME_ALLOWED, OWN_NAME_PATTERN, is_own_name
from pointsman.api.schedulers import SCHEDULER_FLAGS, SchedulerFlag
from pointsman.api.values import (
    CIDR_ALLOWED,
    DURATION_ALLOWED,
    DURATION_PATTERN,
    MAX_CIDR_LENGTH,
    MAX_DURATION_LENGTH,
    MAX_PORT,
    PORT_RANGE_ALLOWED,
    PORT_RANGE_PATTERN,
    PortRange,
    canonical_cidr,
    format_duration,
    parse_duration,
    refuse,
)

MAX_INT32: Final = 2**31 - 1
MAX_CIDRS: Final = 256
"""So many networks may stand in one list; the API server wants bounds for what its rules look at."""
WORDS: Final = ("primary", "localhost", "all")
"""What may stand for node addresses instead of a network."""
MODE_ALLOWED: Final = f"{', '.join(MODES)}, or {OWN_NAME_ALLOWED}"
_SHARE_PATTERN: Final = r"[1-9][0-9]?%|100%"

POSITIVE_DURATION_ALLOWED: Final = "a duration above 0s"
NODE_PORT_ADDRESS_ALLOWED: Final = f'"primary", "localhost", "all", or {CIDR_ALLOWED}'
MAX_UNAVAILABLE_ALLOWED: Final = 'a number of 1 or more, or a share from "1%" to "100%"'


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
    if value in WORDS:
        return str(value)
    try:
        return canonical_cidr(value)
    except (ValueError, TypeError):
        raise refuse(value, NODE_PORT_ADDRESS_ALLOWED) from None


def _max_unavailable(value: Any) -> int | str:  # noqa: ANN401 -- pydantic hands over whatever was written
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_INT32:
        return value
    if isinstance(value, str) and re.fullmatch(_SHARE_PATTERN, value):
        return value
    raise refuse(value, MAX_UNAVAILABLE_ALLOWED)


def _mode(name: str) -> str:
    if name in MODES or is_own_name(name):
        return name
    raise refuse(name, MODE_ALLOWED)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise refuse(format_duration(seconds), POSITIVE_DURATION_ALLOWED)
    return seconds


def _each_once(value: Any) -> Any:  # noqa: ANN401 -- pydantic hands over whatever was written
    """Refuse a text that comes twice, as the API server does in a list of type set."""
    if isinstance(value, list | tuple):
        twice = [item for index, item in enumerate(value) if item in value[:index]]
        if twice:
            raise refuse(twice[0], "each entry once")
        # What a function hands on is no longer taken for JSON, and in strict reading a list is no tuple.
        return tuple(value)
    return value


def _without_repetition(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what became the same by being written canonically."""
    return tuple(dict.fromkeys(networks))


def _sorted_flags(flags: tuple[SchedulerFlag, ...]) -> tuple[SchedulerFlag, ...]:
    return tuple(sorted(flags))


def _text(kind: str, allowed: str, length: int, rules: cel.Rules, **more: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "x-type": kind, "x-allowed": allowed, "maxLength": length, **more, cel.RULES: rules}
    )


_DURATION_TEXT: Final = PlainSerializer(format_duration, return_type=str)
_DURATION_RULES: Final = cel.duration_rules(DURATION_PATTERN, DURATION_ALLOWED)

Duration = Annotated[
    float,
    BeforeValidator(_duration),
    _DURATION_TEXT,
    _text("duration", DURATION_ALLOWED, MAX_DURATION_LENGTH, _DURATION_RULES, pattern=f"^({DURATION_PATTERN})$"),
]
"""Seconds; written as ``30s``."""

PositiveDuration = Annotated[
    float,
    BeforeValidator(_duration),
    AfterValidator(_positive),
    _DURATION_TEXT,
    _text(
        "duration",
        DURATION_ALLOWED,
        MAX_DURATION_LENGTH,
        [*_DURATION_RULES, cel.positive_duration_rule(DURATION_PATTERN, POSITIVE_DURATION_ALLOWED)],
        pattern=f"^({DURATION_PATTERN})$",
    ),
]
"""Seconds, more than 0; written as ``30s``."""

ModeName = Annotated[
    str,
    AfterValidator(_mode),
    _text(
        "word",
        MODE_ALLOWED,
        MAX_NAME_LENGTH,
        [cel.rule(f"self in {cel.texts(MODES)} || {cel.matching(OWN_NAME_PATTERN)}", f"allowed: {MODE_ALLOWED}")],
        pattern=f"^({'|'.join(MODES)}|{OWN_NAME_PATTERN})$",
    ),
]
"""A mode: one of Pointsman's, or one that somebody else made."""

ReportedMode = Annotated[
    str, AfterValidator(_mode), WithJsonSchema({"type": "string", "x-type": "word", "maxLength": MAX_NAME_LENGTH})
]
"""The same in a status, where programs write it: the API server has no rule for it."""

PortRangeText = Annotated[
    PortRange,
    BeforeValidator(_port_range),
    PlainSerializer(str, return_type=str),
    _text(
        "port range",
        PORT_RANGE_ALLOWED,
        13,
        cel.port_range_rules(PORT_RANGE_PATTERN, PORT_RANGE_ALLOWED, MAX_PORT),
        pattern=f"^{PORT_RANGE_PATTERN}$",
    ),
]
Cidr = Annotated[
    str,
    BeforeValidator(_cidr),
    _text("CIDR", CIDR_ALLOWED, MAX_CIDR_LENGTH, [cel.rule("isCIDR(self)", f"allowed: {CIDR_ALLOWED}")]),
]
NodePortAddress = Annotated[
    str,
    BeforeValidator(_node_port_address),
    _text(
        "CIDR or word",
        NODE_PORT_ADDRESS_ALLOWED,
        MAX_CIDR_LENGTH,
        [cel.rule(f"self in {cel.texts(WORDS)} || isCIDR(self)", f"allowed: {NODE_PORT_ADDRESS_ALLOWED}")],
    ),
]
_SET: Final = Field(max_length=MAX_CIDRS, json_schema_extra={"x-kubernetes-list-type": "set"})
Cidrs = Annotated[tuple[Cidr, ...], _SET, BeforeValidator(_each_once), AfterValidator(_without_repetition)]
"""Networks, each once."""
NodePortAddresses = Annotated[
    tuple[NodePortAddress, ...], _SET, BeforeValidator(_each_once), AfterValidator(_without_repetition)
]
"""Networks and words, each once."""
SchedulerFlags = Annotated[
    tuple[SchedulerFlag, ...],
    Field(max_length=len(SCHEDULER_FLAGS), json_schema_extra={"x-kubernetes-list-type": "set"}),
    BeforeValidator(_each_once),
    AfterValidator(_sorted_flags),
]
"""Variants of schedulers, each once, sorted."""
MaxUnavailable = Annotated[
    int | str,
    BeforeValidator(_max_unavailable),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "x-type": "number or percentage",
            "x-allowed": MAX_UNAVAILABLE_ALLOWED,
            "minimum": 1,
            "maximum": MAX_INT32,
            "maxLength": 4,
            "pattern": f"^({_SHARE_PATTERN})$",
            cel.RULES: [
                cel.rule(
                    f"type(self) == int ? self >= 1 && self <= {MAX_INT32} : {cel.matching(_SHARE_PATTERN)}",
                    f"allowed: {MAX_UNAVAILABLE_ALLOWED}",
                )
            ],
        }
    ),
]
"""A number of nodes, or a share of them as ``10%``."""
