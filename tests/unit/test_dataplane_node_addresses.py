from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pointsman.dataplane import node_addresses as module
from pointsman.dataplane.node_addresses import node_addresses

if TYPE_CHECKING:
    import pytest


def test_there_is_at_most_one_usable_address_of_each_family() -> None:
    found = [ipaddress.ip_address(address) for address in node_addresses()]
    assert len({address.version for address in found}) == len(found)
    assert not any(address.is_loopback or address.is_link_local for address in found)


def test_without_a_default_route_the_lowest_usable_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {
        4: [ipaddress.ip_address(a).packed for a in ("192.0.2.9", "127.0.0.1", "169.254.1.1", "192.0.2.3")],
        6: [ipaddress.ip_address(a).packed for a in ("fe80::1", "::1")],
    }
    monkeypatch.setattr(module, "_towards_elsewhere", lambda _family: "")
    monkeypatch.setattr(module, "read_addresses", lambda _channel, family: frozenset(packed[family]))
    assert node_addresses() == ("192.0.2.3",)
