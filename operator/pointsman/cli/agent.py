"""``pointsman agent``: the node agent, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, access_of
from pointsman.cli.loading import node_name_of
from pointsman.cli.node import METRICS, SYSCTLS, SysctlRoot
from pointsman.cli.output import LogFormat, fail

if TYPE_CHECKING:
    from pointsman.agent.options import AgentOptions
    from pointsman.sources.apiserver.access import Access

Manifests = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Directory of manifests (YAML or JSON) to follow, with those below it."),
]
FirstConfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the ProxyConfig to use until this node has a NodeProxy.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep the last NodeProxy there, for a start without the API server."),
]
CleanUpWith = Annotated[
    str,
    typer.Option(
        metavar="DAEMONSET",
        help="DaemonSet of this agent, in --namespace: stopped because that is deleted, it removes its rules.",
    ),
]
HealthzAddress = Annotated[
    str, typer.Option(metavar="IP:PORT", help="Where /healthz and /livez answer; '' for nowhere.")
]
MetricsAddress = Annotated[
    str, typer.Option(metavar="IP:PORT", help="Where /metrics, /proxyMode and /connections answer; '' for nowhere.")
]
ConnectionMetrics = Annotated[
    int,
    typer.Option(metavar="LIMIT", min=0, help="So many series of Services' connections in /metrics; 0 for none."),
]


def command(
    *,
    node_name: Annotated[str, typer.Option(metavar="NAME", help="Name of this node.", callback=node_name_of)],
    manifests: Manifests = None,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    config: FirstConfig = None,
    state_dir: StateDir = None,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="Namespace of the agents' Leases.")
    ] = "pointsman-system",
    clean_up_with: CleanUpWith = "",
    sysctl_root: SysctlRoot = SYSCTLS,
    healthz_address: HealthzAddress = "0.0.0.0:10256",
    metrics_address: MetricsAddress = METRICS,
    connection_metrics: ConnectionMetrics = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every sync.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Follow Services and EndpointSlices, and program this node's kernel. Stopping it leaves the rules in force.

    Objects come from --manifests, or from the API server that --kubeconfig or --in-cluster names.
    """
    from pointsman.agent.options import AgentOptions  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.process.logs import configure  # noqa: PLC0415 (as above)

    source = _source(manifests, kubeconfig, context, server, in_cluster=in_cluster)
    if clean_up_with and manifests is not None:
        raise typer.BadParameter("--clean-up-with asks an API server; leave it out with --manifests")
    configure(log_format, verbose=verbose)
    options = AgentOptions(
        source=source,
        node_name=node_name,
        config=config,
        healthz_address=healthz_address,
        metrics_address=metrics_address,
        state_dir=state_dir,
        namespace=namespace,
        clean_up_with=clean_up_with,
        sysctl_root=sysctl_root,
        connection_metrics=connection_metrics,
    )
    _run(options)


def _run(options: AgentOptions) -> None:
    from pointsman.agent.run import run  # noqa: PLC0415 (as above)
    from pointsman.agent.startup import AgentError  # noqa: PLC0415 (as above)

    try:
        run(options)
    except AgentError as error:
        fail("agent", error)


def _source(
    manifests: Path | None, kubeconfig: Path | None, context: str | None, server: str | None, *, in_cluster: bool
) -> Path | Access:
    if (manifests is not None) + (kubeconfig is not None) + in_cluster != 1:
        raise typer.BadParameter("name one source of objects: --manifests DIR, --kubeconfig FILE or --in-cluster")
    if manifests is None:
        return access_of(kubeconfig, context, server, in_cluster=in_cluster)
    for flag, value in (("--server", server), ("--context", context)):
        if value is not None:
            raise typer.BadParameter(f"{flag} is of an API server; leave it out with --manifests")
    return manifests
