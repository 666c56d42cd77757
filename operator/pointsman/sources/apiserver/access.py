"""How to get at an API server: its address, its certificate, and who we are to it.

Everything comes from the official client's loaders: kubeconfig files with tokens, token files, client certificates,
exec plugins and OIDC, and the files that a Pod finds (`kubernetes.aio.config`). They load once; `Credentials` has them
load again what may have changed, and no more: an exec plugin that asks a cloud is not run each minute.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from pointsman.sources.protocol import SourceError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config.kube_config import KubeConfigLoader

_HTTPS: Final = 443
_PATIENCE: Final = 30.0
"""Seconds that an exec plugin or an OIDC issuer may take."""

_NO_ROOM: Final = "let there be one for the certificates in the file: by TMPDIR, or as an emptyDir at /tmp"
"""What to do in a container whose file system is read-only: OpenSSL reads certificates from files alone."""


class Access(msgspec.Struct, frozen=True):
    """Which API server, and as whom.

    Attributes:
        kubeconfig: file to read; None with `in_cluster`.
        context: context of the kubeconfig; None for its current one.
        in_cluster: use the ServiceAccount of the Pod that this process runs in.
        server: URL to use instead of the one that is found. A Service proxy in a Pod needs it: the address that it
            finds there is a cluster IP, which answers only when the proxy has programmed it.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False
    server: str | None = None


class Credentials:
    """The configuration that `access` leads to, loaded as often as wanted."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._loader: KubeConfigLoader | None = None
        self._file_state: tuple[int, int] | None = None
        self._configuration: Configuration | None = None

    async def load(self, *, refused: bool = False) -> Configuration:
        """Load the configuration, as it is now.

        Files of tokens and certificates are read each time, the kubeconfig file when it has changed. An exec plugin
        runs when its token has ended or the API server has `refused` its credentials, as in client-go; many do not say
        when they end. A refreshed OIDC token is kept: some issuers take each refresh token only once.

        Raises:
            SourceError: something is missing or cannot be read; the message names the file and the remedy.
        """
        access = self._access
        where = "--in-cluster" if access.kubeconfig is None else f"--kubeconfig {access.kubeconfig}"
        try:
            async with asyncio.timeout(_PATIENCE):
                configuration = await self._load(where, refused=refused)
        except SourceError:
            raise
        except TimeoutError as error:
            raise SourceError(f"{where}: no credentials within {_PATIENCE:g} s; {_remedy(access)}") from error
        except Exception as error:
            # The loaders raise whatever a malformed file makes them stumble over.
            remedy = _NO_ROOM if "temporary directory" in str(error) else _remedy(access)
            raise SourceError(f"{where}: {_said(error)}; {remedy}") from error
        if access.server is not None:
            configuration.host = _url(access.server)
        self._configuration = configuration
        return configuration

    async def _load(self, where: str, *, refused: bool) -> Configuration:
        from kubernetes.aio.client import Configuration  # noqa: PLC0415 (takes 0.3 s; only for those who need it)

        configuration = Configuration()
        # Cluster CAs without an authority key identifier are common and good enough for client-go; Python 3.13 is
        # stricter (kubernetes-client/python#2394). Chain, dates and host name are verified all the same.
        configuration.disable_strict_ssl_verification = True
        if self._access.kubeconfig is None:
            _load_in_cluster(configuration, self._access.server)
        elif not await self._load_kubeconfig(configuration, self._access.kubeconfig, refused=refused):
            return self._configuration or configuration
        _trim_token(configuration, where)
        return configuration

    async def _load_kubeconfig(self, configuration: Configuration, file: Path, *, refused: bool) -> bool:
        """Load from a kubeconfig file; return False when what was loaded before is to be kept."""
        state = await asyncio.to_thread(_state, file)
        loader = self._loader
        if loader is None or state != self._file_state or (refused and loader.provider is None):
            loader = await _fresh(configuration, file, self._access.context)
        elif _plugin(loader) and not hasattr(loader, "exec_plugin_expiry"):
            return False
        else:
            await loader.load_and_set(configuration)
        if not configuration.host or configuration.host == "http://localhost":
            raise SourceError(f"--kubeconfig {file}: names no server; write clusters[].cluster.server")
        if _plugin(loader) and not (configuration.api_key or configuration.cert_file):
            raise SourceError(
                f"--kubeconfig {file}: the exec plugin {_plugin(loader)} gave no credentials (the message before this "
                "one says why); run it by hand, or correct users[].user.exec"
            )
        self._loader, self._file_state = loader, state
        return True


async def load(access: Access) -> Configuration:
    """Load the official client's configuration, once.

    Raises:
        SourceError: as `Credentials.load` does.
    """
    return await Credentials(access).load()


async def _fresh(configuration: Configuration, file: Path, context: str | None) -> KubeConfigLoader:
    import yaml  # noqa: PLC0415 (as above)
    from kubernetes.aio.config import load_kube_config  # noqa: PLC0415 (as above)

    try:
        document = yaml.safe_load(await asyncio.to_thread(file.read_bytes))
    except yaml.YAMLError as error:
        # Not the error as a whole: it quotes the text, in which there are keys.
        mark = getattr(error, "problem_mark", None)
        at = f" (line {mark.line + 1})" if mark is not None else ""
        raise SourceError(f"--kubeconfig {file}: is no YAML{at}; correct it, or name another file") from None
    if not isinstance(document, dict):
        what = "is empty" if document is None else "is no kubeconfig"
        raise SourceError(f"--kubeconfig {file}: {what}; name another file")
    loader: KubeConfigLoader = await load_kube_config(
        str(file), context, client_configuration=configuration, persist_config=False
    )
    return loader


def _state(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
        with file.open("rb"):
            return found.st_mtime_ns, found.st_ino
    except OSError as error:
        raise SourceError(f"--kubeconfig {file}: cannot read the file ({error.strerror}); name another one") from error


def _plugin(loader: KubeConfigLoader) -> str:
    """Return the command of the exec plugin, or "" when there is none."""
    user = loader._user  # noqa: SLF001 (nothing else says so; the loader's own refresh_token reads it, too)
    return str(user["exec"].safe_get("command")) if user is not None and "exec" in user else ""


def _trim_token(configuration: Configuration, where: str) -> None:
    """Take the newline at the end of a token file away; HTTP has no header with a newline."""
    if (token := configuration.api_key.get("BearerToken")) is None:
        return
    configuration.api_key["BearerToken"] = token.strip()
    if not token.strip().isprintable():
        raise SourceError(f"{where}: the token has a control character in it (a newline?); correct it")


def _url(server: str) -> str:
    try:
        url = urlsplit(server)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise SourceError(f"--server {server}: not a URL; write https://HOST:PORT")
    return server.rstrip("/")


def _load_in_cluster(configuration: Configuration, server: str | None) -> None:
    from kubernetes.aio.config import incluster_config  # noqa: PLC0415 (as above)

    environ = dict(os.environ)
    if server is not None:
        url = urlsplit(_url(server))
        environ[incluster_config.SERVICE_HOST_ENV_NAME] = url.hostname or ""
        environ[incluster_config.SERVICE_PORT_ENV_NAME] = str(url.port or _HTTPS)
    loader = incluster_config.InClusterConfigLoader(
        token_filename=incluster_config.SERVICE_TOKEN_FILENAME,
        cert_filename=incluster_config.SERVICE_CERT_FILENAME,
        try_refresh_token=False,
        environ=environ,
    )
    loader.load_and_set(configuration)


def _said(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _remedy(access: Access) -> str:
    if access.kubeconfig is None:
        return "run in a Pod with a ServiceAccount, or name a file by --kubeconfig"
    return "correct the file, or name another one or another --context"
