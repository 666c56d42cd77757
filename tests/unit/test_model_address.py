"""Canonical addresses and networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model.address import canonical_address, canonical_cidr, family_of, why_special


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("010.000.00.01", "10.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("fd00::1", "fd00::1"),
        ("FD00:0:0:0::1", "fd00::1"),
        ("2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("1:0::2", "1::2"),
        ("1::0:2", "1::2"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("1:2:3::4:5:6:7", "1:2:3:0:4:5:6:7"),
        ("1:2:3:4:5:6::7", "1:2:3:4:5:6:0:7"),
        ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
        ("::", "::"),
        ("::1", "::1"),
    ],
)
def test_addresses_have_one_form(written: str, canonical: str) -> None:
    assert canonical_address(written) == canonical


@pytest.mark.parametrize(
    "written",
    ["", "10.0.0", "10.0.0.256", "10.0.0.1.2", "10.0.0.-1", "10.0.0.1 ", "1e1.0.0.1", "10.0.0.٣", "web", "::g", ":::",
     "1:2:3:4:5:6:7:8:9", "fe80::1%eth0", "10.0.0.0/8", "10.0..1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_address(written)


GROUPS = st.lists(st.sampled_from([0, 0, 0, 1, 0x10, 0xABC, 0xFFFF]), min_size=8, max_size=8)


@given(GROUPS, st.booleans())
def test_ipv6_agrees_with_the_standard_library(groups: list[int], upper: bool) -> None:  # noqa: FBT001 -- Hypothesis
    text = ":".join(f"{group:x}" for group in groups)
    parsed = ipaddress.IPv6Address(text)
    expected = str(parsed.ipv4_mapped or parsed)
    assert canonical_address(text.upper() if upper else text) == expected
    assert canonical_address(str(parsed)) == expected
    assert canonical_address(expected) == expected


@given(st.lists(st.one_of(st.just(""), st.sampled_from(["0", "1", "10", "00", "ffff", "g"])), min_size=1, max_size=10))
def test_no_ipv6_is_taken_that_the_standard_library_refuses(parts: list[str]) -> None:
    text = ":".join(parts)
    try:
        parsed = ipaddress.IPv6Address(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            canonical_address(text)
    else:
        assert canonical_address(text) == str(parsed.ipv4_mapped or parsed)


@given(st.ip_addresses(v=4))
def test_ipv4_stays_as_it_is(address: ipaddress.IPv4Address) -> None:
    assert canonical_address(str(address)) == str(address)
    assert canonical_address(".".join(octet.zfill(3) for octet in str(address).split("."))) == str(address)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (" 203.0.113.0/25 ", "203.0.113.0/25"),
        ("203.0.113.9/25", "203.0.113.0/25"),
        ("010.0.0.0/08", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00:0::/64", "fd00::/64"),
        ("::/0", "::/0"),
    ],
)
def test_networks_have_one_form(written: str, canonical: str) -> None:
    assert canonical_cidr(written) == canonical


@pytest.mark.parametrize(
    "written", ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/255.0.0.0", "fd00::/129", "::ffff:10.0.0.0/104", "/8"]
)
def test_what_is_no_network_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_cidr(written)


def test_the_family_of_addresses_and_networks() -> None:
    assert [family_of(text) for text in ("10.0.0.1", "10.0.0.0/8", "fd00::1", "::/0")] == [4, 4, 6, 6]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "the unspecified address"),
        ("127.0.0.1", "a loopback address"),
        ("169.254.1.1", "a link-local address"),
        ("224.0.0.1", "a link-local address"),
        ("::", "the unspecified address"),
        ("::1", "a loopback address"),
        ("fe80::1", "a link-local address"),
        ("ff02::1", "a link-local address"),
        ("10.0.0.1", ""),
        ("12.7.0.1", ""),
        ("169.253.1.1", ""),
        ("fd00::1", ""),
        ("::5", ""),
    ],
)
def test_addresses_that_no_other_node_reaches(address: str, reason: str) -> None:
    assert why_special(address) == reason
