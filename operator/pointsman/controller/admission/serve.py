"""The webhook as a whole: its certificates and its server, beside each other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from pointsman.controller.admission.fresh import SecondLook
from pointsman.controller.admission.secret import CertificateKeeper
from pointsman.controller.admission.server import AdmissionServer
from pointsman.controller.admission.tls import ServingCertificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman.controller.admission.picture import Picture
    from pointsman.controller.metrics import OperatorMetrics
    from pointsman.sources.apiserver.client import ApiClient


class AdmissionOptions(msgspec.Struct, frozen=True):
    """How the webhook is served.

    Attributes:
        host: address to listen at.
        port: to listen at.
        names: DNS names and IP addresses that the API server calls it by; `service_names` gives those of a Service.
        namespace: of the operator, where the Secret with the certificates is.
        makes_certificates: make and renew them; False: somebody else (cert-manager) fills the Secret.
    """

    host: str
    port: int
    names: tuple[str, ...]
    namespace: str = "pointsman-system"
    makes_certificates: bool = True


def service_names(service: str, namespace: str) -> tuple[str, str]:
    """Return the DNS names of a Service; the API server calls a webhook by the first."""
    return f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"


async def serve_admission(
    picture: Picture,
    client: ApiClient,
    options: AdmissionOptions,
    *,
    is_filled: Callable[[], bool],
    leads: Callable[[], bool],
    metrics: OperatorMetrics,
) -> None:
    """Serve the webhook until cancelled.

    Args:
        picture: the cluster, for the rules; kept up by others in the same event loop.
        client: speaks to the API server.
        options: how.
        is_filled: tells whether the picture is complete.
        leads: tells whether this replica leads: the leader renews certificates, all serve.
        metrics: count reviews, and know when the certificate ends.

    Raises:
        OSError: the address cannot be bound.
    """
    certificate = ServingCertificate()
    metrics.watch_certificate(lambda: certificate.end)
    keeper = CertificateKeeper(
        client,
        certificate,
        namespace=options.namespace,
        hosts=options.names,
        makes=options.makes_certificates,
        leads=leads,
        clock=lambda: datetime.now(UTC),
    )
    server = AdmissionServer(
        picture,
        certificate,
        is_filled=is_filled,
        host=options.host,
        port=options.port,
        confirm=SecondLook(client, picture),
        count=metrics.count_review,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keeper.run(), name="webhook certificates")
        tasks.create_task(server.run(), name="webhook server")
