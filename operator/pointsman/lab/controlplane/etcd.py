"""Requests to etcd by its JSON gateway."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

import msgspec

from pointsman.lab.controlplane.commands import ETCD_PORT
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.namespaces import Namespace


def compact(namespace: Namespace) -> int:
    """Make etcd forget all revisions before its newest.

    Args:
        namespace: where it runs.

    Returns:
        The newest revision.

    Raises:
        LabError: it does not answer, or refuses.
    """
    revision = int(_ask(namespace, "/v3/maintenance/status", {})["header"]["revision"])
    _ask(namespace, "/v3/kv/compaction", {"revision": str(revision), "physical": True})
    return revision


def _ask(namespace: Namespace, path: str, body: Document) -> Document:
    connection = http.client.HTTPConnection("127.0.0.1", ETCD_PORT)
    try:
        connection.sock = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.sock.settimeout(10)
        connection.sock.connect(("127.0.0.1", ETCD_PORT))
        connection.request("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LabError(f"etcd does not answer to {path}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise LabError(f"etcd refuses {path}: {response.status} {answer.decode('utf-8', 'replace')}")
    decoded: Document = msgspec.json.decode(answer)
    return decoded
