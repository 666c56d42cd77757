"""The Secret with the webhook's certificates, and the `caBundle` that tells the API server whom to trust; pure."""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

import msgspec

from pointsman.api.names import WEBHOOK_SECRET
from pointsman.controller.admission.certificates import Credentials

CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

_CERTIFICATE: Final = "tls.crt"
_KEY: Final = "tls.key"
_AUTHORITIES: Final = "ca.crt"
_AUTHORITY_KEY: Final = "ca.key"


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Secret(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] | None = None


class _ClientConfig(msgspec.Struct, rename="camel"):
    ca_bundle: str = ""


class _Webhook(msgspec.Struct, rename="camel"):
    name: str
    client_config: _ClientConfig


class _Configuration(msgspec.Struct):
    webhooks: list[_Webhook] | None = None


class StoredCredentials(NamedTuple):
    """What a Secret holds.

    Attributes:
        credentials: as they are written; parts that are absent are empty.
        version: the Secret's resourceVersion.
    """

    credentials: Credentials
    version: str

    @property
    def is_of_another(self) -> bool:
        """Somebody else fills it (cert-manager): there is a certificate, and no key of the authority."""
        return bool(self.credentials.certificate) and not self.credentials.authority_key


def read_secret(body: bytes) -> StoredCredentials:
    """Read the Secret as the API server gives it; data that is no base64 counts as absent.

    Raises:
        msgspec.DecodeError: it is no Secret.
    """
    secret = msgspec.json.decode(body, type=_Secret)
    data = secret.data or {}
    parts = (_decoded(data.get(key, "")) for key in (_CERTIFICATE, _KEY, _AUTHORITIES, _AUTHORITY_KEY))
    return StoredCredentials(Credentials(*parts), secret.metadata.resource_version)


def secret_document(namespace: str, credentials: Credentials) -> dict[str, object]:
    """Write a new Secret.

    Args:
        namespace: the operator's.
        credentials: what it shall hold.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": WEBHOOK_SECRET,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "pointsman", "app.kubernetes.io/component": "operator"},
        },
        "data": _data(credentials),
    }


def secret_patch(credentials: Credentials, version: str) -> dict[str, object]:
    """Write the change of a Secret that exists, as a merge patch: its labels, owner and type stay.

    Args:
        credentials: what it shall hold.
        version: the resourceVersion that it has; the API server refuses when it is another by then.
    """
    return {"metadata": {"resourceVersion": version}, "data": _data(credentials)}


def bundle_patch(configuration: bytes, authorities: bytes) -> list[dict[str, object]]:
    """Say what has to change in the ValidatingWebhookConfiguration for the API server to trust these authorities.

    Args:
        configuration: the object as the API server gives it.
        authorities: PEM.

    Returns:
        A JSON patch; empty when nothing has to. It fails, and changes nothing, when the webhooks are others by then.

    Raises:
        msgspec.DecodeError: it is no ValidatingWebhookConfiguration.
    """
    wanted = _encoded(authorities)
    patch: list[dict[str, object]] = []
    for index, webhook in enumerate(msgspec.json.decode(configuration, type=_Configuration).webhooks or ()):
        if webhook.client_config.ca_bundle != wanted:
            path = f"/webhooks/{index}"
            patch.append({"op": "test", "path": f"{path}/name", "value": webhook.name})
            patch.append({"op": "add", "path": f"{path}/clientConfig/caBundle", "value": wanted})
    return patch


def _data(credentials: Credentials) -> dict[str, str]:
    parts = zip((_CERTIFICATE, _KEY, _AUTHORITIES, _AUTHORITY_KEY), credentials, strict=True)
    return {key: _encoded(part) for key, part in parts}


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
