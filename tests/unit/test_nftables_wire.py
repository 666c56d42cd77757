"""Transactions as bytes, refusals told, networks as boundaries; no kernel."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.dataplane.netlink import (
    LARGEST_ATTRIBUTE,
    Message,
    Refusal,
    _messages,
    _refusal,
    attribute,
    attributes,
    nested,
    string,
)
from pointsman.dataplane.nftables.classes import Pick
from pointsman.dataplane.nftables.entries import (
    Entry,
    address_ranges,
    elements,
    hairpins,
    make_entry,
    slot_changes,
)
from pointsman.dataplane.nftables.expressions import goto
from pointsman.dataplane.nftables.layout import endpoint_value, frontend_key, layouts, number
from pointsman.dataplane.nftables.schema import SCHEMA
from pointsman.dataplane.nftables.wire import (
    DELCHAIN,
    DELRULE,
    DELSETELEM,
    NEWCHAIN,
    NEWRULE,
    NEWSETELEM,
    WireDraft,
    _reader,
    boundaries,
    told,
)
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, Pool

WEB = Frontend(4, "10.96.0.1", "tcp", 80)
SIX = Frontend(6, "fd00::1", "udp", 53)
GONE = errno.ENOENT


def listed(message: Message) -> list[bytes]:
    """Return the elements of a message, encoded."""
    parts = dict(attributes(message.payload)).get(3, b"")
    return [value for _, value in attributes(parts)]


def key(slot: int) -> bytes:
    return frontend_key(WEB) + number(slot)


def value(host: int) -> bytes:
    return endpoint_value(4, Backend(f"10.1.{host >> 8}.{host & 255}", 8080))


def test_attributes_are_padded_and_walked() -> None:
    for length in range(9):
        encoded = attribute(7, b"x" * length) + nested(8, attribute(1, b"y"))
        assert len(encoded) % 4 == 0
        assert list(attributes(encoded)) == [(7, b"x" * length), (8, attribute(1, b"y"))]
    assert list(attributes(b"\0" * 4 + string(1, "a"), 4)) == [(1, b"a\0")]


@given(st.binary(max_size=64))
def test_malformed_answers_end(data: bytes) -> None:
    assert len(list(attributes(data))) <= len(data) // 4
    assert len(list(_messages(data))) <= len(data) // 16
    for layout in layouts(4).values():
        if layout.data is not None and not layout.name.endswith("-cidrs"):
            _reader(layout)(data + b"\0" * (4 - len(data) % 4), {})


def test_a_refusal_is_read() -> None:
    header = struct.pack("=i", -errno.ENOENT) + bytes(16)
    told_why = attribute(1, b"No such file\0") + attribute(2, struct.pack("=I", 84))
    found = _refusal(3, 0x200, memoryview(header + told_why))
    assert found == Refusal(3, errno.ENOENT, 64, "No such file")
    assert str(found) == "No such file or directory (ENOENT): No such file"
    assert _refusal(3, 0, memoryview(header)) == Refusal(3, errno.ENOENT)
    assert _refusal(3, 0, memoryview(bytes(20))) is None


def test_nothing_to_do_is_no_message() -> None:
    assert WireDraft(SCHEMA, 4).messages() == []


def test_the_order_on_the_wire() -> None:
    draft = WireDraft(SCHEMA, 4)
    draft.remove_chain("pick-random-1")
    draft.add("endpoints", key(0), value(2))
    draft.remove("endpoints", key(0), value(1))
    draft.replace_networks("pod-cidrs", address_ranges(4, ("10.0.0.0/8",)))
    draft.add_chain(Pick(4, "", "random", 2))
    draft.add_chain(Pick(4, "", "random", 3), present=True)
    sent = [message.command for message in draft.messages()]
    chains = [NEWCHAIN, NEWRULE, DELRULE, NEWRULE]
    assert sent == [*chains, DELSETELEM, NEWSETELEM, DELSETELEM, NEWSETELEM, DELRULE, DELCHAIN]
    assert (draft.added, draft.removed) == (1, 1)


@pytest.mark.parametrize("count", [1, 999, 1000, 5000])
def test_elements_are_cut_into_attributes_that_fit(count: int) -> None:
    draft = WireDraft(SCHEMA, 4)
    for slot in range(count):
        draft.add("endpoints", key(slot), value(slot))
    for slot in range(0, count, 7):
        draft.add("classes", number(slot), goto("pick-random-" + "4" * (1 + slot % 5)))
    found = draft.messages()
    assert all(len(dict(attributes(message.payload))[3]) <= LARGEST_ATTRIBUTE for message in found)
    encode = layouts(4)["endpoints"].encoder()
    wanted = [next(attributes(encode(key(slot), value(slot))))[1] for slot in range(count)]
    sent = [e for m in found if b"endpoints\0" in m.payload[:40] for e in listed(m)]
    assert sent == wanted
    assert sum(len(listed(m)) for m in found) == draft.added == count + len(range(0, count, 7))


@given(st.integers(1, 30), st.data())
def test_the_element_at_an_offset_is_named(count: int, data: st.DataObject) -> None:
    draft = WireDraft(SCHEMA, 4)
    for slot in range(count):
        draft.remove("endpoints", key(slot), value(slot))
    (message,) = draft.messages()
    slot = data.draw(st.integers(0, count - 1))
    offset = message.payload.index(key(slot)) - 12
    found = told(SCHEMA, 4, message, Refusal(0, GONE, offset))
    assert (found.set_name, found.key, found.foreign) == ("endpoints", key(slot), True)
    assert found.text == (
        f"remove element {{ 10.96.0.1 . tcp . 80 . 0:{slot:x} }} of endpoints: No such file or directory (ENOENT)"
    )


def test_an_old_kernel_names_no_element() -> None:
    draft = WireDraft(SCHEMA, 4)
    draft.add("services", frontend_key(WEB), number(1))
    (message,) = draft.messages()
    # One element needs no pointing at.
    assert told(SCHEMA, 4, message, Refusal(0, errno.ENOMEM)).key == frontend_key(WEB)
    draft.add("services", frontend_key(Frontend(4, "10.96.0.2", "tcp", 80)), number(1))
    (message,) = draft.messages()
    found = told(SCHEMA, 4, message, Refusal(0, errno.ENOMEM))
    assert (found.key, found.foreign) == (b"", False)
    assert found.text == "add elements of services: Cannot allocate memory (ENOMEM)"


def test_refused_sets_ranges_verdicts_and_chains_are_told() -> None:
    draft = WireDraft(SCHEMA, 4)
    draft.add("masquerade-all", frontend_key(WEB))
    draft.add("classes", number(0x10002), goto("pick-random-2"))
    ((first, last),) = address_ranges(4, ("10.0.0.0/8",))
    draft.add("source-ranges", frontend_key(WEB) + first, frontend_key(WEB) + last)
    draft.add_chain(Pick(4, "", "random", 2))
    texts = [told(SCHEMA, 4, message, Refusal(0, errno.EINVAL, text="no")).text for message in draft.messages()]
    why = "Invalid argument (EINVAL): no"
    assert texts[:2] == [f"add chain pick-random-2: {why}", f"add a rule to chain pick-random-2: {why}"]
    assert set(texts[2:]) == {
        f"add element {{ 1:2 }} of classes: {why}",
        f"add element {{ 10.96.0.1 . tcp . 80 }} of masquerade-all: {why}",
        f"add element {{ 10.96.0.1 . tcp . 80 . 10.0.0.0 }} of source-ranges: {why}",
    }


NETWORKS = st.lists(
    st.builds(
        lambda base, bits: str(ipaddress.ip_network((base & (2**32 - 1 << 32 - bits) & 2**32 - 1, bits))),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    max_size=8,
)


@given(NETWORKS, st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_ranges_cover_the_same_addresses_and_never_touch(cidrs: list[str], more: list[int]) -> None:
    found = [(int.from_bytes(a, "big"), int.from_bytes(b, "big")) for a, b in address_ranges(4, tuple(cidrs))]
    assert found == sorted(found)
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(found))
    networks = [ipaddress.IPv4Network(cidr) for cidr in cidrs]
    edges = {int(n[0]) + step for n in networks for step in (-1, 0, 1)} | {
        int(n[-1]) + s for n in networks for s in (-1, 0, 1)
    }
    for address in (*more, *(edge for edge in edges if 0 <= edge < 2**32)):
        wanted = any(ipaddress.IPv4Address(address) in network for network in networks)
        assert wanted == any(first <= address <= last for first, last in found)


def test_ranges_keep_to_their_family() -> None:
    both = ("10.0.0.0/8", "fd00::/64", "11.0.0.0/8")
    assert address_ranges(4, both) == [(bytes([10, 0, 0, 0]), bytes([11, 255, 255, 255]))]
    assert len(address_ranges(6, both)) == 1


@pytest.mark.parametrize(
    "cidrs", [(), ("0.0.0.0/0",), ("10.0.0.0/8", "192.168.0.0/16"), ("128.0.0.0/1",), ("0.0.0.0/8",)]
)
def test_boundaries_are_what_the_wire_says(cidrs: tuple[str, ...]) -> None:
    ranges = address_ranges(4, cidrs)
    draft = WireDraft(SCHEMA, 4)
    draft.replace_networks("pod-cidrs", ranges)
    delete, *rest = draft.messages()
    assert delete.command == DELSETELEM
    assert listed(delete) == []
    found: dict[bytes, bytes] = {}
    for message in rest:
        _reader(layouts(4)["pod-cidrs"])(dict(attributes(message.payload))[3], found)
    assert found == dict(boundaries(ranges))


def answer(*backends: Backend, **more: object) -> Answer:
    return Answer("default/web", "random", Pool(backends), **more)  # type: ignore[arg-type]


def named(frontend: Frontend, entry: Entry) -> dict[str, list[tuple[bytes, bytes]]]:
    found: dict[str, list[tuple[bytes, bytes]]] = {}
    for name, element, held in elements(frontend, entry, lambda pick: pick.number or 99):
        found.setdefault(name, []).append((element, held))
    return found


def test_elements_of_a_plain_frontend() -> None:
    made = make_entry(WEB, answer(Backend("10.1.0.1", 8080), Backend("10.1.0.2", 8080, 0)))
    assert made.slots == endpoint_value(4, Backend("10.1.0.1", 8080))
    assert named(WEB, made) == {"services": [(frontend_key(WEB), number(0x10001))]}


def test_elements_of_a_rich_frontend() -> None:
    here, there = Backend("10.1.0.1", 8080, local=True), Backend("10.1.0.2", 8080)
    rich = answer(
        here,
        there,
        outside=Pool((here,)),
        affinity=60,
        masquerade="off-cluster",
        source_ranges=("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"),
    )
    found = named(WEB, make_entry(WEB, rich))
    key = frontend_key(WEB)
    assert found["services"] == [(key, number(0x00FF_0005))]
    assert found["inside"] == [(key, number(0x11_0002))]
    assert found["outside"] == [(key, number(0x31_0001))]
    assert found["masquerade-off-cluster"] == [(key, b"")]
    assert found["affinity-timeouts"] == [(key, goto("remember-60"))]
    assert len(found["sticky-endpoints"]) == 2
    assert found["source-ranges"] == [(key + bytes([10, 0, 0, 0]), key + bytes([11, 255, 255, 255]))]


def test_nobody_there() -> None:
    assert named(WEB, make_entry(WEB, answer()))["services"][0][1] == number(0x00FF_0001)
    nobody = Answer("default/web", "random", Pool((), "drop"), Pool())
    found = named(WEB, make_entry(WEB, nobody))
    assert [found[name][0][1] for name in ("inside", "outside")] == [number(0x00FF_0002), number(0x00FF_0001)]


def test_a_node_port_has_sets_of_its_own() -> None:
    frontend = Frontend(6, NODE_PORT, "tcp", 30000)
    made = make_entry(frontend, answer(Backend("fd00::1", 80), masquerade="always"))
    assert named(frontend, made).keys() == {"node-port-services", "node-port-masquerade-all"}


def test_hairpins_are_local_backends_that_get_connections() -> None:
    local = [Backend("fd00::2", 53, weight, local=True) for weight in (0, 1)]
    made = make_entry(SIX, answer(local[0], Backend("fd00::3", 53)))
    assert list(hairpins(SIX, made)) == []
    made = make_entry(SIX, answer(Backend("fd00::3", 53), outside=Pool((local[1],))))
    assert [len(pair) for pair in hairpins(SIX, made)] == [32]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_slot_changes_lead_from_old_to_new(old: bytes, new: bytes) -> None:
    old, new = old[: len(old) & ~3], new[: len(new) & ~3]
    slots = {index: old[4 * index : 4 * index + 4] for index in range(len(old) // 4)}
    for slot, before, after in slot_changes(old, new, 4):
        assert before != after
        assert slots.get(slot, b"") == before
        slots[slot] = after
    assert b"".join(slots[index] for index in sorted(slots)) == new
