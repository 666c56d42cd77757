"""What the kernel's listing of virtual servers lacks is asked for one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.ipvs.kernel import IpvsKernel
from pointsman.dataplane.ipvs.listing import Counts, Listed
from pointsman.dataplane.ipvs.objects import Real, Server, ServerKey
from pointsman.dataplane.ipvs.wire import RealCounters

if TYPE_CHECKING:
    from collections.abc import Mapping

REAL = Real("192.168.0.1", 80)
KEYS = [ServerKey(4, f"10.96.0.{number}", "tcp", 80) for number in range(1, 41)]
MISSING = frozenset(KEYS[::7])
"""Virtual servers that are not in the listing, as another network namespace has some, too."""


class Socket:
    """IPVS's netlink, with virtual servers of one real server each."""

    def __init__(self) -> None:
        self.asked: list[ServerKey] = []

    def services(self) -> dict[ServerKey, Server]:
        return dict.fromkeys(KEYS, Server(scheduler="rr", netmask=32))

    def dests(self, key: ServerKey) -> dict[Real, RealCounters]:
        self.asked.append(key)
        return {REAL: RealCounters(weight=3, active=5, inactive=2, persistent=0, connections=9)}


class Kernel(IpvsKernel):
    """A kernel that lists all but the missing ones."""

    def __init__(self) -> None:
        self.socket = Socket()

    @property
    def ipvs(self) -> Socket:  # type: ignore[override]  # a part of it
        return self.socket

    def listed(self) -> Mapping[ServerKey, Listed]:
        return {key: Listed("rr", 0, None, {REAL: Counts(3, 5, 2)}) for key in KEYS if key not in MISSING}


def test_every_virtual_server_has_its_real_servers() -> None:
    kernel = Kernel()
    assert {key: reals for key, (_, reals) in kernel.servers().items()} == {key: {REAL: 3} for key in KEYS}
    assert set(kernel.socket.asked) == MISSING


@pytest.mark.parametrize("count", [1, len(KEYS)])
def test_every_virtual_server_has_its_connections(count: int) -> None:
    assert Kernel().connections(KEYS[:count]) == {key: {REAL: 7} for key in KEYS[:count]}
