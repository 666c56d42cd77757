"""How to get at an API server: its address, its certificate, and who we are to it.

Everything comes from the official client's loaders: kubeconfig files with tokens, token files, client certificates,
exec plugins and OIDC, and the files that a Pod finds (`kubernetes.aio.config`).
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

_HTTPS: Final = 443


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


async def load(access: Access) -> Configuration:
    """Load the official client's configuration.

    Raises:
        SourceError: something is missing or cannot be read; the message names the file and the remedy.
    """
    from kubernetes.aio.client import Configuration  # noqa: PLC0415 (takes 0.3 s; only for those who need it)

    configuration = Configuration()
    try:
        if access.kubeconfig is None:
            _load_in_cluster(configuration, access.server)
        else:
            await _load_kubeconfig(configuration, access.kubeconfig, access.context)
    except SourceError:
        raise
    except Exception as error:
        # The loaders raise whatever a malformed file makes them stumble over.
        where = "--in-cluster" if access.kubeconfig is None else f"--kubeconfig {access.kubeconfig}"
        raise SourceError(f"{where}: {_said(error)}; {_remedy(access)}") from error
    if access.server is not None:
        configuration.host = access.server.rstrip("/")
    return configuration


async def _load_kubeconfig(configuration: Configuration, file: Path, context: str | None) -> None:
    from kubernetes.aio.config import load_kube_config  # noqa: PLC0415 (as above)

    try:
        await asyncio.to_thread(file.read_bytes)
    except OSError as error:
        raise SourceError(f"--kubeconfig {file}: cannot read the file ({error.strerror}); name another one") from error
    await load_kube_config(str(file), context, client_configuration=configuration, persist_config=False)
    if not configuration.host or configuration.host == "http://localhost":
        raise SourceError(f"--kubeconfig {file}: names no server; write clusters[].cluster.server")


def _load_in_cluster(configuration: Configuration, server: str | None) -> None:
    from kubernetes.aio.config import incluster_config  # noqa: PLC0415 (as above)

    environ = dict(os.environ)
    if server is not None:
        url = urlsplit(server)
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
