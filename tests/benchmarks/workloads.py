"""What is measured. Each function runs in a process and a network namespace of its own, and returns plain numbers."""

from __future__ import annotations

import gc
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent_process import AgentProcess
from connect import compare_connects
from objects import NODE_NAME, Size, endpoint_slice, objects, write_manifests

from pointsman.agent.run import real_kernel
from pointsman.agent.syncer import Syncer
from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.model.parse import key_of, parse
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.parse import Object

Numbers = dict[str, float]

_GATHERED: Final = 50
"""Changes in one sync: what 1,000 a second come to in the default `minSyncPeriod` of 50 ms."""
_WARM_UP: Final = 20
_SEED: Final = 1


def cold(size: Size) -> Numbers:
    """Start the agent on a full directory and an empty kernel."""
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as root:
        manifests = _manifests(root, size)
        with AgentProcess(manifests, Path(root, "log")) as agent:
            now, highest = agent.memory()
        _expect_in_kernel(size)
        return {"seconds": agent.seconds, "sync seconds": agent.first_sync()[0], "MiB": now, "MiB peak": highest}


def restart(size: Size) -> Numbers:
    """Start the agent a second time: the kernel holds everything already."""
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as root:
        manifests = _manifests(root, size)
        with AgentProcess(manifests, Path(root, "log")):
            pass
        with AgentProcess(manifests, Path(root, "log")) as agent:
            now, highest = agent.memory()
        _expect_in_kernel(size)
        seconds, added, removed = agent.first_sync()
        return {
            "seconds": agent.seconds, "sync seconds": seconds, "elements written": added + removed,
            "MiB": now, "MiB peak": highest,
        }  # fmt: skip


def one_change(size: Size, count: int) -> Numbers:
    """Change one endpoint of one Service, again and again: from the slice's bytes to the kernel's answer."""
    planner, dataplane = Planner(NODE_NAME), NftablesDataplane()
    for obj in _parsed(size):
        planner.put(obj)
    planner.take()
    dataplane.adopt(planner.plan)
    _settle()
    milliseconds = []
    for number, data in enumerate(_changes(size, count + _WARM_UP)):
        begun = time.perf_counter()
        planner.put(parse(data).objects[0])
        dataplane.apply(planner.take())
        if number >= _WARM_UP:
            milliseconds.append((time.perf_counter() - begun) * 1000)
    milliseconds.sort()
    return {
        "p50 ms": statistics.median(milliseconds),
        "p99 ms": milliseconds[len(milliseconds) * 99 // 100],
        "max ms": milliseconds[-1],
    }


def held_changes(size: Size, seconds: float) -> Numbers:
    """Change endpoints as fast as one core can, gathered as the agent's loop does."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    syncer = Syncer(Planner(NODE_NAME), real_kernel())
    syncer.sync({key_of(obj): obj for obj in _parsed(size)}, full=True)
    _settle()
    changes = _changes(size, 1 << 40)
    waiting = [next(changes) for _ in range(_GATHERED)]
    done, spent = 0, 0.0
    while spent < seconds:
        begun = time.perf_counter()
        parsed = [parse(data).objects[0] for data in waiting]
        outcome = syncer.sync({key_of(obj): obj for obj in parsed}, full=False)
        spent += time.perf_counter() - begun
        if outcome.written is None or outcome.written.refused:
            raise RuntimeError(f"the kernel refused a change: {outcome}")
        done += _GATHERED
        waiting = [next(changes) for _ in range(_GATHERED)]
    return {"changes/s": done / spent}


def connects(size: Size, pairs: int) -> Numbers:
    """Connect through a Service and directly, in turns."""
    return compare_connects(size, pairs)


def _manifests(root: str, size: Size) -> Path:
    manifests = Path(root, "manifests")
    manifests.mkdir()
    write_manifests(manifests, size)
    return manifests


def _expect_in_kernel(size: Size) -> None:
    """Make sure that what was measured was all of the work."""
    dataplane = NftablesDataplane()
    held = dataplane.read()
    dataplane.close()
    found = len(held), sum(map(len, held.values()))
    if found != (size.services, size.services * size.endpoints):
        raise RuntimeError(f"the kernel holds {found[0]} frontends with {found[1]} endpoints; {size} was asked for")


def _parsed(size: Size) -> Iterator[Object]:
    for data in objects(size):
        yield from parse(data).objects


def _settle() -> None:
    """Do what the agent does after its first sync (`pointsman.agent.memory`)."""
    gc.collect()
    gc.freeze()


def _changes(size: Size, count: int) -> Iterator[bytes]:
    """Make changed slices: in turns an endpoint replaced, one added, and that one removed, of any Service."""
    choose = random.Random(_SEED)  # noqa: S311 - chooses Services, the same in each run
    fresh = size.services * size.endpoints
    made = 0
    while made < count:
        number = choose.randrange(size.services)
        first, *others = range(number * size.endpoints, (number + 1) * size.endpoints)
        fresh += 2
        for hosts in ([fresh, *others], [fresh, *others, first], [fresh, *others]):
            made += 1
            yield endpoint_slice(number, hosts, version=made)
