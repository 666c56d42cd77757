"""Certificates and keys of the control plane, made anew for each."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

_VALID: Final = dt.timedelta(days=30)
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)


class KeyPair(msgspec.Struct, frozen=True):
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority.

    Attributes:
        certificate: its own, in PEM.
    """

    def __init__(self, name: str, now: dt.datetime) -> None:
        """Make one.

        Args:
            name: its common name.
            now: from when on its certificates are good.
        """
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._now = now
        own = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = self._sign(own)

    def client(self, user: str, *groups: str) -> KeyPair:
        """Issue a certificate that a user (CN) of groups (O) shows to the API server."""
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        name = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def server(self, name: str, also: Iterable[str]) -> KeyPair:
        """Issue a certificate for a server, good for host names and IP addresses."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._issue(subject, ExtendedKeyUsageOID.SERVER_AUTH, map(_general_name, also))

    def _issue(self, name: x509.Name, usage: x509.ObjectIdentifier, also: Iterable[x509.GeneralName]) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key.public_key()).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if others := list(also):
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        return KeyPair(self._sign(builder), pem_of(key))

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + _VALID)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signing_key() -> KeyPair:
    """Make the key that signs the tokens of ServiceAccounts; the certificate's place holds the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(public, pem_of(key))


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key in the form that Go reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
