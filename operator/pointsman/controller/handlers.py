"""What Kopf follows: Nodes, Namespaces, ProxyConfigs and NodeProxies, by `on.event` handlers over the view.

Services, EndpointSlices and Endpoints come from the reflector that the agents have too (`pointsman.controller.follow`).
Measured with Kopf 1.45.2 on two cores: an `on.event` handler that does nothing takes 1 ms of CPU an object, so that
10,000 Services with 10,000 EndpointSlices cost 20.8 s and 233 MiB before the operator has done anything; it is to
start with them in 15 s and 300 MiB.

Kopf writes nothing: no finalizers, no annotations, no events, no peering objects.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import kopf

from pointsman.api.names import GROUP, VERSION
from pointsman.sources.apiserver.access import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubernetes.aio.client import Configuration

    from pointsman.model.objects import Kind
    from pointsman.sources.apiserver.access import Access

RESOURCES: Final[dict[Kind, tuple[str, ...]]] = {
    "Node": ("v1", "nodes"),
    "Namespace": ("v1", "namespaces"),
    "ProxyConfig": (GROUP, VERSION, "proxyconfigs"),
    "NodeProxy": (GROUP, VERSION, "nodeproxies"),
}
"""What Kopf follows, as its decorators name it."""
_RELOAD: Final = timedelta(seconds=60)
"""How long credentials are used before they are read again: tokens of ServiceAccounts are renewed in their file."""
_BACKOFFS: Final = (0.5, 1.0, 2.0, 2.0, 2.0)
"""Seconds between tries of a request: an API server that is back is noticed soon."""


def registry(access: Access, heard: Callable[[Kind, str | None, Mapping[str, Any]], None]) -> kopf.OperatorRegistry:
    """Build Kopf's registry.

    Args:
        access: how to get at the API server; loaded anew at each login.
        heard: called in Kopf's event loop with each event: its kind, its type (None for what a list has), the object.
    """
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    async def login(**_: object) -> kopf.ConnectionInfo:
        return connection_info(await load(access), datetime.now(UTC))

    for kind, resource in RESOURCES.items():
        _follow(made, kind, resource, heard)
    return made


def _follow(
    made: kopf.OperatorRegistry,
    kind: Kind,
    resource: tuple[str, ...],
    heard: Callable[[Kind, str | None, Mapping[str, Any]], None],
) -> None:
    @kopf.on.event(*resource, registry=made, id=f"{kind}-event")
    async def event(event: Mapping[str, Any], **_: object) -> None:
        heard(kind, event["type"], event["object"])


def settings() -> kopf.OperatorSettings:
    """Make Kopf's settings: it only listens."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.networking.error_backoffs = _BACKOFFS
    made.networking.request_timeout = 30.0
    made.networking.connect_timeout = 10.0
    # Kopf would kill the whole process when its own end takes long.
    made.process.ultimate_exiting_timeout = None
    return made


class _Connection(kopf.ConnectionInfo):
    """A connection that asks no more of the cluster's certificates than the official client's (see `load`)."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context; since Python 3.13 they are strict by default."""
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def connection_info(configuration: Configuration, now: datetime) -> kopf.ConnectionInfo:
    """Turn the official client's configuration into Kopf's."""
    scheme, _, token = (configuration.api_key.get("BearerToken") or "").rpartition(" ")
    return _Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        expiration=now + _RELOAD,
    )
