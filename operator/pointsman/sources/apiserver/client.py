"""Requests to an API server over the official client's connection: bytes in, bytes out.

The official client brings address, TLS and authentication. Its typed models are left out: they take ten times the time
and memory of the structs that the policy needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import aiohttp
import msgspec
from kubernetes.aio.client.rest import RESTClientObject

from pointsman import __version__
from pointsman.sources.apiserver.access import Access, Credentials
from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from kubernetes.aio.client import Configuration

PatchKind = Literal["merge", "json", "apply"]
_PATCH_TYPES: Final[dict[PatchKind, str]] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
_CONNECT_TIMEOUT: Final = 10.0
_READ_TIMEOUT: Final = 30.0
"""Seconds in which an answer has to go on; a watch, which is quiet for minutes, has none."""
_RELOAD: Final = 60.0
"""Seconds after which credentials are read again: tokens of ServiceAccounts are renewed in their file (client-go
reads it once a minute, too)."""
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""A peer that is gone without a word is noticed within 25 s, on a quiet connection and on a busy one (tcp(7))."""
_LOG: Final = logging.getLogger(__name__)
_JSON: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Form of an answer: a list with nothing but the metadata of its objects."""
_OK_STATUSES: Final = range(200, 300)
_UNAUTHORIZED: Final = 401
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses of an API server that starts, ends or has too much to do, and of a load balancer before it."""


class ApiError(Exception):
    """The API server answered with an error.

    Attributes:
        status: of HTTP.
        reason: as `metav1.Status` names it (``Forbidden``, ``Expired``), or "".
        message: as the API server says it.
        retry_after: seconds to wait before the next try, if it says so.
    """

    def __init__(self, status: int, reason: str = "", message: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{message or reason or 'no reason given'} ({status})")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered a moment later."""
        return self.status in _PASSING


class Unreachable(OSError):  # noqa: N818 (a state of the server, as ConnectionRefusedError would be one)
    """The API server does not answer; the message says why."""


class _Call(NamedTuple):
    """One request."""

    method: str
    path: str
    params: Mapping[str, str] | None = None
    data: bytes | None = None
    content_type: str | None = None
    may_be_quiet: bool = False
    accept: str = _JSON


class _Status(msgspec.Struct):
    """As much of `metav1.Status` as is told."""

    reason: str | None = None
    message: str | None = None


class _Connection(RESTClientObject):
    """The official client's connection, with sockets that notice a silent peer."""

    def session(self) -> aiohttp.ClientSession:
        """Return the session; it is made by the first call."""
        if self.pool_manager is None:
            self.pool_manager = self._create_pool_manager()
        session: aiohttp.ClientSession = self.pool_manager
        return session

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, ssl=self.ssl_context, socket_factory=_socket)


def _socket(address: Any) -> socket.socket:  # noqa: ANN401 (aiohttp's AddrInfoType, which it does not export)
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEP_ALIVE:
        made.setsockopt(level, option, value)
    return made


@asynccontextmanager
async def connect(access: Access) -> AsyncGenerator[ApiClient]:
    """Load the configuration and offer a client; nothing is sent yet.

    Raises:
        SourceError: the configuration cannot be loaded.
    """
    credentials = Credentials(access)
    client = ApiClient(credentials, await credentials.load())
    try:
        yield client
    finally:
        await client.close()


class ApiClient:
    """Speaks to one API server; used in one event loop.

    Paths begin with ``/api/`` or ``/apis/``; bodies are plain data or msgspec structs. Each method may raise `ApiError`
    (an answer that is an error), `Unreachable` (no answer) or `SourceError` (the credentials cannot be read any more).
    Credentials are read again once a minute, and when the API server refuses them.
    """

    def __init__(self, credentials: Credentials, configuration: Configuration) -> None:
        self._credentials = credentials
        self._renewing = asyncio.Lock()
        self._loaded_at = time.monotonic()
        self._use(configuration, _fingerprint(configuration))

    @property
    def configuration(self) -> Configuration:
        """The official client's configuration in use, for what speaks to the API server by itself."""
        return self._configuration

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None, accept: str = _JSON) -> bytes:
        """Read an object or a list; `accept` is the form of the answer."""
        return await self._request("GET", path, params, accept=accept)

    async def post(self, path: str, body: object, params: Mapping[str, str] | None = None) -> bytes:
        """Create an object."""
        return await self._request("POST", path, params, body, "application/json")

    async def put(self, path: str, body: object, params: Mapping[str, str] | None = None) -> bytes:
        """Replace an object."""
        return await self._request("PUT", path, params, body, "application/json")

    async def patch(
        self, path: str, body: object, kind: PatchKind = "merge", params: Mapping[str, str] | None = None
    ) -> bytes:
        """Change an object: by a JSON merge patch, a JSON patch, or server-side apply."""
        return await self._request("PATCH", path, params, body, _PATCH_TYPES[kind])

    async def delete(self, path: str, params: Mapping[str, str] | None = None, body: object = None) -> bytes:
        """Delete an object; `body` are `metav1.DeleteOptions`."""
        return await self._request("DELETE", path, params, body, "application/json" if body is not None else None)

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """Follow a list: one line a watch event, until the API server ends it."""
        response = await self._open(_Call("GET", path, {**params, "watch": "true"}, may_be_quiet=True))
        try:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield line
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object = None,
        kind: str | None = None,
        *,
        accept: str = _JSON,
    ) -> bytes:
        data = msgspec.json.encode(body) if body is not None else None
        response = await self._open(_Call(method, path, params, data, kind, accept=accept))
        try:
            return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            response.release()

    async def _open(self, call: _Call) -> aiohttp.ClientResponse:
        """Send a request; refused credentials are read again, once."""
        if time.monotonic() - self._loaded_at >= _RELOAD:
            await self._renew(refused=False)
        sent_as = self._identity
        response = await self._send(call)
        if response.status == _UNAUTHORIZED and await self._has_other_than(sent_as):
            response.release()
            response = await self._send(call)
        if response.status in _OK_STATUSES:
            return response
        raise await self._refusal(response)

    async def _send(self, call: _Call) -> aiohttp.ClientResponse:
        configuration = self._configuration
        read_timeout = None if call.may_be_quiet else _READ_TIMEOUT
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=read_timeout)
        headers = {"Accept": call.accept, "User-Agent": f"pointsman/{__version__}"}
        if token := configuration.api_key.get("BearerToken"):
            headers["Authorization"] = token
        if call.content_type is not None:
            headers["Content-Type"] = call.content_type
        try:
            return await self._connection.session().request(
                call.method,
                f"{self.server}{call.path}",
                params=call.params,
                data=call.data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                server_hostname=configuration.tls_server_name,
                proxy=configuration.proxy,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> ApiError:
        try:
            body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            body = b""
        finally:
            response.release()
        try:
            said = msgspec.json.decode(body, type=_Status)
        except msgspec.DecodeError:
            # A proxy in between, or a server that is starting: what it says is for people.
            said = _Status(message=body.decode(errors="replace").strip()[:200] or response.reason)
        return ApiError(response.status, said.reason or "", said.message or "", _seconds(response))

    async def _has_other_than(self, refused: tuple[str | None, str]) -> bool:
        """Tell whether there are other credentials than those that were refused.

        Many requests are refused at once when a token ends: the first one has it renewed, the others wait for that.
        """
        async with self._renewing:
            if self._identity == refused:
                await self._renew(refused=True)
            return self._identity != refused

    async def _renew(self, *, refused: bool) -> None:
        """Read the credentials again.

        A renewal that fails keeps the old ones: they may well be good still, and the API server says if they are not.
        """
        self._loaded_at = time.monotonic()
        try:
            configuration = await self._credentials.load(refused=refused)
            fingerprint = await asyncio.to_thread(_fingerprint, configuration)
            if fingerprint == self._identity[1]:
                self._configuration = configuration
                return
            old = self._connection
            self._use(configuration, fingerprint)
        except SourceError as error:
            _LOG.warning("the credentials are not renewed, the old ones stay in use: %s", error)
            return
        await old.close()  # watches on it break, and go on over the new one

    @property
    def _identity(self) -> tuple[str | None, str]:
        """What tells who we are to the API server: the token, and the fingerprint of the connection."""
        return self._configuration.api_key.get("BearerToken"), self._fingerprint

    def _use(self, configuration: Configuration, fingerprint: str) -> None:
        try:
            self._connection = _Connection(configuration)
        except OSError as error:
            raise SourceError(f"cannot use the certificates of the configuration: {error}; correct them") from error
        self._configuration = configuration
        self._fingerprint = fingerprint

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self.server}: {str(error) or type(error).__name__}")


def _fingerprint(configuration: Configuration) -> str:
    """Tell two configurations apart that need different connections; files are renewed in place.

    Raises:
        SourceError: a file of the configuration cannot be read.
    """
    digest = hashlib.sha256(
        repr(
            (configuration.host, configuration.verify_ssl, configuration.tls_server_name, configuration.proxy)
        ).encode()
    )
    for name in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file):
        try:
            digest.update(Path(name).read_bytes() if name else b"-")
        except OSError as error:
            raise SourceError(f"{name}: cannot read the file ({error.strerror}); correct the configuration") from error
    return digest.hexdigest()


def _seconds(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
