"""Durations, port ranges, label selectors and schedulers."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.labels import LabelSelector
from pointsman.api.names import MODES, BuiltInMode, in_order, is_own_name
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULERS
from pointsman.api.values import PortRange, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("50ms", 0.05),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("2m0.5s", 120.5),
        ("5ns", 5e-9),
    ],
)
def test_durations_as_go_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "+1s", "1d", "1 s", "1s ", "one", "1e3s", ".", "٣s", "1" * 70 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration; allowed: .*1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.05, "50ms"),
        (1e-6, "1us"),
        (5e-9, "5ns"),
        (1.5e-3, "1.5ms"),
        (3600.000001, "1h0.000001s"),
        (30.0, "30s"),
        (90, "1m30s"),
        (900, "15m"),
        (86400, "24h"),
        (1.5, "1.5s"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**8).map(lambda milliseconds: milliseconds / 1000))
def test_durations_come_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("30000-32767", 30000, 32767),
        ("30000+2767", 30000, 32767),
        ("1-65535", 1, 65535),
        ("80", 80, 80),
        ("80-80", 80, 80),
    ],
)
def test_port_ranges_as_the_api_server_reads_them(text: str, low: int, high: int) -> None:
    ports = PortRange.parse(text)
    assert ports == (low, high)
    assert str(ports) == f"{low}-{high}"
    assert [ports.holds(port) for port in (low - 1, low, high, high + 1)] == [False, True, True, False]


@pytest.mark.parametrize(
    "text", ["", "0-10", "10-5", "1-65536", "65535+1", "a-b", "1-2-3", "1+", "-5", "1:2", "30000 - 32767", " 1-2 "]
)
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(ValueError, match="is no port range; allowed: ports 1 to 65535"):
        PortRange.parse(text)


LABELS = {"zone": "a", "disk": "ssd"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"zone": "a"}}, True),
        ({"matchLabels": {"zone": "a", "disk": "hdd"}}, False),
        ({"matchLabels": {"gpu": ""}}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"zone": "a"}, "matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, False),
    ],
)
def test_selectors_match_as_in_kubernetes(selector: object, matches: object) -> None:
    assert LabelSelector.model_validate(selector).matches(LABELS) is matches


@pytest.mark.parametrize("name", ["example.com/toy", "a.b/c", "a-b.example.org/x_y.z-1", "example.com/" + "x" * 51])
def test_names_of_somebodys_own(name: str) -> None:
    assert is_own_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "nftables", "/", "example.com", "example.com/", "/toy", "com/toy", "example.com/toy/", "example.com//toy",
        "example..com/toy", "-example.com/toy", "example.com/-toy", "Example.com/toy", "example.com/toy\n",
        "example.com/" + "x" * 52, "example.com/é",
    ],
)  # fmt: skip
def test_other_names_are_nobodys(name: str) -> None:
    assert not is_own_name(name)


def test_modes_have_an_order() -> None:
    modes = ["example.com/b", "userspace", "nftables", "example.com/a", "userspace"]
    assert in_order(modes) == ("nftables", "userspace", "example.com/a", "example.com/b")


def test_every_mode_has_schedulers_and_one_of_them_is_the_default() -> None:
    assert get_args(BuiltInMode) == MODES == tuple(SCHEDULERS) == tuple(DEFAULT_SCHEDULER)
    assert all(DEFAULT_SCHEDULER[mode] in SCHEDULERS[mode] for mode in MODES)
