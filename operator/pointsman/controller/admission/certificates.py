"""The webhook's certificates: an authority of its own, and a serving certificate that it signs; pure, time passed in.

An authority that comes to its end is replaced in three steps, so that at no moment a client meets a certificate that it
does not trust: the new authority is published beside the old one; once it had `OVERLAP` to spread, the serving
certificate is made anew with it; `OVERLAP` later the old one is dropped. Each step follows from the certificates' own
dates alone: whichever replica leads, and however often it restarts, takes the same one.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AUTHORITY_LIFE: Final = timedelta(days=3650)
SERVING_LIFE: Final = timedelta(days=365)
OVERLAP: Final = timedelta(hours=1)
"""How long an authority is published before anything that it signed is served, and after that is served no more."""
BACKDATED: Final = timedelta(minutes=10)
"""Certificates are valid from before they were made: clocks differ."""

_ORGANIZATION: Final = "pointsman"


class Credentials(NamedTuple):
    """What the Secret holds, all PEM.

    Attributes:
        certificate: the serving certificate, with intermediate ones behind it if there are any.
        key: its private key.
        authorities: the authorities that clients have to trust, newest first; empty when whoever made them says none.
        authority_key: the newest authority's private key; empty when somebody else makes the certificates.
    """

    certificate: bytes
    key: bytes
    authorities: bytes = b""
    authority_key: bytes = b""


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def is_usable(credentials: Credentials, now: datetime) -> bool:
    """Tell whether these can be served: they can be read, key and certificate are a pair, and it is their time."""
    leaf = _serving(credentials)
    return leaf is not None and leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc


def needs_renewal(certificate: x509.Certificate, now: datetime) -> bool:
    """Tell whether two thirds of a certificate's life are over."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_before_utc + life * 2 / 3


def renewed(credentials: Credentials | None, hosts: Sequence[str], now: datetime) -> Credentials:
    """Take the next step of the certificates' life, if one is due.

    Args:
        credentials: those of now; None or unreadable ones are replaced as a whole.
        hosts: DNS names and IP addresses that the webhook is called by.
        now: the time, with a time zone.

    Returns:
        The same object when nothing is due.
    """
    authority = _authority(credentials) if credentials is not None else None
    if credentials is None or authority is None or not _alive(authority.certificate, now):
        return _all_new(hosts, now)
    leaf, authorities = _serving(credentials), _read_all(credentials.authorities)
    served_by = next((ca for ca in authorities if leaf is not None and _signed(ca, leaf)), None)
    if leaf is None or served_by is None or not _alive(leaf, now) or not _covers(leaf, hosts):
        return _reissued(credentials, authority, hosts, now)
    if served_by != authority.certificate:
        spread = now >= _made(authority.certificate) + OVERLAP
        return _reissued(credentials, authority, hosts, now) if spread else credentials
    return _renewed_in_time(credentials, authority, leaf, hosts, now)


def _renewed_in_time(
    credentials: Credentials, authority: _Authority, leaf: x509.Certificate, hosts: Sequence[str], now: datetime
) -> Credentials:
    """Take the next step where the newest authority has signed what is served, and all is valid."""
    if needs_renewal(authority.certificate, now):
        return _with_new_authority(credentials, now)
    if needs_renewal(leaf, now):
        return _reissued(credentials, authority, hosts, now)
    newest = _pem([authority.certificate])
    if credentials.authorities != newest and now >= _made(leaf) + OVERLAP:
        return credentials._replace(authorities=newest)
    return credentials


def end_of(credentials: Credentials) -> datetime | None:
    """Return when the serving certificate ends, or None when it cannot be read."""
    leaf = _serving(credentials)
    return leaf.not_valid_after_utc if leaf is not None else None


def _all_new(hosts: Sequence[str], now: datetime) -> Credentials:
    authority = _make_authority(now)
    certificate, key = _make_serving(authority, hosts, now)
    return Credentials(certificate, key, _pem([authority.certificate]), _key_pem(authority.key))


def _with_new_authority(credentials: Credentials, now: datetime) -> Credentials:
    authority = _make_authority(now)
    authorities = [authority.certificate, *(ca for ca in _read_all(credentials.authorities) if _alive(ca, now))]
    return credentials._replace(authorities=_pem(authorities), authority_key=_key_pem(authority.key))


def _reissued(credentials: Credentials, authority: _Authority, hosts: Sequence[str], now: datetime) -> Credentials:
    certificate, key = _make_serving(authority, hosts, now)
    return credentials._replace(certificate=certificate, key=key)


def _make_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # The date tells authorities apart for people; their keys' identifiers do for programs.
    name = _name(f"pointsman-webhook-ca {now.astimezone(UTC):%Y-%m-%d}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, key)


def _make_serving(authority: _Authority, hosts: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Never longer than the authority: a chain ends with its first link.
    life = min(SERVING_LIFE, authority.certificate.not_valid_after_utc - now)
    certificate = (
        _builder(_name("pointsman-webhook"), authority.certificate.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(hosts)), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _pem([certificate]), _key_pem(key)


def _issued_by(authority: _Authority) -> x509.AuthorityKeyIdentifier:
    """Name the authority's key; one that somebody brought along may not say how it is called."""
    try:
        named = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    attributes = ((NameOID.ORGANIZATION_NAME, _ORGANIZATION), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _general_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    return [_general_name(host) for host in dict.fromkeys(hosts)]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _covers(leaf: x509.Certificate, hosts: Iterable[str]) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(_general_names(hosts)) <= set(names)


def _alive(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _made(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_before_utc + BACKDATED


def _signed(authority: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _serving(credentials: Credentials) -> x509.Certificate | None:
    """Read the serving certificate; None when it or its key cannot be read, or they are no pair."""
    chain = _read_all(credentials.certificate)
    try:
        key = serialization.load_pem_private_key(credentials.key, password=None)
        return chain[0] if chain and key.public_key() == chain[0].public_key() else None
    except (ValueError, TypeError):
        return None


def _authority(credentials: Credentials) -> _Authority | None:
    """Read the newest authority; None when it or its key cannot be read, or they are no pair."""
    authorities = _read_all(credentials.authorities)
    try:
        key = serialization.load_pem_private_key(credentials.authority_key, password=None)
    except (ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not authorities:
        return None
    return _Authority(authorities[0], key) if key.public_key() == authorities[0].public_key() else None


def _read_all(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
