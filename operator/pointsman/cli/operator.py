"""``pointsman operator``: one replica of the operator, in the foreground."""

from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, access_of
from pointsman.cli.output import LogFormat, fail

if TYPE_CHECKING:
    from pointsman.controller.options import OperatorOptions

OfReplica = Annotated[
    str, typer.Option(metavar="NAME", help="Name of this replica, no other's; made of the host's by default.")
]
WebhookHosts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Name or address that the API server calls the webhook by; may be given several times."
    ),
]
WebhookCertificates = Annotated[
    Literal["own", "secret"],
    typer.Option(help="Make and renew the webhook's certificates, or wait for somebody else to fill the Secret."),
]


def command(
    *,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="Namespace of the operator: Leases, and the webhook's Secret.")
    ] = "pointsman-system",
    identity: OfReplica = "",
    webhook_address: Annotated[
        str, typer.Option(metavar="IP:PORT", help="Where the admission webhook answers; '' for nowhere.")
    ] = "0.0.0.0:9443",
    webhook_host: WebhookHosts = None,
    webhook_certificates: WebhookCertificates = "own",
    healthz_address: Annotated[
        str,
        typer.Option(metavar="IP:PORT", help="Where /healthz, /livez, /readyz and /metrics answer; '' for nowhere."),
    ] = "0.0.0.0:8080",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every decision.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Turn ProxyConfigs into one NodeProxy a node, gather what the nodes report, and serve the admission webhook.

    Any number of replicas may run: one leads, all serve. Stopping it changes nothing on any node.
    """
    access = access_of(kubeconfig, context, server, in_cluster=in_cluster)
    from pointsman.controller.options import OperatorOptions  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.process.logs import configure  # noqa: PLC0415 (as above)

    configure(log_format, verbose=verbose)
    options = OperatorOptions(
        access=access,
        identity=identity or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        namespace=namespace,
        webhook_address=webhook_address,
        webhook_hosts=tuple(webhook_host or ()),
        makes_certificates=webhook_certificates == "own",
        healthz_address=healthz_address,
    )
    _run(options)


def _run(options: OperatorOptions) -> None:
    from pointsman.controller.run import OperatorError, run  # noqa: PLC0415 (as above)

    try:
        run(options)
    except OperatorError as error:
        fail("operator", error)
