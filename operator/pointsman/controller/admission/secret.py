"""Keeping the webhook's certificates: in a Secret that all replicas share, in this process, and in `caBundle`.

Every replica reads the Secret again and again and serves what it says. Whoever finds none makes it; the API server
lets one of several win, and the others read that one's. The leader alone renews what comes to its end, and keeps
`caBundle` of the ValidatingWebhookConfiguration true. A Secret with a certificate but without the authority's key is
somebody else's (cert-manager): it is served, and never written.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.api.names import WEBHOOK_CONFIGURATION, WEBHOOK_SECRET
from pointsman.controller.admission.bundle import (
    CONFIGURATIONS,
    StoredCredentials,
    bundle_patch,
    read_secret,
    secret_document,
    secret_patch,
)
from pointsman.controller.admission.certificates import Credentials, renewed
from pointsman.sources.apiserver.client import ApiError, Unreachable
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pointsman.controller.admission.tls import ServingCertificate
    from pointsman.sources.apiserver.client import ApiClient

_LOG: Final = logging.getLogger(__name__)
INTERVAL: Final = 10.0
"""Seconds from one look to the next: a replica serves a new certificate, and a wiped caBundle is back, that soon."""
_SOON: Final = 1.0
"""Seconds to the next look while there is nothing to serve."""
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_UNPROCESSABLE: Final = 422


class CertificateKeeper:
    """Keeps the certificates of one replica.

    Args:
        client: speaks to the API server.
        serving: gets each new certificate.
        namespace: the operator's, where the Secret is.
        hosts: names and addresses that the API server calls the webhook by.
        makes: make and renew certificates; False: wait for somebody else to fill the Secret, and only read it.
        leads: tells whether this replica is the one that renews.
        clock: tells the time, with a time zone.
    """

    def __init__(
        self,
        client: ApiClient,
        serving: ServingCertificate,
        *,
        namespace: str,
        hosts: Sequence[str],
        makes: bool,
        leads: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._serving = serving
        self._namespace = namespace
        self._secrets = f"/api/v1/namespaces/{namespace}/secrets"
        self._hosts = tuple(hosts)
        self._makes = makes
        self._leads = leads
        self._clock = clock
        self._led = False
        self._trouble = ""

    async def run(self) -> None:
        """Look after the certificates until cancelled; what goes wrong is logged once, and tried again."""
        while True:
            self._led = self._leads()
            try:
                await self.look()
            except (ApiError, Unreachable, SourceError, msgspec.DecodeError, ssl.SSLError) as error:
                self._say(f"cannot look after the webhook's certificates: {error}")
            await self._pause()

    async def _pause(self) -> None:
        """Wait for the next look; a replica that has just begun to lead takes it soon: only leaders write caBundle."""
        for _ in range(round(INTERVAL / _SOON)):
            await asyncio.sleep(_SOON)
            if not self._serving.is_loaded or (self._leads() and not self._led):
                return

    async def look(self) -> None:
        """Take one look, and do what is due.

        Raises:
            ApiError: the API server refused something.
            Unreachable: it does not answer.
            msgspec.DecodeError: it answered something else than asked.
            ssl.SSLError: the Secret holds what cannot be served.
        """
        stored = await self._stored()
        if stored is None or (not stored.is_of_another and self._leads()):
            stored = await self._advance(stored)
        if stored is None or not stored.credentials.certificate:
            self._say(f"Secret {self._namespace}/{WEBHOOK_SECRET} holds no certificate yet: waiting for it")
            return
        if self._serving.load(stored.credentials):
            _LOG.info("serving the webhook's certificate that ends at %s", self._serving.end)
        self._say(await self._keep_bundle(stored.credentials) if self._leads() else "")

    async def _stored(self) -> StoredCredentials | None:
        try:
            return read_secret(await self._client.get(f"{self._secrets}/{WEBHOOK_SECRET}"))
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return None

    async def _advance(self, stored: StoredCredentials | None) -> StoredCredentials | None:
        """Make or renew what is due, and return what the Secret holds then."""
        if not self._makes:
            return stored
        current = stored.credentials if stored is not None else None
        wanted = renewed(current, self._hosts, self._clock())
        if stored is not None and wanted is current:
            return stored
        version = stored.version if stored is not None else ""
        try:
            await self._write(wanted, version)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            return await self._stored()  # another replica was first: its certificates are as good
        _LOG.info("wrote certificates of the webhook into Secret %s/%s", self._namespace, WEBHOOK_SECRET)
        return StoredCredentials(wanted, version)

    async def _write(self, credentials: Credentials, version: str) -> None:
        if version:
            change = secret_patch(credentials, version)
            await self._client.patch(f"{self._secrets}/{WEBHOOK_SECRET}", change, kind="merge")
        else:
            await self._client.post(self._secrets, secret_document(self._namespace, credentials))

    async def _keep_bundle(self, credentials: Credentials) -> str:
        """Write `caBundle` where it is not true, and return what stands against it."""
        if not credentials.authorities:
            return ""  # whoever made the certificates says none: the API server's own trust has to do
        path = f"{CONFIGURATIONS}/{WEBHOOK_CONFIGURATION}"
        try:
            patch = bundle_patch(await self._client.get(path), credentials.authorities)
            if patch:
                await self._client.patch(path, patch, kind="json")
                _LOG.info("wrote caBundle of ValidatingWebhookConfiguration %s", WEBHOOK_CONFIGURATION)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return f"there is no ValidatingWebhookConfiguration {WEBHOOK_CONFIGURATION}: nothing asks the webhook"
            if error.status not in (_CONFLICT, _UNPROCESSABLE):  # these: somebody changed it just now; next time
                raise
        return ""

    def _say(self, trouble: str) -> None:
        """Log trouble, once as long as it stays the same; "" is none."""
        if trouble and trouble != self._trouble:
            _LOG.warning("%s", trouble)
        self._trouble = trouble
