"""Real TLS on loopback: the certificate is replaced under clients that keep coming."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pointsman.controller.admission.certificates import Credentials, renewed
from pointsman.controller.admission.tls import ServingCertificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = dt.datetime.now(dt.UTC)
HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def echo(serving: ServingCertificate) -> AsyncIterator[int]:
    """Listen with the certificate; answers each line with itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        await end(writer)

    server = await asyncio.start_server(answer, HOST, 0, ssl=serving.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def connect(
    port: int, authorities: bytes, name: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cadata=authorities.decode())
    return await asyncio.open_connection(HOST, port, ssl=context, server_hostname=name or HOST)


async def shown_certificate(port: int, authorities: bytes, name: str | None = None) -> bytes:
    _, writer = await connect(port, authorities, name)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await end(writer)
    return shown


async def end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is closed: what is left of it when a loop ends is told as a fault."""
    writer.close()
    with contextlib.suppress(OSError):  # ssl's errors are among them
        await writer.wait_closed()


def der(credentials: Credentials) -> bytes:
    return ssl.PEM_cert_to_DER_cert(credentials.certificate.decode())


def rsa_credentials() -> Credentials:
    """Make a self-signed RSA certificate, as another issuer may."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(certificate, pem, certificate)


def test_before_there_is_a_certificate_handshakes_fail() -> None:
    async def scenario() -> None:
        async with echo(ServingCertificate()) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect(port, renewed(None, [HOST], NOW).authorities)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", [None, "localhost"])
def test_new_connections_get_the_new_certificate_and_old_ones_go_on(name: str | None) -> None:
    async def scenario() -> None:
        serving, one = ServingCertificate(), renewed(None, [HOST, "localhost"], NOW)
        assert serving.load(one)
        async with echo(serving) as port:
            assert await shown_certificate(port, one.authorities, name) == der(one)
            reader, writer = await connect(port, one.authorities, name)
            two = renewed(None, [HOST, "localhost"], NOW)
            assert serving.load(two)
            assert not serving.load(two)
            assert await shown_certificate(port, two.authorities, name) == der(two)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(port, one.authorities, name)
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            await end(writer)

    asyncio.run(scenario())


def test_clients_that_keep_connecting_are_never_refused_while_certificates_change() -> None:
    async def scenario() -> None:
        serving, first = ServingCertificate(), renewed(None, [HOST], NOW)
        serving.load(first)
        months = iter(range(8, 800, 8))
        async with echo(serving) as port:
            shown = set()
            for _ in range(60):
                serving.load(renewed(first, [HOST, f"host-{next(months)}.example.org"], NOW))
                shown.add(await shown_certificate(port, first.authorities))
            assert len(shown) == 60

    asyncio.run(scenario())


def test_an_expired_certificate_is_replaced_without_a_restart() -> None:
    async def scenario() -> None:
        serving = ServingCertificate()
        old = renewed(None, [HOST], NOW - dt.timedelta(days=400))
        serving.load(old)
        async with echo(serving) as port:
            with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
                await connect(port, old.authorities)
            serving.load(renewed(old, [HOST], NOW))
            await shown_certificate(port, old.authorities)

    asyncio.run(scenario())


def test_a_certificate_of_another_kind_of_key_takes_over() -> None:
    async def scenario() -> None:
        serving, other = ServingCertificate(), rsa_credentials()
        serving.load(renewed(None, ["localhost"], NOW))
        async with echo(serving) as port:
            serving.load(other)
            assert await shown_certificate(port, other.authorities, "localhost") == der(other)

    asyncio.run(scenario())


def test_a_pair_that_is_none_leaves_the_old_one() -> None:
    async def scenario() -> None:
        serving, one = ServingCertificate(), renewed(None, [HOST], NOW)
        serving.load(one)
        for bad in (one._replace(key=rsa_credentials().key), one._replace(key=b""), one._replace(certificate=b"x")):
            with pytest.raises(ssl.SSLError):
                serving.load(bad)
        async with echo(serving) as port:
            assert await shown_certificate(port, one.authorities) == der(one)

    asyncio.run(scenario())


def test_old_versions_of_tls_are_refused() -> None:
    async def scenario() -> None:
        serving, one = ServingCertificate(), renewed(None, [HOST], NOW)
        serving.load(one)
        context = ssl.create_default_context(cadata=one.authorities.decode())
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        async with echo(serving) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(HOST, port, ssl=context)

    asyncio.run(scenario())


def test_it_knows_when_what_it_serves_ends() -> None:
    serving = ServingCertificate()
    assert serving.end is None
    credentials = renewed(None, [HOST], NOW)
    serving.load(credentials)
    (certificate,) = x509.load_pem_x509_certificates(credentials.certificate)
    assert serving.end == certificate.not_valid_after_utc
    with pytest.raises(ssl.SSLError):
        serving.load(credentials._replace(certificate=b"no certificate"))
    assert serving.end == certificate.not_valid_after_utc, "it goes on with the one before"
