from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from pointsman.agent.health import Health
from pointsman.process.clock import SystemClock


@dataclass
class State:
    synced_at: float | None = None
    oldest_change: float | None = None
    sync_period: float = 30.0
    node_leaving: bool = False


class StoppedClock(SystemClock):
    def monotonic(self) -> float:
        return 100.0

    def wall(self) -> float:
        return 1_700_000_000.5


class Probes:
    def __init__(self) -> None:
        self.state = State()
        self.counted: list[tuple[str, int]] = []
        self.health = Health(self.state, StoppedClock(), lambda probe, code: self.counted.append((probe, code)))

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        response = asyncio.run(self.health.respond(path))
        assert response.content_type == "application/json"
        assert response.headers == {"X-Content-Type-Options": "nosniff"}
        return response.status, json.loads(response.body)


@pytest.fixture
def probes() -> Probes:
    return Probes()


def test_before_the_first_sync_nothing_is_healthy(probes: Probes) -> None:
    status, body = probes.ask("/healthz")
    assert status == 503
    assert body["healthy"] is False
    assert body["lastUpdated"] == "0001-01-01T00:00:00Z"
    assert probes.ask("/livez")[0] == 503


def test_after_it_all_is_well(probes: Probes) -> None:
    probes.state.synced_at = 1_700_000_000.0
    family = {"lastUpdated": "2023-11-14T22:13:20.000000Z", "healthy": True}
    assert probes.ask("/healthz") == (
        200,
        {
            "lastUpdated": "2023-11-14T22:13:20.500000Z",
            "currentTime": "2023-11-14T22:13:20.500000Z",
            "nodeEligible": True,
            "healthy": True,
            "status": {"IPv4": family, "IPv6": family},
        },
    )
    status, body = probes.ask("/livez")
    assert status == 200
    assert "nodeEligible" not in body
    assert probes.counted == [("healthz", 200), ("livez", 200)]


@pytest.mark.parametrize(("oldest", "status"), [(41.0, 200), (40.0, 503), (0.0, 503)])
def test_a_change_that_waits_for_two_sync_periods_is_unhealthy(probes: Probes, oldest: float, status: int) -> None:
    probes.state.synced_at = 1_700_000_000.0
    probes.state.oldest_change = oldest
    assert probes.ask("/healthz")[0] == status
    assert probes.ask("/livez")[0] == status


def test_a_node_that_leaves_is_not_eligible_but_alive(probes: Probes) -> None:
    probes.state.synced_at = 1_700_000_000.0
    probes.state.node_leaving = True
    status, body = probes.ask("/healthz")
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, True)
    assert probes.ask("/livez")[0] == 200


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, {"connected": True}),
        (1_699_999_999.0, {"connected": False, "since": "2023-11-14T22:13:19.000000Z"}),
    ],
)
def test_an_api_server_that_is_away_is_told_and_makes_nobody_unhealthy(
    probes: Probes, since: float | None, expected: dict[str, Any]
) -> None:
    probes.state.synced_at = 1_700_000_000.0
    probes.health = Health(probes.state, StoppedClock(), lambda *_: None, lambda: since)
    status, body = probes.ask("/healthz")
    assert (status, body["apiServer"]) == (200, expected)
    probes.state.synced_at = None
    status, body = probes.ask("/healthz")
    assert (status, body["apiServer"]) == (503, expected)


def test_other_paths_are_not_found(probes: Probes) -> None:
    assert asyncio.run(probes.health.respond("/")).status == 404
