"""Requests to etcd by its JSON gateway."""

from __future__ import annotations

import base64
import http.client
import socket
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.lab.controlplane.commands import ETCD_PORT
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman.lab.controlplane.api import Document
    from pointsman.lab.namespaces import Namespace

_AT_ONCE: Final = 100
"""Writes in one transaction; etcd takes 128."""


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


def put_all(namespace: Namespace, objects: Iterable[tuple[str, Document]]) -> None:
    """Write objects past the API server, which takes minutes for ten thousand of them; it hears of them at once.

    Nothing is checked, defaulted or allocated: they have to be as the API server would have stored them.

    Args:
        namespace: where etcd runs.
        objects: each with its key, as ``/registry/services/specs/default/web``.

    Raises:
        LabError: it does not answer, or refuses.
    """
    for some in _parts(objects, _AT_ONCE):
        puts = [{"requestPut": {"key": _text(key), "value": _text(msgspec.json.encode(each))}} for key, each in some]
        _ask(namespace, "/v3/kv/txn", {"success": puts})


def _parts(objects: Iterable[tuple[str, Document]], count: int) -> Iterator[list[tuple[str, Document]]]:
    """Part objects into lists of at most `count`."""
    rest = iter(objects)
    while some := list(islice(rest, count)):
        yield some


def _text(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()
