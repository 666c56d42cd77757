from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.netlink import attributes
from pointsman.dataplane.nftables import classes
from pointsman.dataplane.nftables.classes import Pick, Recall, Remember, is_class_chain
from pointsman.dataplane.nftables.expressions import drop, goto, target
from pointsman.dataplane.nftables.layout import (
    PLACES,
    Layout,
    endpoint_size,
    endpoint_value,
    frontend_key,
    frontend_of,
    layouts,
    number,
    place_of,
)
from pointsman.dataplane.nftables.skeleton import chains
from pointsman.dataplane.nftables.wire import _reader
from pointsman.model.plan import NODE_PORT, Backend, Family, Frontend, Transport

FAMILIES: tuple[Family, ...] = (4, 6)
ADDRESSES: dict[Family, list[str]] = {
    4: ["0.0.0.1", "10.96.0.1", "255.255.255.255", NODE_PORT],
    6: ["::1", "fd00:10:96::a", "2001:db8:1:2:3:4:5:6", NODE_PORT],
}
ALL_LAYOUTS = [layout for family in FAMILIES for layout in layouts(family).values()]
PLAIN = [
    layout
    for layout in ALL_LAYOUTS
    if layout.data is not None and layout.name not in {"pod-cidrs", "service-cidrs", "node-port-cidrs"}
]
PROTOCOLS: tuple[Transport, ...] = ("tcp", "udp", "sctp")
# From nft's scanner: what a name may look like without quotes.
IDENTIFIER = re.compile(r"[a-zA-Z][a-zA-Z0-9/\\_.-]*")
SCHEDULERS = ("random", "rr", "wrr", "sh", "dh", "mh")


@st.composite
def frontends(draw: st.DrawFn) -> Frontend:
    family = draw(st.sampled_from(FAMILIES))
    return Frontend(
        family,
        draw(st.sampled_from(ADDRESSES[family])),
        draw(st.sampled_from(PROTOCOLS)),
        draw(st.integers(1, 65535)),
    )


@st.composite
def picks(draw: st.DrawFn) -> Pick:
    frontend, scheduler = draw(frontends()), draw(st.sampled_from(SCHEDULERS))
    return Pick(
        frontend.family,
        place_of(frontend),
        scheduler,
        draw(st.integers(1, 65535)),
        draw(st.booleans()),
        draw(st.booleans()),
        frontend if scheduler in {"rr", "wrr"} else None,
    )


@given(frontends(), st.sampled_from(["services", "inside", "masquerade-all", "endpoints", "sticky-endpoints"]))
def test_a_key_tells_its_frontend(frontend: Frontend, name: str) -> None:
    name = place_of(frontend) + name
    layout = layouts(frontend.family)[name]
    key = frontend_key(frontend)
    key += b"\7" * (layout.key_size - len(key))
    assert frontend_of(frontend.family, name, key) == frontend


def test_a_key_that_names_no_frontend() -> None:
    for family in FAMILIES:
        for name in ("classes", "hairpin", "cluster-ips", "affinity", "pod-cidrs", "no-such-set"):
            assert frontend_of(family, name, bytes(40)) is None
    other_protocol = frontend_key(Frontend(4, "10.0.0.1", "tcp", 80)).replace(b"\6", b"\1", 1)
    assert frontend_of(4, "services", other_protocol) is None


@pytest.mark.parametrize("layout", PLAIN, ids=lambda layout: f"{layout.name}-{layout.key_size}")
def test_what_is_encoded_is_read_back(layout: Layout) -> None:
    key = bytes(range(layout.key_size))
    data = bytes(range(100, 100 + layout.data_size))
    encoded = layout.encoder()(key, data)
    assert len(encoded) % 4 == 0
    ((kind, element),) = attributes(encoded)
    assert kind == 1
    fields = dict(attributes(element))
    assert next(attributes(fields[1])) == (1, key)
    if data:
        ((_, value),) = attributes(fields[10 if layout.ranges else 2])
        assert value == data
    found: dict[bytes, bytes] = {}
    # The kernel adds fields of its own behind ours, here a counter's worth.
    more = element + struct.pack("=HH", 12, 0x8007) + bytes(8)
    _reader(layout)(encoded + struct.pack("=HH", len(more) + 4, 0x8001) + more[:4] + b"\xff" + more[5:], found)
    assert found[key] == data


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.key_size}")
def test_the_key_is_enough_to_remove(layout: Layout) -> None:
    key = bytes(range(layout.key_size))
    ((_, element),) = attributes(layout.remover()(key, key))
    fields = dict(attributes(element))
    assert next(attributes(fields[1])) == (1, key)
    assert fields.keys() == ({1, 10} if layout.ranges else {1})


@pytest.mark.parametrize("name", ["classes", "affinity-timeouts"])
@pytest.mark.parametrize("verdict", [goto("pick-random-4"), goto("a"), drop()])
def test_verdicts_are_read_back(name: str, verdict: bytes) -> None:
    layout = layouts(4)[name]
    key = bytes(range(layout.key_size))
    found: dict[bytes, bytes] = {}
    _reader(layout)(layout.encoder()(key, verdict), found)
    assert found == {key: verdict}


def test_a_verdict_names_its_chain() -> None:
    assert target(goto("pick-random-4-outside-sticky")) == "pick-random-4-outside-sticky"
    assert target(drop()) == ""


@pytest.mark.parametrize(
    ("frontend", "set_name", "more", "data", "text"),
    [
        (Frontend(4, "10.96.0.1", "tcp", 80), "services", b"", number(0x10004), "10.96.0.1 . tcp . 80 : 1:4"),
        (Frontend(6, "fd00::1", "udp", 53), "services", b"", number(0xFF0001), "fd00::1 . udp . 53 : ff:1"),
        (Frontend(4, NODE_PORT, "sctp", 30000), "node-port-services", b"", number(0x40000000), "sctp . 30000 : 4000:0"),
        (
            Frontend(4, "10.96.0.1", "tcp", 80),
            "endpoints",
            number(3),
            endpoint_value(4, Backend("10.1.0.1", 8080)),
            "10.96.0.1 . tcp . 80 . 0:3 : 10.1.0.1 . 8080",
        ),
        (Frontend(4, "10.96.0.1", "tcp", 80), "masquerade-all", b"", b"", "10.96.0.1 . tcp . 80"),
        (
            Frontend(4, "10.96.0.1", "tcp", 80),
            "affinity-timeouts",
            b"",
            b"goto remember-60",
            "10.96.0.1 . tcp . 80 : goto remember-60",
        ),
    ],
)
def test_text(frontend: Frontend, set_name: str, more: bytes, data: bytes, text: str) -> None:
    assert layouts(frontend.family)[set_name].text(frontend_key(frontend) + more, data) == text


def test_text_of_a_range() -> None:
    layout, key = layouts(4)["source-ranges"], frontend_key(Frontend(4, "10.96.0.1", "tcp", 80))
    assert layout.text(key + bytes([10, 0, 0, 0]), key + bytes([10, 255, 255, 255])) == (
        "10.96.0.1 . tcp . 80 . 10.0.0.0-10.255.255.255"
    )


def test_sizes() -> None:
    for family in FAMILIES:
        address = ADDRESSES[family][0]
        assert len(endpoint_value(family, Backend(address, 1))) == endpoint_size(family)
        for place in PLACES:
            frontend = Frontend(family, NODE_PORT if place else address, "tcp", 1)
            assert len(frontend_key(frontend)) == layouts(family)[f"{place}services"].key_size
            assert layouts(family)[f"{place}endpoints"].data_size == endpoint_size(family)


@given(picks())
def test_a_chains_name_is_an_identifier_and_no_fixed_chains(pick: Pick) -> None:
    assert IDENTIFIER.fullmatch(pick.chain)
    assert len(pick.chain) < 128
    assert is_class_chain(pick.chain)
    assert is_class_chain(Remember(4, 60).chain)


def test_fixed_chains_are_no_class_chains() -> None:
    for family in FAMILIES:
        for name in chains(family, drop_invalid=True):
            assert IDENTIFIER.fullmatch(name)
            assert not is_class_chain(name)


@given(picks(), picks())
def test_different_ways_have_different_names_and_numbers(one: Pick, other: Pick) -> None:
    same_rules = one.rules() == other.rules() and one.place == other.place and one.owner == other.owner
    if one.family == other.family:
        assert (one.chain == other.chain) == (one.text() == other.text() and one.owner == other.owner) or (
            # mh and sh draw alike; what stands in the slots differs.
            {one.scheduler, other.scheduler} == {"mh", "sh"}
        )
        if one.chain == other.chain:
            assert same_rules
    if one.place == other.place and one.number is not None and one.number == other.number:
        assert (one.family != other.family) or one.chain == other.chain


@given(picks())
def test_numbers_keep_out_of_each_others_way(pick: Pick) -> None:
    fixed = {value for place in PLACES for numbers in classes.fixed_classes(place).values() for value in numbers}
    if pick.owner is None:
        assert pick.number is not None
        assert pick.number < classes.FIRST_OWN
        assert pick.number not in fixed
    else:
        assert pick.number is None
    assert max(fixed) < classes.FIRST_OWN


def test_fixed_classes_lead_to_fixed_chains() -> None:
    for place in PLACES:
        for verdicts in classes.fixed_classes(place).values():
            for verdict in verdicts.values():
                assert verdict == "drop" or verdict.removeprefix("goto ") in chains(4, drop_invalid=False)


def test_a_class_in_both_languages() -> None:
    pick = Pick(4, "", "random", 4, outside=True, sticky=True)
    assert pick.chain == "pick-random-4-outside-sticky"
    assert pick.text() == [
        "jump recall-outside",
        "meta priority set numgen random mod 4 offset 65536 goto translate-outside",
    ]
    assert len(pick.rules()) == 2


def test_a_client_is_recalled_or_forgotten() -> None:
    recalled, forgotten = Recall(4, "").text()
    assert recalled == (
        "meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity "
        "dnat to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints"
    )
    assert forgotten == "delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }"
    assert len(Recall(4, "").rules()) == 2
