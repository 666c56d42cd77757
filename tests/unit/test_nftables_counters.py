"""Counters of a table in memory: how sums are kept, and how a kernel's list of elements is read."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pointsman.dataplane.netlink import attribute, nested, string
from pointsman.dataplane.nftables.counters import Counters, read_counts
from pointsman.dataplane.nftables.layout import endpoint_value, frontend_key, number
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.wire import read_elements
from pointsman.dataplane.protocol import ServerTraffic, Traffic
from pointsman.model.plan import NODE_PORT, Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.model.plan import Family

VIPS: dict[Family, Frontend] = {
    4: Frontend(4, "10.96.0.1", "tcp", 80),
    6: Frontend(6, "fd00:10:96::1", "udp", 53),
}
PORT = Frontend(4, NODE_PORT, "tcp", 30080)
ONE, TWO = Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080)
HEADERS = b"\0" * 8
"""What stands between an element's key and its value."""


def own(frontend: Frontend, count: int, kind: int = 1) -> dict[bytes, int]:
    return {frontend_key(frontend) + HEADERS + number(kind): count}


def slot(frontend: Frontend, place: int, backend: Backend, count: int) -> dict[bytes, int]:
    value = endpoint_value(frontend.family, backend)
    return {frontend_key(frontend) + number(place) + HEADERS + value: count}


@pytest.fixture
def counters() -> Counters:
    return Counters(SCHEMA, 4)


def test_an_idle_frontend_is_the_same_object_as_before(counters: Counters) -> None:
    other = Frontend(4, "10.96.0.2", "tcp", 80)
    first = counters.take({"services": own(VIPS[4], 1) | own(other, 1), "endpoints": slot(VIPS[4], 0, ONE, 1)})
    second = counters.take({"services": own(VIPS[4], 1) | own(other, 2), "endpoints": slot(VIPS[4], 0, ONE, 1)})
    assert first[VIPS[4]] == Traffic(1, {("10.0.0.1", 8080): ServerTraffic(1, 1)})
    assert second[VIPS[4]] is first[VIPS[4]]
    assert (first[other].connections, second[other].connections) == (1, 2)


def test_a_slot_that_changes_hands_takes_nothing_along(counters: Counters) -> None:
    counters.take({"services": own(VIPS[4], 9), "endpoints": slot(VIPS[4], 0, ONE, 4) | slot(VIPS[4], 1, TWO, 5)})
    # ONE left; TWO moved into its slot, and has one connection there.
    found = counters.take({"services": own(VIPS[4], 1, kind=2), "endpoints": slot(VIPS[4], 0, TWO, 1)})
    assert found == {VIPS[4]: Traffic(10, {("10.0.0.2", 8080): ServerTraffic(6, 1)})}


def test_node_ports_and_remembered_clients_have_maps_of_their_own(counters: Counters) -> None:
    found = counters.take(
        {
            "services": own(VIPS[4], 1),
            "node-port-services": own(PORT, 5),
            "node-port-endpoints": slot(PORT, 0, ONE, 2) | slot(PORT, 1 << 16, ONE, 1),
            "node-port-sticky-endpoints": slot(PORT, 77, ONE, 2),
        }
    )
    assert found == {VIPS[4]: Traffic(1, {}), PORT: Traffic(5, {("10.0.0.1", 8080): ServerTraffic(5, 2)})}


def test_what_is_no_frontend_is_left_out(counters: Counters) -> None:
    strange = bytearray(frontend_key(VIPS[4]))
    strange[4] = 1  # ICMP
    assert counters.take({"services": {bytes(strange) + HEADERS + number(1): 3}}) == {}
    assert counters.take({"services": {}}) == {}


class Kernel:
    """Lists elements as the kernel does, in two parts; those of odd places are padded when it is told so."""

    interrupted = False

    def __init__(self, family: Family, *, padded: bool) -> None:
        self._family = family
        self._padded = padded

    def element(self, place: int, count: int) -> bytes:
        pad = attribute(3, b"") if self._padded and place % 2 else b""
        counter = nested(
            2, pad, attribute(1, struct.pack(">Q", 60 * count)), pad, attribute(2, struct.pack(">Q", count))
        )
        backend = Backend("10.0.0.1" if self._family == 4 else "fd00::1", 8080)
        key = frontend_key(VIPS[self._family]) + number(place)
        data = nested(2, attribute(1, endpoint_value(self._family, backend)))
        return nested(1, nested(1, attribute(1, key)), data, nested(7, string(1, "counter"), counter))

    def dump(self, _command: int, _family: int, _request: bytes) -> Iterator[bytes]:
        for places in (range(3), range(3, 5)):
            yield nested(3, *(self.element(place, 100 + place) for place in places))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_elements_are_read_as_the_kernel_lists_them(family: Family, padded: bool) -> None:  # noqa: FBT001 (of the table)
    layout = SCHEMA.layouts[family]["endpoints"]
    found = read_counts(Kernel(family, padded=padded), "pointsman", family, layout)  # type: ignore[arg-type]
    places = {element[layout.key_size - 4 : layout.key_size]: count for element, count in found.items()}
    assert places == {number(place): 100 + place for place in range(5)}
    assert {element[-layout.data_size :] for element in found} == {
        endpoint_value(family, Backend("10.0.0.1" if family == 4 else "fd00::1", 8080))
    }


def test_an_element_without_a_counter_counts_nothing() -> None:
    class Silent(Kernel):
        def element(self, place: int, count: int) -> bytes:
            return super().element(place, count) if place else nested(1, nested(1, attribute(1, b"\0" * 16)))

    found = read_counts(Silent(4, padded=False), "pointsman", 4, SCHEMA.layouts[4]["endpoints"])  # type: ignore[arg-type]
    assert sorted(found.values()) == [101, 102, 103, 104]


class Growing(Kernel):
    """Puts the set into a new hash table between the parts of the first lists, and lists in another order then."""

    def __init__(self, growths: int) -> None:
        super().__init__(4, padded=False)
        self._growths = growths
        self.lists = 0

    def dump(self, _command: int, _family: int, _request: bytes) -> Iterator[bytes]:
        self.lists += 1
        second = range(1, 3) if self.lists <= self._growths else range(3, 5)
        for places in (range(3), second):
            yield nested(3, *(self.element(place, 100 + place) for place in places))


def test_a_list_with_elements_that_come_twice_lacks_others_and_is_read_anew() -> None:
    kernel = Growing(2)
    found = read_counts(kernel, "pointsman", 4, SCHEMA.layouts[4]["endpoints"])  # type: ignore[arg-type]
    assert sorted(found.values()) == [100, 101, 102, 103, 104]
    assert kernel.lists == 3
    assert len(read_elements(Growing(2), SCHEMA, 4, "endpoints")) == 5  # type: ignore[arg-type]


def test_a_set_whose_order_changes_all_the_time_cannot_be_read() -> None:
    with pytest.raises(OSError, match="endpoints of table pointsman changes faster than it can be read"):
        read_counts(Growing(1000), "pointsman", 4, SCHEMA.layouts[4]["endpoints"])  # type: ignore[arg-type]
