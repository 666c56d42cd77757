"""The webhook's side of TLS: a certificate that can be replaced while connections come in."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from pointsman.controller.admission.certificates import end_of

if TYPE_CHECKING:
    from datetime import datetime

    from pointsman.controller.admission.certificates import Credentials


class ServingCertificate:
    """The certificate that new connections get.

    The context that listens stays the same; it hands each handshake over to the newest certificate's own context.
    Loading another certificate into a live context would not do: it keeps one for each kind of key, so that an ECDSA
    certificate would go on being served after an RSA one replaced it, and a key that does not fit would leave it with
    the new certificate and the old key.

    Attributes:
        context: for the listening socket; handshakes fail until `load` was called.
        end: when the newest certificate ends; None before there is one.
    """

    def __init__(self) -> None:
        self.context = _context()
        self.context.sni_callback = self._hand_over
        self.end: datetime | None = None
        self._newest: ssl.SSLContext | None = None
        self._loaded: tuple[bytes, bytes] | None = None

    @property
    def is_loaded(self) -> bool:
        """There is a certificate to serve."""
        return self._newest is not None

    def load(self, credentials: Credentials) -> bool:
        """Serve this certificate from the next handshake on.

        Returns:
            Whether it is another one than before.

        Raises:
            ssl.SSLError: certificate and key cannot be read, or are no pair; the one before stays.
        """
        pair = (credentials.certificate, credentials.key)
        if pair == self._loaded:
            return False
        context = _context()
        _load(context, b"\n".join(pair))
        self._newest, self._loaded = context, pair
        self.end = end_of(credentials)
        return True

    def _hand_over(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> int | None:
        if self._newest is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._newest
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate and its key. OpenSSL reads files only; this one is in memory, never on a disk."""
    descriptor = os.memfd_create("pointsman-webhook-tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)


def _no_password() -> str:
    """Refuse an encrypted key, instead of asking on the terminal."""
    return ""
