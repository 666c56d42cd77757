"""The certificates' life, step by step, with the time passed in; each step is checked by a real verifier."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pointsman.controller.admission.certificates import (
    AUTHORITY_LIFE,
    OVERLAP,
    SERVING_LIFE,
    Credentials,
    end_of,
    is_usable,
    renewed,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOSTS = ("pointsman-webhook.pointsman-system.svc", "192.0.2.1", "fd00::1")
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def trusted_by(authorities: bytes, credentials: Credentials, now: datetime, host: str = HOSTS[0]) -> bool:
    """Verify as a TLS client does."""
    store = Store(x509.load_pem_x509_certificates(authorities))
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(host))
    try:
        verifier.verify(x509.load_pem_x509_certificate(credentials.certificate), [])
    except VerificationError:
        return False
    return True


def count(credentials: Credentials) -> int:
    return len(x509.load_pem_x509_certificates(credentials.authorities))


def test_first_ones_are_made_and_trusted() -> None:
    made = renewed(None, HOSTS, NOW)
    assert is_usable(made, NOW)
    assert trusted_by(made.authorities, made, NOW)
    assert not trusted_by(made.authorities, made, NOW, "somebody.else.svc")
    assert end_of(made) == NOW + SERVING_LIFE


def test_names_and_addresses_are_in_the_certificate() -> None:
    leaf = x509.load_pem_x509_certificate(renewed(None, HOSTS, NOW).certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOSTS[0]]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "fd00::1"]


def test_nothing_is_done_before_it_is_due() -> None:
    made = renewed(None, HOSTS, NOW)
    assert renewed(made, HOSTS, NOW + DAY * 200) is made


def test_clocks_may_differ_by_minutes() -> None:
    made = renewed(None, HOSTS, NOW)
    assert renewed(made, HOSTS, NOW - 5 * MINUTE) is made
    assert is_usable(made, NOW - 5 * MINUTE)


def test_a_serving_certificate_is_renewed_at_two_thirds_by_the_same_authority() -> None:
    made = renewed(None, HOSTS, NOW)
    later = NOW + DAY * 244
    after = renewed(made, HOSTS, later)
    assert after.certificate != made.certificate
    assert (after.authorities, after.authority_key) == (made.authorities, made.authority_key)
    assert trusted_by(made.authorities, after, later)


def test_an_expired_one_is_replaced() -> None:
    made = renewed(None, HOSTS, NOW)
    later = NOW + DAY * 366
    assert not is_usable(made, later)
    after = renewed(made, HOSTS, later)
    assert is_usable(after, later)
    assert after.authorities == made.authorities


def test_other_hosts_need_another_one() -> None:
    made = renewed(None, HOSTS, NOW)
    after = renewed(made, [*HOSTS, "webhook.example.org"], NOW + MINUTE)
    assert after.authorities == made.authorities
    assert trusted_by(after.authorities, after, NOW + MINUTE, "webhook.example.org")
    assert renewed(after, HOSTS, NOW + 2 * MINUTE) is after


def test_an_authority_is_replaced_with_an_overlap_so_that_every_client_trusts_at_every_time() -> None:
    credentials = renewed(None, HOSTS, NOW)
    authority, counts = credentials.authorities, []
    moment, step = NOW, OVERLAP / 4
    while moment < NOW + AUTHORITY_LIFE * 2 / 3 - 2 * DAY:
        credentials, moment = renewed(credentials, HOSTS, moment), moment + DAY * 30
    moment = NOW + AUTHORITY_LIFE * 2 / 3 - DAY
    behind = credentials.authorities  # what a client trusts that learns of changes late
    for _ in range(200):
        after = renewed(credentials, HOSTS, moment)
        assert trusted_by(behind, after, moment), "a client that is one step behind trusts what is served"
        assert trusted_by(after.authorities, credentials, moment), "and one that is ahead trusts what was served"
        behind, credentials = after.authorities, after
        counts.append(count(after))
        moment += step
    assert [number for number, _ in itertools.groupby(counts)] == [1, 2, 1]
    assert credentials.authorities != authority


@pytest.mark.parametrize(
    "broken",
    [
        Credentials(b"", b"", b"", b""),
        Credentials(b"x", b"y", b"z", b"a"),
        Credentials(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"", b"", b""),
    ],
)
def test_what_cannot_be_read_is_replaced(broken: Credentials) -> None:
    assert not is_usable(broken, NOW)
    assert is_usable(renewed(broken, HOSTS, NOW), NOW)


def test_a_key_of_another_is_replaced() -> None:
    one, other = renewed(None, HOSTS, NOW), renewed(None, HOSTS, NOW)
    mixed = one._replace(key=other.key)
    assert not is_usable(mixed, NOW)
    after = renewed(mixed, HOSTS, NOW)
    assert is_usable(after, NOW)
    assert after.authorities == one.authorities


def test_an_expired_authority_is_replaced_at_once() -> None:
    made = renewed(None, HOSTS, NOW)
    later = NOW + AUTHORITY_LIFE + DAY
    after = renewed(made, HOSTS, later)
    assert count(after) == 1
    assert trusted_by(after.authorities, after, later)


def test_an_authority_of_ones_own_may_lack_what_ours_has() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plain")])
    plain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY * 3650)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    brought = Credentials(b"", b"", plain.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form))
    made = renewed(brought, HOSTS, NOW)
    assert made.authorities == brought.authorities
    x509.load_pem_x509_certificate(made.certificate).verify_directly_issued_by(plain)
