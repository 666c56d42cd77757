"""What is read back while the kernel puts a map into a larger hash table: everything."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from conftest import do_without
from pointsman.dataplane.netlink import NftSocket, string
from pointsman.model.plan import Answer, Backend, Plan, Pool
from support.proxied import SETTINGS, Proxied, proxied, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

SERVICES = 300
_ENDPOINTS = string(2, "endpoints")
_PAUSE, _TRIES = 0.3, 5
"""Seconds in which the worker nearly always grows a map, and how often it may fail to: the machine may stall."""
POOL = Pool(tuple(Backend(f"fd00:192:168::{number:x}", 8080) for number in range(1, 4)))


@pytest.fixture
def node(ground: Ground) -> Iterator[Proxied]:
    with proxied(ground) as made:
        yield made


@contextmanager
def before_all_others() -> Iterator[None]:
    """Keep everything else from this thread's processor: also the kernel's worker that grows tables, until we wait."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        os.sched_setaffinity(0, processors)
        do_without("real-time scheduling: run as root")
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, processors)


def pause_in_lists_of_endpoints(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the worker grow the tables between two parts of each list of endpoints; return the lists' families."""
    listed: list[int] = []
    whole = NftSocket.dump

    def dump(wire: NftSocket, command: int, family: int, payload: bytes = b"") -> Iterator[bytes]:
        pauses = payload.endswith(_ENDPOINTS)
        if pauses:
            listed.append(family)
        for part, answered in enumerate(whole(wire, command, family, payload)):
            yield answered
            if pauses and part == 1:
                time.sleep(_PAUSE)

    monkeypatch.setattr(NftSocket, "dump", dump)
    return listed


def test_maps_that_the_kernel_is_still_growing_are_read_whole(node: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = pause_in_lists_of_endpoints(monkeypatch)
    frontends = [vip(number, family=6) for number in range(1, SERVICES + 1)]
    for _ in range(_TRIES):
        listed.clear()
        with before_all_others():
            node.put(dict.fromkeys(frontends, Answer("default/test", "random", POOL)))
            found = node.dataplane.read()
        assert found == dict.fromkeys(frontends, POOL.backends)
        if len(listed) > len(set(listed)):
            return
        node.dataplane.cleanup()
        node.dataplane.adopt(Plan({}, SETTINGS))
    pytest.fail("the test is about a list that had to be read anew")
