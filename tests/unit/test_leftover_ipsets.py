"""kube-proxy's ipsets, of which the kernel lets go some time after the rules that looked into them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from pointsman.dataplane.leftovers import ipsets
from pointsman.dataplane.leftovers.found import Leftover
from pointsman.dataplane.protocol import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY, ABSENT, REFUSED = 4100, 2, 1
WHY = "rules of others look into them"


class Machine:
    """A kernel with sets that are held by rules, each until a moment, and time that passes while somebody waits."""

    def __init__(self, **held_until: float) -> None:
        self.held = {name.replace("_", "-"): until for name, until in held_until.items()}
        self.now = 100.0
        self.refuses = False

    def headers(self, name: str) -> list[str]:
        if name not in self.held:
            raise NetlinkError(ABSENT)
        return [name]

    def destroy(self, name: str) -> None:
        if self.refuses:
            raise NetlinkError(REFUSED)
        if self.now < 100.0 + self.held[name]:
            raise NetlinkError(BUSY)
        del self.held[name]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def removed(machine: Machine, monkeypatch: pytest.MonkeyPatch, there: Path) -> list[Leftover]:
    @contextmanager
    def opened() -> Iterator[Machine]:
        try:
            yield machine
        except NetlinkError as error:
            raise DataplaneError(str(error)) from error

    monkeypatch.setattr(ipsets, "_opened", opened)
    return ipsets.Ipsets(there, lambda: machine.now, machine.sleep).remove()


def test_sets_that_nobody_needs_go_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(KUBE_CLUSTER_IP=0, KUBE_LOOP_BACK=0)
    assert removed(machine, monkeypatch, tmp_path) == []
    assert (machine.held, machine.now) == ({}, 100.0)


def test_rules_that_went_just_now_are_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(KUBE_CLUSTER_IP=0.3, KUBE_LOOP_BACK=2, KUBE_NODE_PORT_TCP=0)
    assert removed(machine, monkeypatch, tmp_path) == []
    assert machine.held == {}
    assert machine.now < 103


def test_sets_that_others_need_stay_and_cost_some_seconds_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    machine = Machine(KUBE_CLUSTER_IP=1000, KUBE_LOOP_BACK=1000, KUBE_NODE_PORT_TCP=1)
    busy = ("KUBE-CLUSTER-IP", "KUBE-LOOP-BACK")
    assert removed(machine, monkeypatch, tmp_path) == [Leftover("ipsets", members=busy, kept=WHY)]
    assert machine.held.keys() == set(busy)
    assert 103 < machine.now < 106


def test_what_is_refused_for_another_reason_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(KUBE_CLUSTER_IP=0)
    machine.refuses = True
    with pytest.raises(DataplaneError):
        removed(machine, monkeypatch, tmp_path)
    assert machine.now == 100.0
