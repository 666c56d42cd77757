"""Kubeconfig files: who a client is, and how it knows the API server; pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import yaml

from pointsman.lab.controlplane.commands import SERVER

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.lab.controlplane.pki import KeyPair


def with_certificate(authority: bytes, pair: KeyPair) -> str:
    """Write the kubeconfig of a client with a certificate of its own.

    Args:
        authority: certificate of the API server's authority, PEM.
        pair: the client's.
    """
    return _document(
        authority, {"client-certificate-data": _data(pair.certificate), "client-key-data": _data(pair.key)}
    )


def with_token_file(authority: bytes, file: Path) -> str:
    """Write the kubeconfig of a client whose token is in a file, and may change there."""
    return _document(authority, {"tokenFile": str(file)})


def _document(authority: bytes, user: dict[str, str]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "lab", "cluster": {"server": SERVER, "certificate-authority-data": _data(authority)}}
            ],
            "users": [{"name": "lab", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        },
        sort_keys=False,
    )


def _data(content: bytes) -> str:
    return base64.b64encode(content).decode()
