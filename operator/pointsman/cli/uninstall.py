"""``pointsman uninstall``: take the agents off all nodes, with what they put into the kernels."""

from __future__ import annotations

from typing import Annotated

import typer

from pointsman.api.names import AGENT_DAEMON_SET
from pointsman.cli.access import Context, InCluster, Kubeconfig, Server, Timeout, access_of
from pointsman.cli.output import fail


def command(
    *,
    kubeconfig: Kubeconfig = None,
    in_cluster: InCluster = False,
    context: Context = None,
    server: Server = None,
    namespace: Annotated[str, typer.Option(metavar="NAME", help="Namespace of the agents.")] = "pointsman-system",
    daemonset: Annotated[str, typer.Option(metavar="NAME", help="DaemonSet of the agents.")] = AGENT_DAEMON_SET,
    timeout: Timeout = 120.0,
) -> None:
    """Delete the agents' DaemonSet and wait until every agent is gone.

    Agents that run with --clean-up-with remove their rules at their end; Services stop answering on these nodes. The
    exit status is 1 when agents are left after --timeout; the rules there stay in force.
    """
    access = access_of(kubeconfig, context, server, in_cluster=in_cluster)
    from pointsman.install.patience import InstallError  # noqa: PLC0415 (`pointsman --help` needs none of it)
    from pointsman.install.run import uninstall_agents  # noqa: PLC0415 (as above)

    try:
        uninstall_agents(access, namespace, daemonset, timeout, typer.echo)
    except InstallError as error:
        fail("uninstall", error)
