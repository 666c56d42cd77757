"""Plain requests to the lab's API server from anywhere on the machine: only the sockets live in a namespace."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec

from pointsman.lab.controlplane.commands import ADDRESS, API_PORT
from pointsman.lab.namespaces import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from pointsman.lab.namespaces import Namespace

Document = dict[str, Any]
"""An object of Kubernetes as JSON has it."""

_MERGE: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_TIMEOUT: Final = 30.0
_PAUSE: Final = 0.2
"""Seconds until the API server is asked again that has no time."""


class ApiRefusedError(LabError):
    """The API server answered with an error.

    Attributes:
        status: of HTTP.
        answer: the Status object, or what there was.
    """

    def __init__(self, status: int, answer: Document, what: str) -> None:
        super().__init__(f"{what}: {status} {answer.get('message', answer)}")
        self.status = status
        self.answer = answer


class ApiAwayError(LabError):
    """The API server did not answer."""


class Api:
    """Talks to the API server as one user; may be used by many threads.

    Every request has a connection of its own, so there is none to go stale when the API server is killed.
    """

    def __init__(self, namespace: Namespace, authority: Path, certificate: Path, key: Path) -> None:
        """Prepare for a user.

        Args:
            namespace: where connections begin.
            authority: certificate of the API server's authority.
            certificate: the user's.
            key: the user's.
        """
        self._namespace = namespace
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(certificate, key)

    @classmethod
    def of_administrator(cls, namespace: Namespace, keys: Path) -> Self:
        """Talk as administrator, with the files of a control plane's directory of keys."""
        return cls(namespace, keys / "ca.crt", keys / "admin.crt", keys / "admin.key")

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Read an object or a list.

        Raises:
            ApiRefusedError: the API server refuses.
            ApiAwayError: it does not answer. Both hold for all methods.
        """
        return self._request("GET", _with_query(path, query))

    def find(self, path: str) -> Document | None:
        """Read an object that need not be there."""
        try:
            found: Document = self.get(path)
        except ApiRefusedError as refusal:
            if refusal.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    def create(self, path: str, document: Document) -> Document:
        """Make an object; the path is that of its list."""
        made: Document = self._request("POST", path, document)
        return made

    def replace(self, path: str, document: Document) -> Document:
        """Write an object anew."""
        made: Document = self._request("PUT", path, document)
        return made

    def patch(self, path: str, changes: Document, *, kind: str = _MERGE) -> Document:
        """Change a part of an object: by a merge patch, unless another kind is said."""
        made: Document = self._request("PATCH", path, changes, kind)
        return made

    def delete(self, path: str, options: Document | None = None) -> None:
        """Delete an object; one that is gone already is passed by."""
        try:
            self._request("DELETE", path, options)
        except ApiRefusedError as refusal:
            if refusal.status != http.HTTPStatus.NOT_FOUND:
                raise

    def is_ready(self) -> bool:
        """Tell whether the API server is ready to serve."""
        try:
            return self._exchange("GET", "/readyz", None, _JSON, 2.0)[0] == http.HTTPStatus.OK
        except ApiAwayError:
            return False

    def watch(self, path: str, query: Mapping[str, str], *, timeout: float) -> Watch:
        """Follow a list from a resourceVersion on; see `Watch`.

        Args:
            path: of the list.
            query: parameters such as ``resourceVersion``.
            timeout: seconds of silence after which it ends.
        """
        return Watch(self._connection(timeout), _with_query(path, {**query, "watch": "1"}))

    def _request(self, method: str, path: str, body: Document | None = None, kind: str = _JSON) -> Any:  # noqa: ANN401 - JSON
        deadline = time.monotonic() + _TIMEOUT
        while True:
            status, answer = self._exchange(method, path, body, kind, _TIMEOUT)
            if status != http.HTTPStatus.TOO_MANY_REQUESTS or time.monotonic() >= deadline:
                break
            # A custom resource that has just come, say: its storage is not ready yet. Every client of Kubernetes waits.
            time.sleep(_PAUSE)
        document = _decode(answer)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiRefusedError(status, document, f"{method} {path}")
        return document

    def _exchange(self, method: str, path: str, body: Document | None, kind: str, timeout: float) -> tuple[int, bytes]:
        connection = self._connection(timeout)
        try:
            encoded = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, encoded, {"Content-Type": kind, "Accept": _JSON})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiAwayError(f"{method} {path}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self, timeout: float) -> _Connection:
        return _Connection(self._namespace, self._tls, timeout)


class Watch:
    """The events of a list; iterate over it."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._closed = False

    def __iter__(self) -> Iterator[Document]:
        """Yield watch events until the server ends the watch, is silent for too long, or `close` is called.

        Raises:
            ApiRefusedError: the API server refuses.
            ApiAwayError: it does not answer, or the connection broke.
        """
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise ApiRefusedError(response.status, _decode(response.read()), f"watch {self._path}")
            while not self._closed and (line := response.readline()):
                yield msgspec.json.decode(line)
        except TimeoutError:
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            # ValueError: cut off within a line
            raise ApiAwayError(f"watch {self._path}: {str(error) or type(error).__name__}") from error
        finally:
            self._connection.close()

    def close(self) -> None:
        """End it, from any thread."""
        self._closed = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Connection(http.client.HTTPSConnection):
    """A connection that begins in a namespace."""

    def __init__(self, namespace: Namespace, tls: ssl.SSLContext, timeout: float) -> None:
        super().__init__(ADDRESS, API_PORT, timeout=timeout, context=tls)
        self._from = namespace
        self._tls = tls

    def connect(self) -> None:
        plain = self._from.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            plain.settimeout(self.timeout)
            plain.connect((self.host, self.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise


def _with_query(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _decode(answer: bytes) -> Document:
    try:
        decoded: Document = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return {"message": answer.decode("utf-8", "replace").strip()}
    return decoded
