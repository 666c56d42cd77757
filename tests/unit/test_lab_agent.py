"""When the lab takes a change for one that an agent has brought into the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pointsman.lab import agent
from pointsman.lab.agent import METRICS_PORT, Agent
from pointsman.lab.namespaces import Namespace
from pointsman.lab.network import Host

if TYPE_CHECKING:
    from pathlib import Path

METRICS = """\
# HELP kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds The last time a sync of proxy rules was queued
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{ip_family="IPv4"}} {queued}
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{ip_family="IPv6"}} {queued}
kubeproxy_sync_proxy_rules_service_changes_pending 0.0
kubeproxy_sync_proxy_rules_endpoint_changes_pending {pending}
"""
HEALTH = '{{"status":{{"IPv4":{{"lastUpdated":"{at}"}},"IPv6":{{"lastUpdated":"{at}"}}}}}}'


class Pages:
    """What an agent says: one state after the other, the last one for ever."""

    def __init__(self, *states: tuple[float | None, int, float]) -> None:
        self.states = list(states)

    def __call__(self, _host: Host, _address: str, port: int, _path: str, **_options: object) -> tuple[int, bytes]:
        queued, pending, synced = self.states[0]
        if port == METRICS_PORT:
            return 200, ("" if queued is None else METRICS.format(queued=queued, pending=pending)).encode()
        if len(self.states) > 1:
            del self.states[0]
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(synced)) + f".{round(synced % 1 * 1e6):06}Z"
        return 200, HEALTH.format(at=at).encode()


def synced(pages: Pages, after: float, monkeypatch: pytest.MonkeyPatch, files: Path) -> float:
    monkeypatch.setattr(agent, "fetch", pages)
    node = Host("node-1", "node", Namespace("nowhere"), (), None, 1)
    return Agent(node, (), files / "log").wait_for_sync(after)


def test_a_sync_that_does_not_know_of_the_change_is_not_taken_for_its(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    now = time.time() + 60
    pages = Pages(
        (now - 5, 0, now - 4),
        (now - 5, 0, now + 1),  # it had looked at the kernel
        (now + 2, 1, now + 1),
        (now + 2, 1, now + 3),  # that sync had begun before
        (now + 2, 0, now + 4),
    )
    assert synced(pages, now, monkeypatch, tmp_path) == pytest.approx(now + 4, abs=1e-3)


def test_a_change_that_changes_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    now = time.time() - 10
    assert synced(Pages((now - 5, 0, now - 4), (now - 5, 0, now + 1)), now, monkeypatch, tmp_path) > now
    assert synced(Pages((None, 0, now + 1)), now, monkeypatch, tmp_path) > now
