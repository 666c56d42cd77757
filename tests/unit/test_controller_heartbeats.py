from __future__ import annotations

import json

from pointsman.controller.heartbeats import Heartbeats, Sign, read_signs


class Watcher:
    """Looks every ten seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heartbeats = Heartbeats()

    def look(self, nodes: str = "a b", after: float = 10.0, **renewed: str) -> str:
        self.now += after
        signs = {node: Sign(time, 40) for node, time in renewed.items()}
        return " ".join(sorted(self.heartbeats.judge(signs, nodes.split(), self.now)))


def test_an_agent_whose_lease_stays_the_same_is_silent_after_its_duration() -> None:
    watcher = Watcher()
    silent = [watcher.look(a=str(turn), b="0") for turn in range(6)]
    assert silent == ["", "", "", "", "b", "b"]
    assert watcher.look(a="7", b="1") == ""


def test_an_old_time_in_a_lease_is_not_believed() -> None:
    watcher = Watcher()
    assert watcher.look(a="1999-01-01T00:00:00Z", b="2999-01-01T00:00:00Z") == ""


def test_a_node_without_a_lease_gets_forty_seconds_to_have_one() -> None:
    watcher = Watcher()
    assert [watcher.look(nodes="a") for _ in range(5)] == ["", "", "", "", "a"]


def test_a_time_without_looks_does_not_count() -> None:
    watcher = Watcher()
    watcher.look(a="1", b="1")
    assert watcher.look(after=60, a="1", b="1") == ""
    assert [watcher.look(a="1", b=str(turn)) for turn in range(4)] == ["", "", "", "a"]


def test_a_node_that_is_gone_is_nobody() -> None:
    watcher = Watcher()
    for _ in range(6):
        watcher.look(nodes="a")
    assert watcher.look(nodes="b", b="1") == ""


def test_leases_are_read_by_their_names() -> None:
    items = [
        {"metadata": {"name": "pointsman-agent-n1"}, "spec": {"renewTime": "t", "leaseDurationSeconds": 20}},
        {"metadata": {"name": "pointsman-agent-n2"}},
    ]
    signs = read_signs(json.dumps({"items": items}).encode())
    assert signs == {"n1": Sign("t", 20), "n2": Sign("", 40)}
    assert read_signs(b'{"items": null}') == {}
